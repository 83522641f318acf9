"""CSV that spreadsheets do not run and that any reader can read again."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from resnets.utils.terminal import printable, valid_text

# Excel and its like take a cell that begins with one of these for a formula. A quote in front makes
# it text; cells that begin with such a quote get another, so that `unguarded` is exact.
FORMULA = re.compile(r"'*(?![+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$)[=+\-@\t\r]", re.IGNORECASE)


class CsvWriter:
    """Rows of comma-separated cells, one a line, to a text file opened with `newline=""`.

    A text that begins with `=`, `+`, `-` or `@` and is not a plain number is written behind a `'`.
    Names that are not UTF-8 are written with `\\udcNN` for each such byte. A terminal is handed
    printable text.
    """

    def __init__(self, file: IO[str]) -> None:
        self._cell = printable if file.isatty() else guarded
        self._plain = csv.writer(file, lineterminator="\n")
        # Python quotes a line break only where it is its own line terminator's.
        self._quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def writerow(self, cells: Iterable[Any]) -> None:
        """Write one row; None is an empty cell."""
        row = [self._cell(cell) if isinstance(cell, str) else cell for cell in cells]
        broken = any(isinstance(cell, str) and "\r" in cell for cell in row)
        (self._quoted if broken else self._plain).writerow(row)

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        """Write each of `rows`."""
        for row in rows:
            self.writerow(row)


def guarded(text: str) -> str:
    """`text` as a cell that no spreadsheet takes for a formula."""
    return f"'{valid_text(text)}" if FORMULA.match(text) else valid_text(text)


def unguarded(cell: str) -> str:
    """The text of a cell that `guarded` made."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell, 1) else cell


def read_rows(file: IO[str]) -> Iterator[Sequence[str]]:
    """Rows as they were given to a `CsvWriter`, all cells as text; csv.Error where it is damaged.

    `file` is opened with `newline=""`.
    """
    for cells in csv.reader(file, strict=True):
        yield [unguarded(cell) for cell in cells]
