"""Names of millions of pictures, in two files that are read in place: no process holds them."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray


class NamesWriter:
    """Writes names one by one: their bytes back to back, and the end of each (uint64)."""

    def __init__(self, stem: Path) -> None:
        self._bytes = open(stem.with_suffix(".names"), "wb")  # noqa: SIM115
        self._ends = open(stem.with_suffix(".ends"), "wb")  # noqa: SIM115
        self._end = self.count = 0

    def add(self, name: str) -> None:
        """Append a name, any that a file system has."""
        data = os.fsencode(name)
        self._end += len(data)
        self._bytes.write(data)
        self._ends.write(self._end.to_bytes(8, "little"))
        self.count += 1

    def __enter__(self) -> NamesWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._bytes.close()
        self._ends.close()


def mapped(path: Path, kind: str) -> NDArray[Any]:
    """The numbers in a file, read in place (as a plain array: memmap's own indexing is slow)."""
    return np.memmap(path, kind, "r").view(np.ndarray)


class Names:
    """What `NamesWriter` wrote, at least one name, memory-mapped."""

    def __init__(self, stem: Path) -> None:
        self._bytes = mapped(stem.with_suffix(".names"), "u1")
        self._ends = mapped(stem.with_suffix(".ends"), "<u8")

    def __len__(self) -> int:
        """How many there are."""
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        """Name `index`, from 0."""
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._bytes[start : int(self._ends[index])].tobytes())
