"""Files of a set by path, in a folder, tar or zip: images, annotations, lists, class maps."""

from __future__ import annotations

import itertools
import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resnets.data.errors import DataError
from resnets.data.files.archives import list_archive
from resnets.data.files.folder import Files, FolderFiles, list_folder
from resnets.data.files.tar import TarFiles
from resnets.data.files.walk import SkippedFiles, read_suffixes
from resnets.detect.data.documents import decode_text
from resnets.utils.suggest import suggest_path

TEXT_SUFFIXES = frozenset(
    {".xml", ".json", ".jsonl", ".txt", ".yaml", ".yml", ".csv", ".names", ".data", ".labels"}
)


@dataclass(frozen=True, eq=False)
class Store:
    """A folder, tar or zip; `rows` maps each path in it, with slashes, to its row of `files`.

    Top folders that contain everything else are stripped, so that paths do not depend on packing.
    """

    where: str
    name: str
    files: Files
    rows: dict[str, int]
    skipped: SkippedFiles = field(default_factory=SkippedFiles)

    def __contains__(self, path: str) -> bool:
        return path in self.rows

    def read(self, path: str) -> bytes:
        """Read a file; DataError if it is missing or cannot be read."""
        if path not in self.rows:
            raise DataError(f"{self.display_path(path)}: no such file; restore it")
        return bytes(self.files.read(self.rows[path]))

    @property
    def image_paths(self) -> list[str]:
        """Paths of all files that are not annotations, lists or names."""
        return [path for path in self.rows if not is_text_path(path)]

    def display_path(self, path: str) -> str:
        """Return the path of a file for messages; it need not exist."""
        return self.files.name(self.rows[path]) if path in self.rows else f"{self.where}/{path}"

    def head(self, path: str, count: int) -> bytes:
        """Read the first `count` bytes (or more) of an existing file."""
        row = self.rows[path]
        if isinstance(self.files, FolderFiles):
            return _head(self.files.root / self.files.paths[row], count)
        if isinstance(self.files, TarFiles):
            offset, size = self.files.spans[row].tolist()
            return os.pread(self.files.stream.fileno(), min(size, count), offset)
        return bytes(self.files.read(row))

    def read_lines(self, path: str) -> list[str]:
        """Read the lines of a text file that are not blank, stripped."""
        text = decode_text(self.read(path), self.display_path(path))
        return [line.strip() for line in text.splitlines() if line.strip()]

    def take(self, paths: Sequence[str]) -> Files:
        """Return the existing files `paths`, numbered from 0."""
        return self.files.take(np.array([self.rows[path] for path in paths], np.int64))

    def find_files(self, folder: str, suffix: str) -> list[str]:
        """Return the sorted paths below `folder` ("" = all) that end in `suffix`, in any case."""
        start = f"{folder}/" if folder else ""
        return sorted(
            path for path in self.rows if path.startswith(start) and path.lower().endswith(suffix)
        )


def open_store(source: str) -> Store:
    """Open the folder, tar or zip at `source`; DataError if there is none, or nothing readable."""
    path = Path(source).expanduser()
    if path.is_file():
        listing = list_archive(path, is_text_path)
    elif path.is_dir():
        listing = list_folder(path, is_text_path)
    else:
        raise DataError(
            f"{source}: no such folder, tar or zip"
            f"{suggest_path(path) or '; give one with images and annotations'}"
        )
    paths = listing.paths
    if not paths:
        raise DataError(f"{source}: contains neither images nor annotations")
    top = _top_folder(paths)
    rows = {path[len(top) :]: row for row, path in enumerate(paths)}
    name = path.resolve().name
    return Store(source.rstrip("/"), name, listing.files, rows, listing.skipped)


def open_listed_images(source: str, names: Sequence[str]) -> Store:
    """Open the folder, tar or zip at `source` for images with known paths; see `add_listed_images`.

    A folder is not listed, since it may be large. `names` are some of the paths; they may lack the
    top folder that contains everything else.
    """
    root = Path(source).expanduser()
    if not root.is_dir():
        return open_store(source)
    inside = [name for name in names if _is_safe_image_path(name)]
    folders = list(_nested_folders(root))
    found = (each for each in folders if any(os.path.isfile(each / name) for name in inside))
    folder = next(found, root)
    return Store(source.rstrip("/"), root.resolve().name, FolderFiles(folder, []), {})


def add_listed_images(store: Store, names: Sequence[str]) -> None:
    """Add the images `names` that exist to a store from `open_listed_images`."""
    files = store.files
    if not isinstance(files, FolderFiles):
        return
    assert isinstance(files.paths, list)
    for name in names:
        if (
            name not in store.rows
            and _is_safe_image_path(name)
            and os.path.isfile(files.root / name)
        ):
            store.rows[name] = len(files.paths)
            files.paths.append(name)


def _nested_folders(root: Path) -> Iterator[Path]:
    """Yield `root` and, as long as a folder contains a single folder, that one."""
    for _ in range(10):
        yield root
        try:
            entries = list(itertools.islice(root.iterdir(), 2))
        except OSError:  # the files named are looked for all the same
            return
        if len(entries) != 1 or not entries[0].is_dir():
            return
        root = entries[0]


def _is_safe_image_path(name: str) -> bool:
    """Return whether a path may be that of an image and does not leave the folder."""
    inside = not name.startswith("/") and ".." not in name.split("/") and "\0" not in name
    return inside and name != "" and not is_text_path(name)


def _top_folder(paths: Sequence[str]) -> str:
    """Return the deepest folder that contains all paths, as "top/", or ""."""
    common = posixpath.commonpath([posixpath.dirname(path) for path in paths])
    return f"{common}/" if common else ""


def has_image_suffix(name: str) -> bool:
    """Return whether a file name or path has the suffix of an image format."""
    return posixpath.splitext(name)[1].lower() in read_suffixes()


def is_text_path(path: str) -> bool:
    """Return whether a file is one of annotations, lists or names."""
    return posixpath.splitext(path)[1].lower() in TEXT_SUFFIXES


def _head(path: Path, count: int) -> bytes:
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(number, "rb") as stream:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise DataError(f"{path}: cannot be read (a pipe or device, not a file)")
            return stream.read(count)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it") from error
