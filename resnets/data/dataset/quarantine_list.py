"""Quarantine: lists of images to exclude, as written by `resnets data check`.

One image per line: its path within the source ("train/cat/1.jpg", forward slashes), optionally
followed by a tab and a comment. Lines that start with # are comments. A path that cannot be written
as plain text on one line (tabs, line breaks, a leading # or quote, surrounding white space, bytes
that are not UTF-8) is a JSON string in double quotes; the first line of the list says so. A list
without that line has only plain paths, as written by older versions.
"""

from __future__ import annotations

import json
import logging
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnets.config import ConfigError, DataSpec
from resnets.data.dataset.pack import PackFiles
from resnets.data.files.folder import Files
from resnets.utils.errors import reading
from resnets.utils.files.source_paths import path_within, prefixes
from resnets.utils.files.write import atomic_write

log = logging.getLogger("resnets")

QUARANTINE = "quarantine.txt"
FIRST_LINE = (
    "# Images excluded from training and evaluation: a path within the data set, a tab, why."
    ' Unusual names are JSON strings in "quotes".\n'
)


@dataclass(frozen=True)
class Quarantine:
    """The `paths` within `source` to exclude; `file` is the list that contains them."""

    source: str
    paths: frozenset[str]
    file: Path | None = None

    @classmethod
    def of(cls, spec: DataSpec) -> Quarantine:
        """Read the list `spec.quarantine`, or quarantine.txt in the source's folder.

        Raises ConfigError if `spec.quarantine` is not a file or cannot be read.
        """
        if spec.quarantine is not None:
            file = Path(spec.quarantine).expanduser()
            return cls(spec.source, read_quarantine(file), file)
        default = Path(spec.source).expanduser() / QUARANTINE
        if default.is_file():
            return cls(spec.source, read_quarantine(default), default)
        return cls(spec.source, frozenset())

    def filter_rows(self, files: Files | None, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the `rows` of `files` that are not listed; all of them without files.

        Images that were in quarantine during packing are excluded, too.
        """
        if isinstance(files, PackFiles):
            rows = rows[files.is_stored(rows)]
        if files is None or not self.paths:
            return rows
        starts = prefixes(self.source)
        is_listed = self.is_listed([path_within(files.name(row), starts) for row in rows.tolist()])
        return rows[~is_listed]

    def is_listed(self, paths: Sequence[str]) -> NDArray[np.bool_]:
        """Return which of `paths` are listed: exactly, or in another Unicode form.

        File systems may store "é" as one character or two. The other form counts only for entries
        without an exact match.
        """
        found = [path in self.paths for path in paths]
        unmatched = self.paths.difference(
            path for path, is_exact in zip(paths, found, strict=True) if is_exact
        )
        normalized = {_normalize(path) for path in unmatched if not path.isascii()}
        if normalized:
            found = [
                is_exact or (not path.isascii() and _normalize(path) in normalized)
                for path, is_exact in zip(paths, found, strict=True)
            ]
        return np.array(found, np.bool_)

    def warn_of_absent(self, names: Iterable[str]) -> None:
        """Log entries of the list that are not among the images `names`."""
        if not self.paths:
            return
        starts = prefixes(self.source)
        known = {path_within(name, starts) for name in names}
        normalized = {_normalize(path) for path in known if not path.isascii()}
        absent = sorted(
            path for path in self.paths if path not in known and _normalize(path) not in normalized
        )
        if absent:
            log.warning(
                "%s: %d of the %d images it lists are not in the data set, such as %s",
                self.file,
                len(absent),
                len(self.paths),
                absent[0],
            )


def write_quarantine(path: Path, entries: Iterable[tuple[str, str]]) -> None:
    """Write paths, each with a reason; `read_quarantine` returns the same paths."""
    lines = "".join(f"{_format_path(name)}\t{' '.join(why.split())}\n" for name, why in entries)
    with atomic_write(path) as temporary:
        temporary.write_text(FIRST_LINE + lines, encoding="utf-8", errors="replace", newline="\n")


def read_quarantine(path: Path) -> frozenset[str]:
    """Read the paths of a list.

    Raises ConfigError if it cannot be read, is UTF-16, or a quoted path is invalid.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"data.quarantine: {path} cannot be read ({error.strerror})") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"data.quarantine: {path} is UTF-16; save it as UTF-8")
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    first, *_ = text.split("\n", 1)
    has_quotes = first.rstrip("\r") == FIRST_LINE.rstrip("\n")
    found = set()
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith("#"):
            continue
        name = line.split("\t")[0].rstrip("\r")
        if has_quotes and name.startswith('"'):
            name = _parse_quoted(name, f"data.quarantine: {path}: line {number}")
        found.add(name)
    return frozenset(found - {""})


def _format_path(name: str) -> str:
    """Format a path on one line: unchanged, or as a JSON string if plain text is ambiguous."""
    is_plain = name.isprintable() and name == name.strip() and not name.startswith(("#", '"'))
    return name if is_plain else json.dumps(name)


def _parse_quoted(text: str, location: str) -> str:
    with reading(location, what="as a path in quotes"):
        name = json.loads(text)
    assert isinstance(name, str)  # it starts with a quote
    return name


def _normalize(path: str) -> str:
    return unicodedata.normalize("NFC", path)
