"""Resolve the paths in a table to image files, also without suffix or leading folders."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from resnets.data.errors import DataError
from resnets.data.files.walk import walk_images
from resnets.utils.printable import printable

MAX_LISTED = 2  # candidates that a message names


class TablePaths:
    """Resolves the paths in a table in the folder `root`.

    A path is used as written, absolute or relative to `root`. If there is no such file, it may have
    backslashes, lack its suffix (an id), or lack leading folders: then it denotes the only image
    below `root` whose path ends with it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.num_guessed = 0  # paths that were not found as written

    def is_file(self, path: str) -> bool:
        """Return whether there is a file at exactly this path."""
        try:
            return bool(path) and (self.root / path).is_file()
        except (OSError, ValueError):  # too long, or a zero in it
            return False

    def is_known(self, path: str) -> bool:
        """Return whether `find` would find one image or several."""
        return self.is_file(path) or any(True for _ in self._candidates(path))

    def find(self, path: str, location: str) -> str | None:
        """Return the path of an image, relative to `root` or absolute; None if there is none.

        Raises DataError, whose message begins with `location`, if several images match.
        """
        if self.is_file(path):
            return self._normalize(path)
        matches = sorted(self._candidates(path))
        if not matches:
            return None
        if len(matches) > 1:
            listed = " or ".join(map(printable, matches[:MAX_LISTED]))
            more = f" or {len(matches) - MAX_LISTED} others" if len(matches) > MAX_LISTED else ""
            raise DataError(
                f"{location}: {printable(path)} may be {listed}{more}; write the path with its"
                " folders"
            )
        self.num_guessed += 1
        return matches[0]

    def _normalize(self, path: str) -> str:
        """Normalize a path, so that each image has one name."""
        if os.path.isabs(path):
            path = os.path.relpath(path, self.root) if self.root in Path(path).parents else path
        return path if ".." in path.split("/") else posixpath.normpath(path)

    def _candidates(self, path: str) -> Iterator[str]:
        """Yield images of this name, with or without suffix, in folders that `path` ends with."""
        *folders, name = _split_path(path) or [""]
        for known in {*self._by_name.get(name, ()), *self._by_stem.get(name, ())}:
            if not folders or _split_path(known)[-1 - len(folders) : -1] == folders:
                yield known

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Paths of all images below `root` by file name."""
        found: dict[str, list[str]] = {}
        for path in walk_images(self.root):
            found.setdefault(_split_path(path)[-1], []).append(path)
        return found

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        """Paths of all images below `root` by file name without suffix."""
        found: dict[str, list[str]] = {}
        for name, paths in self._by_name.items():
            found.setdefault(posixpath.splitext(name)[0], []).extend(paths)
        return found


def _split_path(path: str) -> list[str]:
    """Split a path at slashes and backslashes."""
    normalized = unicodedata.normalize("NFC", path).replace("\\", "/")
    return [part for part in normalized.split("/") if part not in ("", ".")]
