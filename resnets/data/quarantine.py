"""Pictures that a list says to leave out, as `resnets data check` writes it.

A line is a path within the source ("train/cat/1.jpg"), with forward slashes; what follows a tab,
and lines that start with #, are for people.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnets.config import ConfigError, DataSpec, whole_file
from resnets.data.files import Files
from resnets.data.pack import PackFiles

QUARANTINE = "quarantine.txt"
HEAD = "# Pictures left out of training and evaluation: a path within the source, a tab, why.\n"


@dataclass(frozen=True)
class Quarantine:
    """The `paths` within `source` that are left out of it."""

    source: str
    paths: frozenset[str]

    @classmethod
    def of(cls, spec: DataSpec) -> Quarantine:
        """What `spec.quarantine` lists, or quarantine.txt in the source's folder.

        ConfigError where `spec.quarantine` names no such file.
        """
        if spec.quarantine is not None:
            return cls(spec.source, _read(Path(spec.quarantine).expanduser()))
        beside = Path(spec.source).expanduser() / QUARANTINE
        return cls(spec.source, _read(beside) if beside.is_file() else frozenset())

    def keep(self, files: Files | None, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The `rows` of `files` that are not listed; all of them where there are no files.

        What was in quarantine when a set was packed stays so.
        """
        if isinstance(files, PackFiles):
            rows = rows[files.holds(rows)]
        if files is None or not self.paths:
            return rows
        starts = prefixes(self.source)
        kept = [path_within(files.name(row), starts) not in self.paths for row in rows]
        return rows[kept]


def prefixes(source: str) -> tuple[str, str]:
    """How the names of a source's files start: those in an archive, those in a folder."""
    place = Path(source).expanduser()
    folder = place.parent if place.is_file() else place
    return f"{place}:", f"{folder}{os.sep}"


def path_within(name: str, starts: Iterable[str]) -> str:
    """What lists call a picture: its name without the first of `starts` that it has.

    >>> path_within("/data/pets/cat/1.jpg", ["/data/pets:", "/data/pets/"])
    'cat/1.jpg'
    >>> path_within("pets.tar:pets/cat/1.jpg", ["pets.tar:", "./"])
    'pets/cat/1.jpg'
    """
    start = next(filter(name.startswith, starts), "")
    return name.removeprefix(start).replace(os.sep, "/")


def _read(path: Path) -> frozenset[str]:
    """The paths that a list names; ConfigError where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ConfigError(f"data.quarantine: {path} cannot be read ({error.strerror})") from error
    lines = (line.split("\t")[0] for line in text.split("\n") if not line.startswith("#"))
    return frozenset(line.rstrip("\r") for line in lines) - {""}


def write_quarantine(path: Path, entries: Iterable[tuple[str, str]]) -> None:
    """Write paths with what is wrong with each."""
    lines = "".join(f"{name}\t{' '.join(why.split())}\n" for name, why in entries)
    with whole_file(path) as temporary:
        temporary.write_text(HEAD + lines, encoding="utf-8", errors="surrogateescape", newline="\n")
