"""A found set of pictures, opened by a worker: any run of its rows, one after the other.

`bulk_find` lists a set once and leaves what it found in the run's work folder; here each worker
opens that, and reads names and places from the disk, so that its memory does not grow with the set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from resnets.bulk.data_set import FOUND, DatasetIndex, Item, Pictures, require
from resnets.bulk.names import Names, mapped
from resnets.data.files.open import read_file
from resnets.data.sources.webdataset import read_span

NAMES, SPANS = "index", "index.spans"


def open_pictures(work: Path) -> Pictures:
    """The set that was found; DataError where it has gone since."""
    plain = json.loads((work / FOUND).read_text("utf-8"))
    found = DatasetIndex(**plain)
    if found.kind == "files":
        return _FilePictures(Path(found.root), Names(work / NAMES))
    if found.kind == "spans":
        return _SpanPictures(work, [Path(archive) for archive in found.archives])
    if found.kind == "parquet":
        from resnets.bulk.parquet import ParquetPictures

        return ParquetPictures(found)
    from resnets.bulk.arrow import TablePictures

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
