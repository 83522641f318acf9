"""Encoded images by number, whatever holds them (`Files`), and those of a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from resnets.data.errors import DataError
from resnets.data.files.walk import (
    NOT_IMAGE,
    LeftOut,
    file_head,
    walk_folder,
    why_not_image,
    without_waiting,
)


class Files(Protocol):
    """A numbered set of encoded images; safe to read from several threads."""

    def __len__(self) -> int:
        """How many there are."""

    def name(self, index: int) -> str:
        """What messages call the image: a path, or "tar:member"."""

    def read(self, index: int) -> bytes | memoryview:
        """The encoded bytes; DataError when they cannot be had."""

    def take(self, rows: NDArray[np.int64]) -> Files:
        """The files of `rows`, renumbered from 0."""


@dataclass(frozen=True)
class FolderFiles:
    """Files below `root`; `paths` are relative to it, with forward slashes."""

    root: Path
    paths: Sequence[str]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.paths)

    def name(self, index: int) -> str:
        """Path of the file."""
        return str(self.root / self.paths[index])

    def read(self, index: int) -> bytes:
        """The file's bytes; DataError when it cannot be read."""
        return read_file(self.root / self.paths[index])

    def take(self, rows: NDArray[np.int64]) -> FolderFiles:
        """The files of `rows`, renumbered from 0."""
        return FolderFiles(self.root, [self.paths[row] for row in rows])


@dataclass(frozen=True)
class Listing:
    """What a folder or archive holds: its images in sorted path order, and its folders.

    `paths` (one for each of `files`) and `folders` are relative, with forward slashes. `others`
    are the paths that were asked for and are no images. `left_out` counts what is not in `paths`.
    """

    files: Files
    paths: Sequence[str]
    folders: Sequence[str]
    others: frozenset[str] = frozenset()
    left_out: LeftOut = field(default_factory=LeftOut)

    def images(self) -> Listing:
        """The same without `others`, which are counted as left out."""
        if not self.others:
            return self
        left_out = LeftOut()
        left_out.add_all(self.left_out)
        for path in sorted(self.others):
            left_out.add(NOT_IMAGE, path)
        rows = [row for row, path in enumerate(self.paths) if path not in self.others]
        paths = [self.paths[row] for row in rows]
        files = self.files.take(np.array(rows, np.int64))
        return Listing(files, paths, self.folders, left_out=left_out)


def read_file(path: Path) -> bytes:
    """The bytes of a file; DataError when it cannot be read, or is a pipe, device or folder."""
    with open_regular(path) as stream:
        return stream.read()


@contextmanager
def open_regular(path: Path) -> Iterator[IO[bytes]]:
    """A file to read from; DataError when it cannot be read, or is a pipe, device or folder."""
    try:
        with open(path, "rb", opener=without_waiting) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise DataError(f"{path}: cannot be read (a pipe or device, not a file)")
            yield stream
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it") from error


def list_folder(
    root: Path,
    also: Callable[[str], bool] | None = None,
    onerror: Callable[[OSError], None] | None = None,
) -> Listing:
    """Images below `root`, and files for which `also(path)`; see `walk_folder` for the rules.

    A folder that may not be listed raises DataError, unless `onerror` takes it.
    """
    left_out = LeftOut()
    paths, folders, others = [], [], []
    for path in walk_folder(root, left_out, onerror):
        if path.endswith("/"):
            folders.append(path[:-1])
            continue
        reason = why_not_image(path, partial(file_head, root / path))
        if reason is None:
            paths.append(path)
        elif also is not None and also(path):
            paths.append(path)
            others.append(path)
        else:
            left_out.add(reason, path)
    return Listing(FolderFiles(root, paths), paths, sorted(folders), frozenset(others), left_out)
