"""Images that a list says to leave out, as `resnets data check` writes it.

One image a line: its path within the source ("train/cat/1.jpg", forward slashes), then, after a
tab, a remark for people. Lines that start with # are remarks too. A path that plain text cannot
hold on one line (tabs, line breaks, a leading # or quote, blanks at its ends, bytes that are not
UTF-8) is written as a JSON string in double quotes. The first line says so; a list without that
line is read as plain paths throughout, as lists were written before.
"""

from __future__ import annotations

import json
import logging
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnets.config import ConfigError, DataSpec, atomic_write
from resnets.data.dataset.pack import PackFiles
from resnets.data.files.folder import Files
from resnets.utils.errors import reading

log = logging.getLogger("resnets")

QUARANTINE = "quarantine.txt"
HEAD = (
    "# Images left out of training and evaluation: a path within the data set, a tab, why."
    ' Unusual names are JSON strings in "quotes".\n'
)


@dataclass(frozen=True)
class Quarantine:
    """The `paths` within `source` that are left out of it; `file` is the list that names them."""

    source: str
    paths: frozenset[str]
    file: Path | None = None

    @classmethod
    def of(cls, spec: DataSpec) -> Quarantine:
        """What `spec.quarantine` lists, or quarantine.txt in the source's folder.

        ConfigError where `spec.quarantine` names no such file, or the list cannot be read.
        """
        if spec.quarantine is not None:
            file = Path(spec.quarantine).expanduser()
            return cls(spec.source, read_quarantine(file), file)
        beside = Path(spec.source).expanduser() / QUARANTINE
        if beside.is_file():
            return cls(spec.source, read_quarantine(beside), beside)
        return cls(spec.source, frozenset())

    def keep(self, files: Files | None, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The `rows` of `files` that are not listed; all of them where there are no files.

        What was in quarantine when a set was packed stays so.
        """
        if isinstance(files, PackFiles):
            rows = rows[files.holds(rows)]
        if files is None or not self.paths:
            return rows
        starts = prefixes(self.source)
        listed = self.listed([path_within(files.name(row), starts) for row in rows.tolist()])
        return rows[~listed]

    def listed(self, paths: Sequence[str]) -> NDArray[np.bool_]:
        """Which of `paths` within the source the list names: exactly, or in another Unicode form.

        A list that went from one file system to another may spell "é" as one character or as two.
        That counts only for entries that no path here matches exactly.
        """
        exact = [path in self.paths for path in paths]
        others = self.paths.difference(path for path, hit in zip(paths, exact, strict=True) if hit)
        loose = {_composed(path) for path in others if not path.isascii()}
        if loose:
            exact = [
                hit or (not path.isascii() and _composed(path) in loose)
                for path, hit in zip(paths, exact, strict=True)
            ]
        return np.array(exact, np.bool_)

    def warn_of_absent(self, names: Iterable[str]) -> None:
        """Log entries of the list that are none of the images called `names` in messages."""
        if not self.paths:
            return
        starts = prefixes(self.source)
        known = {path_within(name, starts) for name in names}
        loose = {_composed(path) for path in known if not path.isascii()}
        absent = sorted(
            path for path in self.paths if path not in known and _composed(path) not in loose
        )
        if absent:
            log.warning(
                "%s: %d of the %d images it lists are not in the data set, such as %s",
                self.file,
                len(absent),
                len(self.paths),
                absent[0],
            )


def prefixes(source: str) -> tuple[str, str]:
    """How the names of a source's files start: those in an archive, those in a folder."""
    place = Path(source).expanduser()
    folder = place.parent if place.is_file() else place
    return f"{place}:", f"{folder}{os.sep}"


def path_within(name: str, starts: Iterable[str]) -> str:
    """What lists call an image: its name without the first of `starts` that it has.

    >>> path_within("/data/pets/cat/1.jpg", ["/data/pets:", "/data/pets/"])
    'cat/1.jpg'
    >>> path_within("pets.tar:pets/cat/1.jpg", ["pets.tar:", "./"])
    'pets/cat/1.jpg'
    """
    start = next(filter(name.startswith, starts), "")
    return name.removeprefix(start).replace(os.sep, "/")


def write_quarantine(path: Path, entries: Iterable[tuple[str, str]]) -> None:
    """Write paths with what is wrong with each; `read_quarantine` gives the same paths back."""
    lines = "".join(f"{_written(name)}\t{' '.join(why.split())}\n" for name, why in entries)
    with atomic_write(path) as temporary:
        temporary.write_text(HEAD + lines, encoding="utf-8", errors="replace", newline="\n")


def read_quarantine(path: Path) -> frozenset[str]:
    """The paths that a list names.

    ConfigError where it cannot be read, is UTF-16, or a quoted path is not valid.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"data.quarantine: {path} cannot be read ({error.strerror})") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"data.quarantine: {path} is UTF-16; save it as UTF-8")
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    first, *_ = text.split("\n", 1)
    quotes = first.rstrip("\r") == HEAD.rstrip("\n")
    found = set()
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith("#"):
            continue
        name = line.split("\t")[0].rstrip("\r")
        if quotes and name.startswith('"'):
            name = _unquoted(name, f"data.quarantine: {path}: line {number}")
        found.add(name)
    return frozenset(found - {""})


def _written(name: str) -> str:
    """A path on one line: as it is, or as a JSON string where that would not be read back."""
    plain = name.isprintable() and name == name.strip() and not name.startswith(("#", '"'))
    return name if plain else json.dumps(name)


def _unquoted(text: str, place: str) -> str:
    with reading(place, what="as a path in quotes"):
        name = json.loads(text)
    assert isinstance(name, str)  # it starts with a quote
    return name


def _composed(path: str) -> str:
    return unicodedata.normalize("NFC", path)
