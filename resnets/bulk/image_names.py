"""Names of millions of images, in two memory-mapped files."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.data.errors import DataError
from resnets.utils.errors import reading


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

    def __exit__(
        self,
        dtype: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._bytes.close()
        self._ends.close()


def memory_map(path: Path, dtype: str) -> NDArray[Any]:
    """Memory-map a file as a plain array (indexing a np.memmap is slow)."""
    with reading(path, DataError, remedy="remove its folder, and start the same command again"):
        return np.memmap(path, dtype, "r").view(np.ndarray)


class Names:
    """The names written by `NamesWriter`, at least one, memory-mapped."""

    def __init__(self, stem: Path) -> None:
        self._bytes = memory_map(stem.with_suffix(".names"), "u1")
        self._ends = memory_map(stem.with_suffix(".ends"), "<u8")
        if (np.diff(self._ends) < 0).any() or int(self._ends[-1]) != len(self._bytes):
            raise DataError(
                f"{stem.with_suffix('.ends')}: damaged; remove its folder, and start the same"
                " command again"
            )

    def __len__(self) -> int:
        """Number of names."""
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        """The name at `index`."""
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._bytes[start : int(self._ends[index])].tobytes())
