"""Cache of artifacts that `predict` and `serve` export from checkpoints.

Each entry is written and verified by `resnets export`. The name of its folder in the user cache is
a hash of the weights, the precision, the calibration data, the code of the exporter, the version
of the runtime and the processor. If verification failed, the entry contains the reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from resnets.config.aliases import read_json
from resnets.export.verify import EXIT_VERIFICATION_FAILED, VerificationError
from resnets.models import ImageClassifier
from resnets.runtime.artifact import (
    SUFFIXES,
    ArtifactKind,
    Precision,
    manifest_path,
    model_sha256,
    versions,
)
from resnets.utils.machine import environment

FAILURE_FILE = "failure.txt"
PACKAGE = Path(__file__).parents[1]
MAX_EXPORT_TIME = 86400.0  # seconds; older temporary folders are abandoned
MAX_ENTRIES = 16  # the least recently used one is removed first
SOURCE_FILES = (  # modules that decide the content of an artifact
    "runtime/artifact",
    "runtime/inference_module",
    "runtime/resize_graph",
    "export/write/classifier",
    "export/write/trace",
    "export/mixed_int8",
    "export/verify",
    "export/cache",
)
FLAGS: dict[Precision, str | None] = {"float32": None, "bfloat16": "--bf16", "int8": "--int8"}


@dataclass(frozen=True)
class ArtifactKey:
    """A variant of a model; calibrate, max_drop: as in `resnets export`, for int8."""

    kind: ArtifactKind
    precision: Precision
    calibrate: str | None = None
    max_drop: float = 0.5


class ArtifactCache:
    """The cache entry of one artifact of one model."""

    def __init__(self, model: ImageClassifier, key: ArtifactKey) -> None:
        self.key, self.model_sha256 = key, model_sha256(model)
        identity = {
            **asdict(key),
            "model": self.model_sha256,
            "data": _identify_data(key.calibrate),
            "environment": _environment(),
            "code": [(PACKAGE / f"{name}.py").read_text("utf-8") for name in SOURCE_FILES],
        }
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
        self.folder = cache_root() / name
        suffix = next(each for each, kind in SUFFIXES.items() if kind == key.kind)
        self.path = self.folder / f"model{suffix}"

    @property
    def ready(self) -> bool:
        """Whether the artifact exists and is readable."""
        return os.path.isfile(manifest_path(self.path))

    @property
    def failure(self) -> str | None:
        """Why verification failed, if it was tried."""
        try:
            return (self.folder / FAILURE_FILE).read_text("utf-8")
        except OSError:
            return None

    def use(self) -> Path:
        """Return the path of the artifact and mark it as recently used."""
        with suppress(OSError):  # owned by another user
            os.utime(self.folder)
        return self.path

    def remove(self) -> None:
        """Remove a damaged entry."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def make(self, source: str) -> None:
        """Export the checkpoint `source`; VerificationError with the reason on failure.

        Runs in its own process: tracing a model patches torch for all threads of a process, and a
        converter that runs out of memory does not end this one.
        """
        cache_root().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_root(), prefix=".making-") as folder:
            staging = Path(folder, "made")
            staging.mkdir()
            process = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "resnets",
                    *self._arguments(source, staging / self.path.name),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
            reason = lines[-1].removeprefix("resnets export: ")
            if process.returncode != 0:
                if process.returncode == EXIT_VERIFICATION_FAILED:  # others may be temporary
                    Path(staging, FAILURE_FILE).write_text(reason, "utf-8")
                    self._publish(staging)
                raise VerificationError(reason)
            manifest = read_json(manifest_path(staging / self.path.name), "manifest")
            if manifest["source"]["model_sha256"] != self.model_sha256:
                raise VerificationError(f"{source} changed during export")
            self._publish(staging)
        _remove_old_entries()

    def _arguments(self, source: str, out: Path) -> list[str]:
        flag, data = FLAGS[self.key.precision], self.key.calibrate
        arguments = ["export", source, "--to", self.key.kind, "--out", str(out)]
        arguments += [flag] if flag else []
        arguments += ["--calibrate", data] if data is not None else []
        return [*arguments, "--max-drop", str(self.key.max_drop)]

    def _publish(self, staging: Path) -> None:
        try:
            staging.rename(self.folder)
        except OSError:  # created by another process
            if not self.folder.is_dir():
                raise


def cache_root() -> Path:
    """The folder of all entries."""
    return environment.cache_folder() / "artifacts"


def load_speed(artifact: Path) -> float | None:
    """Return the measured speed relative to torch on this machine; None if not measured."""
    try:
        return float(_speed_file(artifact).read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_speed(artifact: Path, speed: float) -> None:
    """Store a measured speed; OSError if the cache is not writable."""
    file = _speed_file(artifact)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as staging:
        staging.write(f"{speed:.3f}")
        os.chmod(staging.name, 0o644)  # the cache may be shared
    os.replace(staging.name, file)


def _speed_file(artifact: Path) -> Path:
    sums = read_json(manifest_path(artifact), "manifest")["sha256"]
    identity = [sums, torch.get_num_threads(), *_environment()]
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    return environment.cache_folder() / "speeds" / name


def _environment() -> tuple[dict[str, str], str]:
    """Return package versions and processor."""
    return versions(), environment.cpu_flags()


def _remove_old_entries() -> None:
    ages = {}
    for each in cache_root().iterdir():
        with suppress(FileNotFoundError):  # removed by another process
            ages[each] = time.time() - each.stat().st_mtime
    complete = sorted(
        (each for each in ages if not each.name.startswith(".")), key=ages.__getitem__
    )
    abandoned = [
        each for each in ages if each.name.startswith(".") and ages[each] > MAX_EXPORT_TIME
    ]
    for old in [*complete[MAX_ENTRIES:], *abandoned]:
        shutil.rmtree(old, ignore_errors=True)


def _identify_data(data: str | None) -> list[str | int]:
    """Return path, size and modification time of a data set, to detect changes."""
    if data is None or not Path(data).exists():
        return [data or ""]
    stat = Path(data).resolve().stat()
    return [str(Path(data).resolve()), stat.st_size, stat.st_mtime_ns]
