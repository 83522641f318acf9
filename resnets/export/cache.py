"""Artifacts that `predict` and `serve` made of a checkpoint for themselves, kept for the next time.

Each is what `resnets export` writes, proof included, in a folder of the user's cache whose name
follows from the net's weights, the precision, what calibrated it, the code that writes it, the
runtime's version and the processor. What did not prove itself leaves its reason there.
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

from resnets.export.verify import REFUSED, VerificationError
from resnets.models import Net
from resnets.runtime.artifact import SUFFIXES, Kind, Precision, card_of, digest_of_net, versions
from resnets.utils import environment

REASON = "refused.txt"
PACKAGE = Path(__file__).parents[1]
DAY = 86400.0  # seconds, in which whoever makes one has ended
MOST = 16  # folders kept; the one that was not used for longest goes first
CODE = (  # what an artifact depends on, below the package
    *("runtime/artifact", "runtime/fold_batch_norm", "runtime/graph", "runtime/resize_graph"),
    *("export/write", "export/mixed_precision", "export/verify", "export/cache"),
)
FLAGS: dict[Precision, str | None] = {"float32": None, "bfloat16": "--bf16", "int8": "--int8"}


@dataclass(frozen=True)
class ArtifactKey:
    """What to have of a net. calibrate, max_drop: as `resnets export` takes them, for int8."""

    kind: Kind
    precision: Precision
    calibrate: str | None = None
    max_drop: float = 0.5


class ArtifactCache:
    """The folder of one artifact of one net."""

    def __init__(self, net: Net, wanted: ArtifactKey) -> None:
        self.wanted, self.net = wanted, digest_of_net(net)
        told = {
            **asdict(wanted),
            "net": self.net,
            "data": _state_of(wanted.calibrate),
            "here": _here(),
            "code": [(PACKAGE / f"{name}.py").read_text("utf-8") for name in CODE],
        }
        key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]
        self.folder = root() / key
        suffix = next(each for each, kind in SUFFIXES.items() if kind == wanted.kind)
        self.path = self.folder / f"net{suffix}"

    @property
    def ready(self) -> bool:
        """Whether it is there, and this user may see it."""
        return os.path.isfile(card_of(self.path))

    @property
    def refusal(self) -> str | None:
        """Why it did not prove itself, when that was tried."""
        try:
            return (self.folder / REASON).read_text("utf-8")
        except OSError:
            return None

    def use(self) -> Path:
        """The artifact, marked as used now."""
        with suppress(OSError):  # it is another user's
            os.utime(self.folder)
        return self.path

    def forget(self) -> None:
        """Remove it: it is damaged."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def make(self, where: str) -> None:
        """Export the checkpoint `where`; Refused with the reason where that fails.

        By a process of its own: tracing a net changes torch for all threads of the process that
        does it, and a converter that runs out of memory takes only itself with it.
        """
        root().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root(), prefix=".making-") as aside:
            made = Path(aside, "made")
            made.mkdir()
            done = subprocess.run(
                [sys.executable, "-m", "resnets", *self._words(where, made / self.path.name)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
            reason = lines[-1].removeprefix("resnets export: ")
            if done.returncode != 0:
                if done.returncode == REFUSED:  # all else may go better next time
                    Path(made, REASON).write_text(reason, "utf-8")
                    self._put(made)
                raise VerificationError(reason)
            card = json.loads(card_of(made / self.path.name).read_text("utf-8"))
            if card["source"]["net"] != self.net:
                raise VerificationError(f"{where} changed meanwhile")
            self._put(made)
        _keep_newest()

    def _words(self, where: str, out: Path) -> list[str]:
        flag, data = FLAGS[self.wanted.precision], self.wanted.calibrate
        words = ["export", where, "--to", self.wanted.kind, "--out", str(out)]
        words += [flag] if flag else []
        words += ["--calibrate", data] if data is not None else []
        return [*words, "--max-drop", str(self.wanted.max_drop)]

    def _put(self, made: Path) -> None:
        try:
            made.rename(self.folder)
        except OSError:  # another process was faster
            if not self.folder.is_dir():
                raise


def root() -> Path:
    """Where they are kept."""
    return environment.cache() / "artifacts"


def speed_of(artifact: Path) -> float | None:
    """How many times as fast as torch it was here; None where that was not measured."""
    try:
        return float(_speed_file(artifact).read_text("utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note_speed(artifact: Path, times: float) -> None:
    """Keep that for the next time; OSError where nothing can be written."""
    file = _speed_file(artifact)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as made:
        made.write(f"{times:.3f}")
        os.chmod(made.name, 0o644)  # others may share the cache
    os.replace(made.name, file)


def _speed_file(artifact: Path) -> Path:
    sums = json.loads(card_of(artifact).read_text("utf-8"))["sha256"]
    told = [sums, torch.get_num_threads(), *_here()]
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]
    return environment.cache() / "speeds" / key


def _here() -> tuple[dict[str, str], str]:
    """Versions of what computes, and the processor."""
    return versions(), environment.processor_flags()


def _keep_newest() -> None:
    ages = {}
    for each in root().iterdir():
        with suppress(FileNotFoundError):  # another process has just removed it
            ages[each] = time.time() - each.stat().st_mtime
    whole = sorted((each for each in ages if not each.name.startswith(".")), key=ages.__getitem__)
    killed = [each for each in ages if each.name.startswith(".") and ages[each] > DAY]
    for old in [*whole[MOST:], *killed]:
        shutil.rmtree(old, ignore_errors=True)


def _state_of(data: str | None) -> list[str | int]:
    """What tells whether the data are still those that were named: path, size, time."""
    if data is None or not Path(data).exists():
        return [data or ""]
    stat = Path(data).resolve().stat()
    return [str(Path(data).resolve()), stat.st_size, stat.st_mtime_ns]
