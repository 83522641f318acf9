"""Paths of images within their data set, as in lists and reports."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def prefixes(source: str) -> tuple[str, str]:
    """Return the prefixes of the names of a source's files: in an archive, and in a folder."""
    path = Path(source).expanduser()
    folder = path.parent if path.is_file() else path
    return f"{path}:", f"{folder}{os.sep}"


def path_within(name: str, starts: Iterable[str]) -> str:
    """Return the path of an image as in lists: its name without the first matching prefix.

    >>> path_within("/data/pets/cat/1.jpg", ["/data/pets:", "/data/pets/"])
    'cat/1.jpg'
    >>> path_within("pets.tar:pets/cat/1.jpg", ["pets.tar:", "./"])
    'pets/cat/1.jpg'
    """
    start = next(filter(name.startswith, starts), "")
    return name.removeprefix(start).replace(os.sep, "/")
