"""Which file a path in a table means: as written, with a suffix added, or by its last parts."""

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

SHOWN = 2  # candidates that a message names


class TablePaths:
    """Finds the images of a table that lies in `root`.

    A path is taken as it is written, absolute or relative to `root`. Where there is no such file it
    may be written with backslashes, without its suffix (an id), or without the folders that the
    image is in: the one image below `root` whose path ends so is meant. A path whose own folders
    are not there means none.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.guessed = 0  # how many were not found as they are written

    def is_file(self, path: str) -> bool:
        """Whether there is a file of this very path."""
        try:
            return bool(path) and (self.root / path).is_file()
        except (OSError, ValueError):  # too long, or a zero in it
            return False

    def is_known(self, path: str) -> bool:
        """Whether `find` would find an image, or several."""
        return self.is_file(path) or any(True for _ in self._candidates(path))

    def find(self, path: str, place: str) -> str | None:
        """The image's path relative to `root`, or absolute; None where there is none.

        DataError, which begins with `place`, where several may be meant.
        """
        if self.is_file(path):
            return self._plain(path)
        found = sorted(self._candidates(path))
        if not found:
            return None
        if len(found) > 1:
            said = " or ".join(map(printable, found[:SHOWN]))
            more = f" or {len(found) - SHOWN} others" if len(found) > SHOWN else ""
            raise DataError(
                f"{place}: {printable(path)} may be {said}{more}; write the path with its folders"
            )
        self.guessed += 1
        return found[0]

    def _plain(self, path: str) -> str:
        """`path` as all spellings of it are written, so that one image has one name."""
        if os.path.isabs(path):
            path = os.path.relpath(path, self.root) if self.root in Path(path).parents else path
        return path if ".." in path.split("/") else posixpath.normpath(path)

    def _candidates(self, path: str) -> Iterator[str]:
        """Images that are called so, with or without suffix, in folders that end as these do."""
        *folders, name = _parts(path) or [""]
        for known in {*self._by_name.get(name, ()), *self._by_stem.get(name, ())}:
            if not folders or _parts(known)[-1 - len(folders) : -1] == folders:
                yield known

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Paths of all images below `root` by their names."""
        found: dict[str, list[str]] = {}
        for path in walk_images(self.root):
            found.setdefault(_parts(path)[-1], []).append(path)
        return found

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        """The same by their names without suffix."""
        found: dict[str, list[str]] = {}
        for name, paths in self._by_name.items():
            found.setdefault(posixpath.splitext(name)[0], []).extend(paths)
        return found


def _parts(path: str) -> list[str]:
    """Parts of a path, written with slashes of either kind."""
    given = unicodedata.normalize("NFC", path).replace("\\", "/")
    return [part for part in given.split("/") if part not in ("", ".")]
