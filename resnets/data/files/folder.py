"""Encoded images by number, however they are stored (`Files`), and those of a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    SkippedFiles,
    file_head,
    open_nonblocking,
    walk_folder,
    why_not_image,
)


class Files(Protocol):
    """A numbered set of encoded images; thread-safe."""

    def __len__(self) -> int:
        """Return the number of images."""

    def name(self, index: int) -> str:
        """Return the name of an image for messages: a path, or "tar:member"."""

    def read(self, index: int) -> bytes | memoryview:
        """Return the encoded bytes; raise DataError if they cannot be read."""

    def take(self, rows: NDArray[np.int64]) -> Files:
        """Return the files of `rows`, renumbered from 0."""


CURRENT = Path(".")


@dataclass(frozen=True)
class FolderFiles:
    """Files below `root`; `paths` are relative to it, with forward slashes."""

    root: Path
    paths: Sequence[str]

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.paths)

    def name(self, index: int) -> str:
        """Return the path of the file."""
        path = self.paths[index]  # may be absolute; building a Path takes ten times as long
        return path if self.root == CURRENT else os.path.join(self.root, path)

    def read(self, index: int) -> bytes:
        """Return the file's bytes; raise DataError if it cannot be read."""
        return read_file(self.name(index))

    def take(self, rows: NDArray[np.int64]) -> FolderFiles:
        """Return the files of `rows`, renumbered from 0."""
        return FolderFiles(self.root, [self.paths[row] for row in rows])


@dataclass(frozen=True)
class Listing:
    """The contents of a folder or archive: its images, sorted by path, and its folders.

    `paths` (one for each of `files`) and `folders` are relative, with forward slashes. others:
    paths of other files that were requested. skipped: counts files that are not in `paths`.
    """

    files: Files
    paths: Sequence[str]
    folders: Sequence[str]
    others: frozenset[str] = frozenset()
    skipped: SkippedFiles = field(default_factory=SkippedFiles)

    def images(self) -> Listing:
        """Return the listing without `others`, which are counted as skipped."""
        if not self.others:
            return self
        skipped = SkippedFiles()
        skipped.add_all(self.skipped)
        for path in sorted(self.others):
            skipped.add(NOT_IMAGE, path)
        rows = [row for row, path in enumerate(self.paths) if path not in self.others]
        paths = [self.paths[row] for row in rows]
        files = self.files.take(np.array(rows, np.int64))
        return Listing(files, paths, self.folders, skipped=skipped)


def read_file(path: Path | str) -> bytes:
    """Read a file; raise DataError if it cannot be read, or is a pipe, device or folder."""
    with open_regular(path) as stream:
        return stream.read()


@contextmanager
def open_regular(path: Path | str) -> Iterator[IO[bytes]]:
    """Open a file; raise DataError if it cannot be read, or is a pipe, device or folder."""
    try:
        with open(path, "rb", opener=open_nonblocking) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise DataError(f"{path}: cannot be read (a pipe or device, not a file)")
            yield stream
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it") from error


def list_folder(
    root: Path,
    include: Callable[[str], bool] | None = None,
    onerror: Callable[[OSError], None] | None = None,
) -> Listing:
    """List images below `root`, and files for which `include(path)`; see `walk_folder`.

    A folder that cannot be listed raises DataError, unless `onerror` handles it.
    """
    skipped = SkippedFiles()
    folders: list[str] = []

    def files() -> Iterator[str]:
        for path in walk_folder(root, skipped, onerror):
            if path.endswith("/"):
                folders.append(path[:-1])
            else:
                yield path

    paths, others = select_images(files(), lambda path: file_head(root / path), include, skipped)
    return Listing(FolderFiles(root, paths), paths, sorted(folders), others, skipped)


def select_images(
    paths: Iterable[str],
    head: Callable[[str], bytes],
    include: Callable[[str], bool] | None,
    skipped: SkippedFiles,
) -> tuple[list[str], frozenset[str]]:
    """Return the images among `paths` and files by `include`, and which of them are not images.

    head: returns the first bytes of a file. All other files are counted in `skipped`.
    """
    chosen, others = [], []
    for path in paths:
        reason = why_not_image(path, partial(head, path))
        if reason is None:
            chosen.append(path)
        elif include is not None and include(path):
            chosen.append(path)
            others.append(path)
        else:
            skipped.add(reason, path)
    return chosen, frozenset(others)
