"""A found set of pictures, opened by a worker: any run of its rows, one after the other.

`bulk_find` lists a set once and leaves what it found in the run's work folder; here each worker
opens that, and reads names and places from the disk, so that its memory does not grow with the set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from resnets.config import dump_json
from resnets.data.errors import DataError
from resnets.data.files import read_file
from resnets.data.shards import read_span
from resnets.deploy.bulk_names import Names, mapped

FOUND, NAMES, SPANS = "source.json", "index", "index.spans"
Kind = Literal["files", "spans", "parquet", "arrow"]


@dataclass(frozen=True)
class Found:
    """What a set is, for whoever opens it.

    kind: "files" (named ones below `root`), "spans" (of the files `archives`), "parquet" (see
    `bulk_parquet`), "arrow" (read by `datasets`). count: pictures. sha256: of their names, places
    and sizes, in order. column: of the pictures. parts: of a Parquet set, see `bulk_parquet.Part`.
    left_out, links: what is not among them, and links to folders followed (`data.walk`).
    """

    kind: Kind
    root: str
    count: int
    sha256: str
    archives: tuple[str, ...] = ()
    column: str = ""
    parts: tuple[dict[str, Any], ...] = ()
    left_out: tuple[str, ...] = ()
    links: int = 0

    def save(self, work: Path) -> None:
        """Leave it in the work folder."""
        dump_json(asdict(self), work / FOUND, indent=None)


@dataclass(frozen=True)
class Item:
    """One picture: its name, how to get its bytes (DataError), and how that calls it."""

    name: str
    read: Callable[[], bytes | memoryview]
    where: str = ""


class Pictures(Protocol):
    """A set of encoded pictures in a fixed order."""

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Rows `start` up to `stop`; reading may be done by several threads."""

    def check(self) -> None:
        """DataError where the whole set has gone, so that no picture is to blame."""


def open_pictures(work: Path) -> Pictures:
    """The set that was found; DataError where it has gone since."""
    plain = json.loads((work / FOUND).read_text("utf-8"))
    found = Found(**plain)
    if found.kind == "files":
        return _FilePictures(Path(found.root), Names(work / NAMES))
    if found.kind == "spans":
        return _SpanPictures(work, [Path(archive) for archive in found.archives])
    if found.kind == "parquet":
        from resnets.deploy.bulk_parquet import ParquetPictures

        return ParquetPictures(found)
    from resnets.deploy.bulk_tables import TablePictures

    return TablePictures(Path(found.root))


@dataclass(frozen=True)
class _FilePictures:
    """Files by name, below a folder."""

    root: Path
    names: Names

    def items(self, start: int, stop: int) -> Iterator[Item]:
        for row in range(start, stop):
            path = self.root / self.names[row]
            yield Item(self.names[row], partial(read_file, path), str(path))

    def check(self) -> None:
        require(self.root)


class _SpanPictures:
    """Parts of a few large files; the spans (N, 3) are file, offset and size in bytes."""

    def __init__(self, work: Path, archives: list[Path]) -> None:
        self.archives, self.names = archives, Names(work / NAMES)
        self.spans = mapped(work / SPANS, "<i8").reshape(-1, 3)

    def items(self, start: int, stop: int) -> Iterator[Item]:
        for row in range(start, stop):
            number, offset, size = self.spans[row].tolist()
            archive = self.archives[number]
            yield Item(self.names[row], partial(read_span, archive, offset, size), str(archive))

    def check(self) -> None:
        for archive in self.archives:
            require(archive)


def require(path: Path) -> None:
    """DataError where a file or folder is no longer there."""
    if not path.exists():
        raise DataError(f"{path}: has gone; bring it back and start the same command again")
