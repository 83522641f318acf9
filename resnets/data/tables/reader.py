"""The one reader of text tables of images and labels: CSV, TSV, what Excel makes, JSON lines.

Encoding, delimiter, header and columns are found out from the first rows; rows then come one by
one, so that a table of millions is read in little memory. DataError names file and line.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from resnets.data.errors import DataError
from resnets.data.tables.columns import Columns, find_columns, one_hot_names, plain, split_of
from resnets.data.tables.labels import Label, is_missing
from resnets.utils.printable import printable

log = logging.getLogger("resnets")

JSON_SUFFIXES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".lst", *JSON_SUFFIXES)
TAB = "\t"
SPACE = " "  # the last run of spaces in a line, as in Caffe's lists
JSON = "JSON"  # an object a line
NAMES = {TAB: "tabs", SPACE: "spaces"}
DELIMITERS = (",", TAB, ";", "|")
SAMPLE = 200  # rows that are looked at before the first is yielded
HEAD = 1 << 16  # bytes of them
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class TableRow:
    """One image: its line in the file, and path, label and split as they are written.

    label, split, group: empty where the table has none. Of columns of 0 and 1 a label is the names
    of those that are 1 (`label_sets` says what is meant). split is "train", "val" or "test".
    """

    line: int
    path: str
    label: Label = ""
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class Table:
    """How a table is written; `rows` reads it. `place` is what messages call it."""

    place: str
    open: Callable[[], IO[bytes]]
    encoding: str
    delimiter: str
    columns: Columns

    def rows(self) -> Iterator[TableRow]:
        """Each row in order; DataError with the line that is wrong."""
        name = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
        with self.open() as data, io.TextIOWrapper(data, encoding=name, newline="") as stream:
            try:
                records = _records(stream, self)
                if self.columns.header:
                    next(records, None)
                for line, cells in records:
                    yield self._row(line, cells)
            except UnicodeError:
                raise DataError(self._not_text()) from None

    def said(self) -> str:
        """What was understood, for the log."""
        parts = [self.columns.said()]
        if self.delimiter == JSON:
            parts.append("JSON lines")
        elif self.delimiter != ",":
            parts.append(f"separated by {NAMES.get(self.delimiter, self.delimiter)}")
        if self.encoding.startswith(("utf-16", "utf-32")):
            parts.append(self.encoding.upper())
        return "; ".join(parts)

    def _row(self, line: int, cells: Sequence[str]) -> TableRow:
        place, columns = f"{self.place}: line {line}", self.columns
        if len(cells) != columns.count:
            raise DataError(f"{place}: {len(cells)} cells, but line 1 has {columns.count}")
        path = cells[columns.path]
        if not path:
            raise DataError(f"{place}: no path")
        if columns.one_hot:
            label: Label = one_hot_names(cells, columns, place)
        elif columns.label is None:
            return TableRow(line, path)
        else:
            label = cells[columns.label]
        split = split_of(cells, columns, place) if columns.splits else ""
        group = "" if columns.group is None else cells[columns.group]
        if columns.group is not None and is_missing(group):
            raise DataError(
                f"{place}: no value in the column of groups, {columns.header[columns.group]!r}"
            )
        return TableRow(line, path, label, split, group)

    def warn_of_unused(self) -> None:
        """Warn of columns that look like splits or groups of images and were not used."""
        if names := self.columns.suspicious:
            log.warning(
                "%s: %s %s not used, and may say which images belong together; images are held out"
                " one by one unless --set data.group=column:NAME names such a column, or a column"
                " called split, of train, val and test, says otherwise",
                self.place,
                ", ".join(repr(printable(name)) for name in names),
                "is" if len(names) == 1 else "are",
            )

    def _not_text(self) -> str:
        with self.open() as stream:
            data = stream.read()
        try:
            data.decode(self.encoding)
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            return f"{self.place}: line {line}: not UTF-8; save the file as UTF-8"
        return f"{self.place}: not the text that its first bytes say; save the file as UTF-8"


def open_table_file(
    file: Path, *tests: Callable[[str], bool], labeled: bool = True, group: str | None = None
) -> Table | None:
    """How the table `file` is written; None where it has no rows.

    `tests` say whether a cell names an image, which tells columns and delimiters apart; the first
    counts by which any does. `group`: name of the column of groups. DataError: it is no text, or
    its columns are not clear.
    """
    return _open(str(file), lambda: _reading(file), tests, labeled, group)


def open_table_bytes(
    data: bytes,
    place: str,
    *tests: Callable[[str], bool],
    labeled: bool = True,
    group: str | None = None,
) -> Table | None:
    """The same of a table's bytes, of a member of an archive for one, that is called `place`."""
    return _open(place, lambda: io.BytesIO(data), tests, labeled, group)


def _open(
    place: str,
    open_: Callable[[], IO[bytes]],
    tests: Sequence[Callable[[str], bool]],
    labeled: bool,
    group: str | None,
) -> Table | None:
    with open_() as stream:
        encoding, text = _head(stream.read(HEAD))
    json_lines = place.lower().endswith(JSON_SUFFIXES)
    for exists in tests:
        delimiter, sample = (JSON, _json_rows(text)) if json_lines else _delimiter(text, exists)
        if any(exists(cell) for row in sample for cell in row):
            break
    if not sample:
        return None
    columns = find_columns(sample, exists, place, labeled=labeled, group=group, headed=json_lines)
    return Table(place, open_, encoding, delimiter, columns)


def _head(data: bytes) -> tuple[str, str]:
    """The encoding of a table that begins with `data`, and its first rows as text."""
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), None)
    if encoding is None:  # UTF-16 without a mark has a zero beside each ASCII letter
        even, odd = data[0::2].count(0), data[1::2].count(0)
        half = len(data) // 2
        encoding = "utf-8"
        if half and max(even, odd) > half // 3:
            encoding = "utf-16-le" if odd > even else "utf-16-be"
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    text = decoder.decode(data)
    whole = len(data) < HEAD
    return encoding, text if whole else text[: text.rfind("\n") + 1] or text


def _delimiter(text: str, exists: Callable[[str], bool]) -> tuple[str, list[Sequence[str]]]:
    """What separates cells, and the first rows: the one by which rows are alike and name images."""
    best: tuple[tuple[bool, ...], str, list[Sequence[str]]] | None = None
    for delimiter in DELIMITERS:
        rows = _cells(text, delimiter)
        if not rows:
            continue
        widths = {len(row) for row in rows}
        found = any(exists(cell) for row in rows[:20] for cell in row)
        named = bool({plain(cell) for cell in rows[0]} & {"path", "label", "filename", "image"})
        score = (len(rows[0]) > 1, len(widths) == 1, found, named)
        if best is None or score > best[0]:
            best = score, delimiter, rows
    if best is None or len(best[2][0]) == 1:
        words = _cells(text, SPACE)
        if words and len(words[0]) == 2:
            return SPACE, words
    return (",", []) if best is None else best[1:]


class _Words:
    """Lines in two cells, the last word apart; counts lines as csv.reader does."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream, self.line_num = stream, 0

    def __iter__(self) -> Iterator[list[str]]:
        for line in self.stream:
            self.line_num += 1
            yield line.rsplit(maxsplit=1)


class _JsonLines:
    """Objects, one a line, as rows of the cells called `keys`; counts lines as csv.reader does."""

    def __init__(self, stream: IO[str], keys: Sequence[str], place: str) -> None:
        self.stream, self.keys, self.place, self.line_num = stream, keys, place, 0

    def __iter__(self) -> Iterator[Sequence[str]]:
        yield self.keys
        for line in self.stream:
            self.line_num += 1
            if not line.strip():
                continue
            found = _object(line)
            if found is None:
                raise DataError(f"{self.place}: line {self.line_num}: not a JSON object")
            if unknown := sorted(found.keys() - set(self.keys)):
                raise DataError(
                    f"{self.place}: line {self.line_num}: the key {unknown[0]!r}, which none of the"
                    f" first {SAMPLE} lines has; give them the same keys"
                )
            yield [_json_cell(found.get(key)) for key in self.keys]


def _json_rows(text: str) -> list[Sequence[str]]:
    """The keys of the first lines, and their cells; nothing where none is an object."""
    lines = [line for line in text.split("\n") if line.strip()][:SAMPLE]
    objects = [found for line in lines if (found := _object(line)) is not None]
    keys = list(dict.fromkeys(key for each in objects for key in each))
    if not keys:
        return []
    return [keys, *([_json_cell(each.get(key)) for key in keys] for each in objects)]


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _json_cell(value: Any) -> str:
    """A value as a cell of a table has it: lists as JSON, true as 1, null as nothing."""
    if isinstance(value, bool):
        return str(int(value))
    if value is None or isinstance(value, str | int | float):
        return "" if value is None else str(value)
    return json.dumps(value, ensure_ascii=False)


def _reader(stream: IO[str], table: Table) -> Any:
    """The rows of a table, with `line_num`."""
    if table.delimiter == JSON:
        return _JsonLines(stream, table.columns.header, table.place)
    return _delimited(stream, table.delimiter, strict=True)


def _delimited(stream: IO[str], delimiter: str, *, strict: bool) -> Any:
    if delimiter == SPACE:
        return _Words(stream)
    return csv.reader(stream, delimiter=delimiter, strict=strict)


def _cells(text: str, delimiter: str) -> list[Sequence[str]]:
    """The first rows that are not empty; those before what is not CSV, where something is not."""
    reader = _delimited(io.StringIO(text, newline=""), delimiter, strict=False)
    rows: list[Sequence[str]] = []
    try:
        for written in reader:
            cells = [cell.strip() for cell in written]
            if any(cells):
                rows.append(cells)
            if len(rows) == SAMPLE:
                break
    except csv.Error:  # said of the whole table, when it is read
        pass
    return rows


def _records(stream: IO[str], table: Table) -> Iterator[tuple[int, Sequence[str]]]:
    """Line and cells of each row that is not empty; the first has the number 1 wherever it is."""
    reader = _reader(stream, table)
    first, count = True, table.columns.count
    try:
        for written in reader:
            cells = [cell.strip() for cell in written]
            if not any(cells):
                continue
            if len(cells) == count + 1 and not cells[-1]:
                cells = cells[:-1]  # a separator at the end of the line
            yield (1 if first else reader.line_num), cells
            first = False
    except csv.Error as error:
        raise DataError(f"{table.place}: line {reader.line_num}: not CSV ({error})") from None


def _reading(file: Path) -> IO[bytes]:
    try:
        if not file.is_file():
            raise DataError(f"{file}: cannot be read (a pipe or device, not a file)")
        return open(file, "rb")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); restore it") from error
