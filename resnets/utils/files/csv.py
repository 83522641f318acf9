"""CSV files that are safe to open in a spreadsheet (no formula injection) and read back exactly."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from resnets.utils.files.write import atomic_write
from resnets.utils.printable import printable, valid_text

# Spreadsheets evaluate a cell that begins with one of these as a formula. A leading quote makes it
# text; cells that begin with a quote get another, so that `unescape_formula` is exact.
FORMULA = re.compile(r"'*(?![+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$)[=+\-@\t\r]", re.IGNORECASE)


class CsvWriter:
    """Writes rows of cells to a text file opened with `newline=""`.

    Text that begins with `=`, `+`, `-` or `@` and is not a number is prefixed with `'`. Bytes of
    names that are not UTF-8 are written as `\\udcNN`. Text for a terminal is made printable.
    """

    def __init__(self, file: IO[str]) -> None:
        self._cell = printable if file.isatty() else escape_formula
        self._plain = csv.writer(file, lineterminator="\n")
        # Python quotes a line break only if it is in its own line terminator.
        self._quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def writerow(self, cells: Iterable[Any]) -> None:
        """Write one row; None is an empty cell."""
        row = [self._cell(cell) if isinstance(cell, str) else cell for cell in cells]
        has_carriage_return = any(isinstance(cell, str) and "\r" in cell for cell in row)
        (self._quoted if has_carriage_return else self._plain).writerow(row)

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        """Write each of `rows`."""
        for row in rows:
            self.writerow(row)


def escape_formula(text: str) -> str:
    """Return `text` as a cell that spreadsheets do not evaluate."""
    return f"'{valid_text(text)}" if FORMULA.match(text) else valid_text(text)


def unescape_formula(cell: str) -> str:
    """Return the text of a cell written by `escape_formula`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell, 1) else cell


def read_rows(file: IO[str]) -> Iterator[Sequence[str]]:
    """Yield the rows of a file written by `CsvWriter`, all cells as text; csv.Error if damaged.

    `file` is opened with `newline=""`.
    """
    for cells in csv.reader(file, strict=True):
        yield [unescape_formula(cell) for cell in cells]


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV file atomically; see `CsvWriter`."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = CsvWriter(file)
        writer.writerow(header)
        writer.writerows(rows)
