"""Open an indexed data set in a worker and iterate over ranges of its rows.

`image_index.py` writes the index to the work folder once; workers read names and offsets from
disk, so that their memory does not grow with the data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from resnets.bulk.dataset_index import (
    INDEX_FILE,
    DatasetIndex,
    ImageSet,
    Item,
    Names,
    memory_map,
    require_exists,
)
from resnets.data.errors import DataError
from resnets.data.files.folder import read_file
from resnets.data.sources.webdataset import read_span
from resnets.utils.errors import reading
from resnets.utils.files.json import read_object

NAMES, SPANS = "index", "index.spans"


def open_dataset(work: Path) -> ImageSet:
    """Open the data set indexed in `work`; DataError if it is gone."""
    path = work / INDEX_FILE
    remedy = f"remove {work} and run the same command again"
    with reading(path, DataError, "as the index of a data set", remedy):
        return _open(work, DatasetIndex(**read_object(path, DataError, remedy)))


def _open(work: Path, index: DatasetIndex) -> ImageSet:
    if index.kind == "files":
        return _FileImages(Path(index.root), Names(work / NAMES))
    if index.kind == "spans":
        return _SpanImages(work, [Path(archive) for archive in index.archives])
    from resnets.bulk.tables import ArrowImages, ParquetImages

    if index.kind == "parquet":
        return ParquetImages(index)
    return ArrowImages(Path(index.root))


@dataclass(frozen=True)
class _FileImages:
    """Files below a folder."""

    root: Path
    names: Names

    def items(self, start: int, stop: int) -> Iterator[Item]:
        for row in range(start, stop):
            path = self.root / self.names[row]
            yield Item(self.names[row], partial(read_file, path), str(path))

    def check(self) -> None:
        require_exists(self.root)


class _SpanImages:
    """Ranges of a few large files; spans (N, 3) are file index, offset and size in bytes."""

    def __init__(self, work: Path, archives: list[Path]) -> None:
        self.archives, self.names = archives, Names(work / NAMES)
        self.spans = memory_map(work / SPANS, "<i8").reshape(-1, 3)

    def items(self, start: int, stop: int) -> Iterator[Item]:
        for row in range(start, stop):
            number, offset, size = self.spans[row].tolist()
            archive = self.archives[number]
            yield Item(self.names[row], partial(read_span, archive, offset, size), str(archive))

    def check(self) -> None:
        for archive in self.archives:
            require_exists(archive)
