"""The plan of a bulk prediction: inputs, options, shards, and which of them are done.

OUT/_manifest.json  inputs and options; a resumed run must match them
OUT/part-00000.parquet ...  the rows, `shard_size` images each, in the order of the data set
OUT/_summary.json  counts and checksums, once all shards exist
OUT/.work/  index of the data set, attempts and checksums of shards; removed at the end

Readers of a folder as one table (pyarrow, pandas, Spark) skip names that begin with . or _.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from resnets.bulk.write import Format
from resnets.config import ConfigError, dump_json, from_dict
from resnets.config.aliases import read_json, with_current_names
from resnets.utils.files.json import parse_json
from resnets.utils.files.locks import LOCK, lock_folder
from resnets.utils.files.write import atomic_write, file_sha256

MANIFEST, SUMMARY, WORK = "_manifest.json", "_summary.json", ".work"
OLD_NAMES = {"manifest.json": MANIFEST, "summary.json": SUMMARY}  # names before version 0.2
FORMAT = 1
HINT = "use the same options, or another --out"
MAX_ATTEMPTS = 3  # of a shard, when its workers die
TARGET_SHARDS, MIN_SHARD, MAX_SHARD = 64, 256, 10_000  # limits of the default shard size


@dataclass(frozen=True)
class RowOptions:
    """The options that determine the rows, in addition to data set and model.

    top: classes per image. batch: batch size, which can change the last digit of a float.
    backend, precision, device: resolved, never "auto". threshold: lowest score of an object; None
    for classifiers.
    """

    format: Format
    shard_size: int
    top: int
    batch: int
    backend: str
    precision: str
    device: str
    threshold: float | None = None


@dataclass(frozen=True)
class Manifest:
    """A bulk prediction: data set and model as given by the user, and their checksums."""

    data: str
    images: int
    data_sha256: str
    model: str
    model_sha256: str
    options: RowOptions

    @classmethod
    def read(cls, out: Path) -> Manifest | None:
        """Read the manifest of a folder; None if there is none, ConfigError if it is damaged."""
        try:
            content = with_current_names(parse_json((out / MANIFEST).read_text("utf-8")), "bulk")
            if content.pop("format") != FORMAT:
                raise ValueError("unknown format version")
            manifest = from_dict(cls, content, str(out / MANIFEST))
            if manifest.images < 0 or manifest.options.shard_size < 1:
                raise ValueError("not a number of images")
            return manifest
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise ConfigError(
                f"{out / MANIFEST}: not a manifest that this version of resnets can read; choose "
                "another --out"
            ) from None

    def save(self, out: Path) -> None:
        """Write the manifest."""
        dump_json({"format": FORMAT, **asdict(self)}, out / MANIFEST)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.images // self.options.shard_size)

    def span(self, shard: int) -> tuple[int, int]:
        """First row of a shard, and the row after its last."""
        start = shard * self.options.shard_size
        return start, min(start + self.options.shard_size, self.images)

    def path(self, out: Path, shard: int) -> Path:
        """The file of a shard."""
        return out / f"part-{shard:05}.{self.options.format}"

    def missing(self, out: Path, known: Mapping[str, str]) -> tuple[int, ...]:
        """Shards without a file, or whose checksum is not in `known`."""
        paths = ((shard, self.path(out, shard)) for shard in range(self.shards))
        return tuple(
            shard
            for shard, path in paths
            if not path.is_file() or known.get(path.name) != file_sha256(path)
        )

    def check_inputs(self, out: Path, current: Manifest) -> None:
        """ConfigError if the data set or the weights differ from those of `out`."""
        if self.data_sha256 != current.data_sha256:
            raise ConfigError(
                f"{out}: was started with {self.images:,} images of {self.data}, which differ "
                f"from the present {current.images:,} images of {current.data}; choose another "
                "--out"
            )
        if self.model_sha256 != current.model_sha256:
            other = (
                "whose weights have changed"
                if self.model == current.model
                else f"not {current.model}"
            )
            raise ConfigError(f"{out}: was started with {self.model}, {other}; {HINT}")

    def check_options(self, out: Path, current: RowOptions) -> None:
        """ConfigError if the options differ from those of `out`."""
        names = {"top": "top-k", "batch": "batch-size"}
        for field in fields(RowOptions):
            before, value = getattr(self.options, field.name), getattr(current, field.name)
            if value != before:
                option = "--" + names.get(field.name, field.name).replace("_", "-")
                raise ConfigError(f"{out}: was started with {option} {before}, not {value}; {HINT}")


def shard_size(images: int) -> int:
    """The default shard size, a 64th of the images within bounds: cheap to repeat."""
    return min(MAX_SHARD, max(MIN_SHARD, -(-images // TARGET_SHARDS)))


class Checksums:
    """SHA-256 of finished shards by file name: in OUT/.work, finally in the summary.

    A shard without one, such as one whose worker was killed just before, counts as missing.
    """

    def __init__(self, out: Path) -> None:
        self.summary, self.folder = out / SUMMARY, out / WORK / "sha256"

    def save(self, path: Path, sha256: str) -> None:
        """Store the checksum of a shard."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / path.name) as temporary:
            temporary.write_text(sha256, encoding="ascii")

    def known(self) -> dict[str, str]:
        """All stored checksums."""
        checksums: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            checksums |= read_json(self.summary, "bulk-summary").get("sha256", {})
        if self.folder.is_dir():
            files = [each for each in self.folder.iterdir() if not each.name.startswith(".")]
            checksums |= {each.name: each.read_text("ascii", "replace") for each in files}
        return checksums

    def reopen(self) -> None:
        """Remove the summary of a run with missing shards; keep the other checksums."""
        for name, sha256 in self.known().items():
            self.save(Path(name), sha256)
        self.summary.unlink(missing_ok=True)


class AttemptCounter:
    """Counts the attempts at each shard in files, which survive a killed worker."""

    def __init__(self, out: Path) -> None:
        self.folder = out / WORK / "tries"

    def begin(self, shard: int) -> bool:
        """Count an attempt; False if the shard has no attempts left."""
        path = self.folder / str(shard)
        count = path.stat().st_size if path.exists() else 0
        if count >= MAX_ATTEMPTS:
            return False
        with open(path, "ab") as file:
            file.write(b"x")
        return True

    def end(self, shard: int) -> None:
        """Reset the count of a shard that is done."""
        (self.folder / str(shard)).unlink(missing_ok=True)

    def clear(self) -> None:
        """Reset all counts."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)


@contextmanager
def lock_output(out: Path) -> Iterator[None]:
    """Lock `out` against other processes, which get a ConfigError, until this one ends.

    ConfigError if the folder has other files. Removes temporary files of killed workers, and at the
    end the work folder if the run is finished.
    """
    with lock_folder(out):
        if (out / "manifest.json").is_file():
            for earlier, name in OLD_NAMES.items():
                if (out / earlier).is_file() and not (out / name).exists():
                    os.replace(out / earlier, out / name)
        entries = {each.name for each in out.iterdir()} - {LOCK}
        if entries and not entries & {MANIFEST, WORK}:
            raise ConfigError(f"--out {out}: is not empty; choose a new folder")
        _remove_temporary_files(out)
        (out / WORK).mkdir(exist_ok=True)
        try:
            yield
        finally:
            _remove_temporary_files(out)
            _remove_work_folder(out)


def _remove_temporary_files(out: Path) -> None:
    for entry in os.scandir(out):
        if entry.name.startswith(".") and entry.name.endswith(".tmp"):
            Path(entry.path).unlink(missing_ok=True)


def _remove_work_folder(out: Path) -> None:
    """Remove the work folder, unless a run has been started and not finished."""
    if (out / SUMMARY).exists() or not (out / MANIFEST).exists():
        shutil.rmtree(out / WORK, ignore_errors=True)
