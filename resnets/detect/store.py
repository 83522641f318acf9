"""Files of a set by path, in a folder or a tar alike: pictures, annotations, lists, class maps."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnets.data.errors import DataError
from resnets.data.files import PICTURE_SUFFIXES, Files, FolderFiles, list_tar

TEXT_SUFFIXES = frozenset({".xml", ".json", ".txt", ".yaml", ".yml"})


@dataclass(frozen=True, eq=False)
class Store:
    """A folder or tar; `rows` maps each path in it, with forward slashes, to its row of `files`.

    Folders that alone hold everything are skipped, so that paths do not depend on the packing.
    """

    where: str
    name: str
    files: Files
    rows: dict[str, int]

    def __contains__(self, path: str) -> bool:
        return path in self.rows

    def read(self, path: str) -> bytes:
        """A file's bytes; DataError when it is missing or cannot be read."""
        if path not in self.rows:
            raise DataError(f"{self.called(path)}: no such file; restore it")
        return bytes(self.files.read(self.rows[path]))

    def called(self, path: str) -> str:
        """What messages call a file, whether it is there or not."""
        return self.files.name(self.rows[path]) if path in self.rows else f"{self.where}/{path}"

    def lines(self, path: str) -> list[str]:
        """The lines of a text file that are not blank."""
        text = self.read(path).decode("utf-8", errors="replace")
        return [line.strip() for line in text.splitlines() if line.strip()]

    def take(self, paths: Sequence[str]) -> Files:
        """The files of `paths`, all of which exist, numbered from 0."""
        return self.files.take(np.array([self.rows[path] for path in paths], np.int64))

    def below(self, folder: str, suffix: str) -> list[str]:
        """Sorted paths below `folder` ("" = all) that end in `suffix`."""
        start = f"{folder}/" if folder else ""
        return sorted(p for p in self.rows if p.startswith(start) and p.endswith(suffix))


def open_store(source: str) -> Store:
    """The folder or tar at `source`; DataError when there is none, or nothing of use in it."""
    path = Path(source).expanduser()
    files: Files
    if path.is_file():
        listing = list_tar(path, _is_wanted)
        files, paths = listing.files, list(listing.paths)
    elif path.is_dir():
        paths = sorted(_walk(path))
        files = FolderFiles(path, paths)
    else:
        raise DataError(f"{source}: no such folder or tar; give one with pictures and annotations")
    if not paths:
        raise DataError(f"{source}: holds neither pictures nor annotations")
    top = _top_folder(paths)
    rows = {path[len(top) :]: row for row, path in enumerate(paths)}
    return Store(source.rstrip("/"), path.resolve().name, files, rows)


def _walk(root: Path) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror})") from error

    seen: set[str] = set()
    for place, folders, names in os.walk(root, onerror=fail, followlinks=True):
        if os.path.realpath(place) in seen:  # a loop of links ends here
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(place).relative_to(root).as_posix()
        for name in names:
            path = name if below == "." else f"{below}/{name}"
            if _is_wanted(path):
                yield path


def _top_folder(paths: Sequence[str]) -> str:
    """The folder, however deep, that alone holds everything, as "top/", else ""."""
    common = posixpath.commonpath([posixpath.dirname(path) for path in paths])
    return f"{common}/" if common else ""


def _is_wanted(path: str) -> bool:
    suffix = posixpath.splitext(path)[1].lower()
    hidden = any(part.startswith(".") for part in path.split("/"))
    return not hidden and (suffix in PICTURE_SUFFIXES or suffix in TEXT_SUFFIXES)
