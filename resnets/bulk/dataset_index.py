"""The index of a data set for bulk prediction, its images, and their names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from resnets.config import dump_json
from resnets.data.errors import DataError
from resnets.utils.errors import reading

INDEX_FILE = "source.json"
IndexKind = Literal["files", "spans", "parquet", "arrow"]


@dataclass(frozen=True)
class DatasetIndex:
    """Everything needed to open a data set again.

    kind: "files" (below `root`), "spans" (of the files `archives`), "parquet", or "arrow" (read by
    `datasets`; for both see `tables.py`). count: number of images. sha256: of their names, offsets
    and sizes, in order. column: that of the images. parts: of a Parquet data set, see
    `tables.Part`. skipped, links: ignored files, and the number of links to folders followed
    (`data.files.walk`). warnings: where images may be missing.
    """

    kind: IndexKind
    root: str
    count: int
    sha256: str
    archives: tuple[str, ...] = ()
    column: str = ""
    parts: tuple[dict[str, Any], ...] = ()
    skipped: tuple[str, ...] = ()
    links: int = 0
    warnings: tuple[str, ...] = ()

    def save(self, work: Path) -> None:
        """Write the index to the work folder."""
        dump_json(asdict(self), work / INDEX_FILE, indent=None)


@dataclass(frozen=True)
class Item:
    """One image: its name, a function that reads its bytes (DataError), and its location."""

    name: str
    read: Callable[[], bytes | memoryview]
    where: str = ""


class ImageSet(Protocol):
    """A set of encoded images in a fixed order."""

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Rows `start` up to `stop`; reading may be done by several threads."""

    def check(self) -> None:
        """DataError if the whole data set is gone, as opposed to single images."""


def require_exists(path: Path) -> None:
    """DataError if a file or folder no longer exists."""
    if not path.exists():
        raise DataError(f"{path}: no longer exists; restore it and run the same command again")


class NamesWriter:
    """Writes names one by one: their concatenated bytes, and the end of each (uint64)."""

    def __init__(self, stem: Path) -> None:
        self._bytes = open(stem.with_suffix(".names"), "wb")  # noqa: SIM115
        self._ends = open(stem.with_suffix(".ends"), "wb")  # noqa: SIM115
        self._end = self.count = 0

    def add(self, name: str) -> None:
        """Append a name; any file name is valid."""
        data = os.fsencode(name)
        self._end += len(data)
        self._bytes.write(data)
        self._ends.write(self._end.to_bytes(8, "little"))
        self.count += 1

    def __enter__(self) -> NamesWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._bytes.close()
        self._ends.close()


def memory_map(path: Path, dtype: str) -> NDArray[Any]:
    """Memory-map a file as a plain array (indexing a np.memmap is slow)."""
    with reading(path, DataError, remedy="remove its folder and run the same command again"):
        return np.memmap(path, dtype, "r").view(np.ndarray)


class Names:
    """Names of millions of images: those written by `NamesWriter`, at least one, memory-mapped."""

    def __init__(self, stem: Path) -> None:
        self._bytes = memory_map(stem.with_suffix(".names"), "u1")
        self._ends = memory_map(stem.with_suffix(".ends"), "<u8")
        if (np.diff(self._ends) < 0).any() or int(self._ends[-1]) != len(self._bytes):
            raise DataError(
                f"{stem.with_suffix('.ends')}: damaged; remove its folder and run the same "
                "command again"
            )

    def __len__(self) -> int:
        """Number of names."""
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        """The name at `index`."""
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._bytes[start : int(self._ends[index])].tobytes())
