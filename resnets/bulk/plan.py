"""What a bulk prediction is: its options, its shards, and which of them are done.

OUT/manifest.json  what decides every row; a run that is gone on with has to agree with it
OUT/part-00000.parquet ...  the rows, `shard_size` pictures each, in the order of the set
OUT/summary.json  counts and the shards' checksums, once all shards are there
OUT/.work/  what the set was found to be, tries at shards, their checksums; removed at the end
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from resnets.bulk.write import Format
from resnets.config import ConfigError, atomic_write, dump_json, hold_folder
from resnets.utils.files import LOCK

MANIFEST, SUMMARY, WORK = "manifest.json", "summary.json", ".work"
FORMAT = 1
REMEDY = "go on with that, or name another --out"
TRIES = 3  # workers that a shard may cost
SHARDS, SMALLEST, LARGEST = 64, 256, 10_000  # of a shard's size, where none is named


@dataclass(frozen=True)
class Options:
    """What decides the rows beside the set and the net.

    top: classes a picture. batch: pictures computed at once, which can change the last digit of a
    float. backend, precision, device: what computes, never "auto".
    """

    format: Format
    shard_size: int
    top: int
    batch: int
    backend: str
    precision: str
    device: str


@dataclass(frozen=True)
class Manifest:
    """A bulk prediction; `data` and `model` are what was named, the sums what they were."""

    data: str
    pictures: int
    data_sha256: str
    model: str
    model_sha256: str
    options: Options

    @classmethod
    def read(cls, out: Path) -> Manifest | None:
        """The manifest of a folder; None without any. ConfigError for one that is damaged."""
        try:
            plain: dict[str, Any] = json.loads((out / MANIFEST).read_text("utf-8"))
            if plain.pop("format") != FORMAT:
                raise ValueError("another format")
            options = Options(**plain.pop("options"))
            return cls(**plain, options=options)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise ConfigError(
                f"{out / MANIFEST}: not one that this version of resnets can read; name another"
                " --out"
            ) from None

    def save(self, out: Path) -> None:
        """Write it."""
        dump_json({"format": FORMAT, **asdict(self)}, out / MANIFEST)

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.pictures // self.options.shard_size)

    def span(self, shard: int) -> tuple[int, int]:
        """First row of a shard, and the one after its last."""
        start = shard * self.options.shard_size
        return start, min(start + self.options.shard_size, self.pictures)

    def path(self, out: Path, shard: int) -> Path:
        """The file of a shard."""
        return out / f"part-{shard:05}.{self.options.format}"

    def missing(self, out: Path, known: Mapping[str, str]) -> tuple[int, ...]:
        """Shards that are not there, or whose bytes are not those of the `known` checksums."""
        paths = ((shard, self.path(out, shard)) for shard in range(self.shards))
        return tuple(
            shard
            for shard, path in paths
            if not path.is_file() or known.get(path.name) != _sha256(path)
        )

    def check_inputs(self, out: Path, now: Manifest) -> None:
        """ConfigError where `out`, which has this manifest, is asked for another set or net."""
        if self.data_sha256 != now.data_sha256:
            raise ConfigError(
                f"{out}: begun with {self.pictures:,} pictures of {self.data}, which are not the"
                f" {now.pictures:,} that {now.data} has now; name another --out"
            )
        if self.model_sha256 != now.model_sha256:
            other = "its weights were others" if self.model == now.model else f"not {now.model}"
            raise ConfigError(f"{out}: begun with {self.model}, {other}; {REMEDY}")

    def check_options(self, out: Path, now: Options) -> None:
        """ConfigError where it is asked for with other options."""
        names = {"top": "top-k", "batch": "batch-size", "shard_size": "shard-size"}
        for field in fields(Options):
            before, wanted = getattr(self.options, field.name), getattr(now, field.name)
            if wanted != before:
                option = names.get(field.name, field.name)
                raise ConfigError(f"{out}: begun with --{option} {before}, not {wanted}; {REMEDY}")


def shard_size(pictures: int) -> int:
    """A 64th of the set, within bounds: small enough to share out, and cheap to do again."""
    return min(LARGEST, max(SMALLEST, -(-pictures // SHARDS)))


class Checksums:
    """SHA-256 of finished shards by file name: notes in OUT/.work, kept in summary.json at the end.

    A shard that has none, such as one whose worker was killed before the note, counts as missing.
    """

    def __init__(self, out: Path) -> None:
        self.summary, self.folder = out / SUMMARY, out / WORK / "sha256"

    def note(self, path: Path, sha256: str) -> None:
        """Write down that of a shard."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / path.name) as temporary:
            temporary.write_text(sha256, encoding="ascii")

    def known(self) -> dict[str, str]:
        """All that are written down."""
        found: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            found |= json.loads(self.summary.read_text("utf-8")).get("sha256", {})
        if self.folder.is_dir():
            notes = [each for each in self.folder.iterdir() if not each.name.startswith(".")]
            found |= {each.name: each.read_text("ascii", "replace") for each in notes}
        return found

    def reopen(self) -> None:
        """Undo the summary of a run that lost shards; the checksums of the others stay."""
        for name, sha256 in self.known().items():
            self.note(Path(name), sha256)
        self.summary.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Tries:
    """Counts, in files that outlive a killed worker, how often each shard was begun."""

    def __init__(self, out: Path) -> None:
        self.folder = out / WORK / "tries"

    def begin(self, shard: int) -> bool:
        """Note one more; False where the shard has cost enough workers."""
        note = self.folder / str(shard)
        count = note.stat().st_size if note.exists() else 0
        if count >= TRIES:
            return False
        with open(note, "ab") as file:
            file.write(b"x")
        return True

    def end(self, shard: int) -> None:
        """Forget the shard: its worker lived."""
        (self.folder / str(shard)).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget all."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Keep `out` from others, who get a ConfigError; the kernel lets go when this process ends.

    ConfigError too where the folder has other things in it. Files that a killed worker left half
    written are removed; and so is, at the end, what only unfinished work needs.
    """
    with hold_folder(out):
        ours = {MANIFEST, WORK}
        found = {each.name for each in out.iterdir()} - {LOCK}
        if found and not found & ours:
            raise ConfigError(f"--out {out}: is not empty; name a new folder")
        _sweep(out)
        (out / WORK).mkdir(exist_ok=True)
        try:
            yield
        finally:
            _sweep(out)
            _tidy(out)


def _sweep(out: Path) -> None:
    for entry in os.scandir(out):
        if entry.name.startswith(".") and entry.name.endswith(".tmp"):
            Path(entry.path).unlink(missing_ok=True)


def _tidy(out: Path) -> None:
    """Remove what only unfinished work needs, and a folder in which nothing was begun."""
    begun = (out / MANIFEST).exists()
    if begun and not (out / SUMMARY).exists():
        return
    shutil.rmtree(out / WORK, ignore_errors=True)
