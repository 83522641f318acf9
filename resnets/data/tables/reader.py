"""Read text tables of images and labels: CSV, TSV, text from Excel, JSON lines.

Encoding, delimiter, header and columns are inferred from the first rows. Rows are then read one by
one, so that a table of millions needs little memory. DataError names file and line.
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
from resnets.data.tables.columns import (
    Columns,
    find_columns,
    normalize_name,
    parse_one_hot,
    parse_split,
)
from resnets.data.tables.labels import Label, is_missing
from resnets.utils.errors import reason
from resnets.utils.files.json import parse_json
from resnets.utils.printable import printable

log = logging.getLogger("resnets")

JSON_SUFFIXES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".lst", *JSON_SUFFIXES)
TAB = "\t"
SPACE = " "  # the last whitespace of a line, as in lists of Caffe
JSON = "JSON"  # one object per line
DELIMITER_NAMES = {TAB: "tabs", SPACE: "spaces"}
DELIMITERS = (",", TAB, ";", "|")
SAMPLE_ROWS = 200  # rows from which delimiter and columns are inferred
HEAD_BYTES = 1 << 16  # bytes that these rows are read from
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class TableRow:
    """One image of a table: its line in the file, path, label, split and group.

    label: as written, or the names of the one-hot columns that are 1; `multilabel` parses it.
    split: "train", "val" or "test". label, split and group are empty if the table has none.
    """

    line: int
    path: str
    label: Label = ""
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class Table:
    """The format of a table; `rows` reads it. `name` is its name in messages."""

    name: str
    open: Callable[[], IO[bytes]]
    encoding: str
    delimiter: str
    columns: Columns

    def rows(self) -> Iterator[TableRow]:
        """Yield the rows in order; raise DataError with the line of a damaged one."""
        encoding = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
        with self.open() as data, io.TextIOWrapper(data, encoding=encoding, newline="") as stream:
            try:
                records = _iter_rows(stream, self)
                if self.columns.header:
                    next(records, None)
                for line, cells in records:
                    yield self._parse_row(line, cells)
            except UnicodeError:
                raise DataError(self._encoding_error()) from None

    def describe(self) -> str:
        """Describe columns and format, for the log."""
        parts = [self.columns.describe()]
        if self.delimiter == JSON:
            parts.append("JSON lines")
        elif self.delimiter != ",":
            parts.append(f"separated by {DELIMITER_NAMES.get(self.delimiter, self.delimiter)}")
        if self.encoding.startswith(("utf-16", "utf-32")):
            parts.append(self.encoding.upper())
        return "; ".join(parts)

    def _parse_row(self, line: int, cells: Sequence[str]) -> TableRow:
        location, columns = f"{self.name}: line {line}", self.columns
        if len(cells) != columns.count:
            raise DataError(f"{location}: {len(cells)} cells, but line 1 has {columns.count}")
        path = cells[columns.path]
        if not path:
            raise DataError(f"{location}: no path")
        if columns.one_hot:
            label: Label = parse_one_hot(cells, columns, location)
        elif columns.label is None:
            return TableRow(line, path)
        else:
            label = cells[columns.label]
        split = parse_split(cells, columns, location) if columns.has_splits else ""
        group = "" if columns.group is None else cells[columns.group]
        if columns.group is not None and is_missing(group):
            raise DataError(
                f"{location}: no value in the column of groups, {columns.header[columns.group]!r}"
            )
        return TableRow(line, path, label, split, group)

    def warn_of_unused_columns(self) -> None:
        """Warn about unused columns that look like splits or groups of related images."""
        if names := self.columns.suspicious_columns:
            log.warning(
                "%s: %s %s not used, and may say which images belong together; images are held out"
                " one by one unless --set data.group=column:NAME names such a column, or a column"
                " called split, of train, val and test, says otherwise",
                self.name,
                ", ".join(repr(printable(name)) for name in names),
                "is" if len(names) == 1 else "are",
            )

    def _encoding_error(self) -> str:
        """Return the message for bytes that are not text in the table's encoding."""
        with self.open() as stream:
            data = stream.read()
        try:
            data.decode(self.encoding)
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            return f"{self.name}: line {line}: not UTF-8; save the file as UTF-8"
        return f"{self.name}: not the text that its first bytes say; save the file as UTF-8"


def open_table_file(
    file: Path, *image_tests: Callable[[str], bool], labeled: bool = True, group: str | None = None
) -> Table | None:
    """Infer the format of the table `file`; None if it has no rows.

    image_tests: functions that return whether a cell names an image; the first by which any cell
    does is used to find columns and delimiter. group: name of the column of groups. Raises
    DataError if the file is not text, or if its columns are unclear.
    """
    return _open_table(str(file), lambda: _open_file(file), image_tests, labeled, group)


def open_table_bytes(
    data: bytes,
    name: str,
    *image_tests: Callable[[str], bool],
    labeled: bool = True,
    group: str | None = None,
) -> Table | None:
    """Infer the format of a table from its bytes, as `open_table_file`; messages call it `name`."""
    return _open_table(name, lambda: io.BytesIO(data), image_tests, labeled, group)


def _open_table(
    name: str,
    open_stream: Callable[[], IO[bytes]],
    image_tests: Sequence[Callable[[str], bool]],
    labeled: bool,
    group: str | None,
) -> Table | None:
    with open_stream() as stream:
        encoding, text = _decode_head(stream.read(HEAD_BYTES))
    json_lines = name.lower().endswith(JSON_SUFFIXES)
    for exists in image_tests:
        delimiter, sample = (
            (JSON, _parse_json_rows(text)) if json_lines else _find_delimiter(text, exists)
        )
        if any(exists(cell) for row in sample for cell in row):
            break
    if not sample:
        return None
    if not json_lines:
        _check_comments(text, exists, name)
    columns = find_columns(
        sample, exists, name, labeled=labeled, group=group, has_header=json_lines
    )
    return Table(name, open_stream, encoding, delimiter, columns)


def _decode_head(data: bytes) -> tuple[str, str]:
    """Return the encoding of a table that begins with `data`, and its first rows as text."""
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), None)
    if encoding is None:  # in UTF-16 every other byte of ASCII text is zero
        even, odd = data[0::2].count(0), data[1::2].count(0)
        half = len(data) // 2
        encoding = "utf-8"
        if half and max(even, odd) > half // 3:
            encoding = "utf-16-le" if odd > even else "utf-16-be"
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    text = decoder.decode(data)
    whole = len(data) < HEAD_BYTES
    return encoding, text if whole else text[: text.rfind("\n") + 1] or text


def _find_delimiter(text: str, exists: Callable[[str], bool]) -> tuple[str, list[Sequence[str]]]:
    """Return the delimiter and the first rows: the one that gives equal rows that name images."""
    best: tuple[tuple[bool, ...], str, list[Sequence[str]]] | None = None
    for delimiter in DELIMITERS:
        rows = _read_sample(text, delimiter)
        if not rows:
            continue
        widths = {len(row) for row in rows}
        found = any(exists(cell) for row in rows[:20] for cell in row)
        score = (len(rows[0]) > 1, len(widths) == 1, found, _has_known_name(rows[0]))
        if best is None or score > best[0]:
            best = score, delimiter, rows
    if best is None or len(best[2][0]) == 1:
        words = _read_sample(text, SPACE)
        if words and len(words[0]) == 2:
            return SPACE, words
    return (",", []) if best is None else best[1:]


def _check_comments(text: str, exists: Callable[[str], bool], name: str) -> None:
    """Raise DataError if the first lines are comments, not a header or an image that begin with #.

    They are if the row below them is a header, or has another number of cells.
    """
    text = text.lstrip("\ufeff\r\n")
    if not text.startswith("#"):
        return
    lines = text.split("\n")
    count = next((n for n, line in enumerate(lines) if not line.startswith("#")), 0)
    delimiter, rows = _find_delimiter("\n".join(lines[count:]), exists)
    first = _read_sample(lines[0], delimiter)
    if count and rows and (len(first[0]) != len(rows[0]) or _has_known_name(rows[0])):
        raise DataError(
            f"{name}: line 1 begins with # ({printable(lines[0].strip()[:60])}), and comments are"
            " not read; remove such lines"
        )


def _has_known_name(cells: Sequence[str]) -> bool:
    return bool({normalize_name(cell) for cell in cells} & {"path", "label", "filename", "image"})


class _LastWordReader:
    """Splits each line into two cells before its last word; counts lines as csv.reader does."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream, self.line_num = stream, 0

    def __iter__(self) -> Iterator[list[str]]:
        for line in self.stream:
            self.line_num += 1
            yield line.rsplit(maxsplit=1)


class _JsonLinesReader:
    """Reads one JSON object per line as a row of `keys`; counts lines as csv.reader does."""

    def __init__(self, stream: IO[str], keys: Sequence[str], name: str) -> None:
        self.stream, self.keys, self.name, self.line_num = stream, keys, name, 0

    def __iter__(self) -> Iterator[Sequence[str]]:
        yield self.keys
        for line in self.stream:
            self.line_num += 1
            if not line.strip():
                continue
            try:
                found = parse_json(line)
            except (ValueError, RecursionError) as error:
                why = f"not JSON ({reason(error)})"
                raise DataError(f"{self.name}: line {self.line_num}: {why}") from None
            if not isinstance(found, dict):
                raise DataError(f"{self.name}: line {self.line_num}: not a JSON object")
            if unknown := sorted(found.keys() - set(self.keys)):
                raise DataError(
                    f"{self.name}: line {self.line_num}: the key {unknown[0]!r}, which none of the"
                    f" first {SAMPLE_ROWS} lines has; give them the same keys"
                )
            yield [_format_json_cell(found.get(key)) for key in self.keys]


def _parse_json_rows(text: str) -> list[Sequence[str]]:
    """Return the keys of the first lines and their cells; [] if no line is an object."""
    lines = [line for line in text.split("\n") if line.strip()][:SAMPLE_ROWS]
    objects = [found for line in lines if (found := _parse_json_object(line)) is not None]
    keys = list(dict.fromkeys(key for each in objects for key in each))
    if not keys:
        return []
    return [keys, *([_format_json_cell(each.get(key)) for key in keys] for each in objects)]


def _parse_json_object(line: str) -> dict[str, Any] | None:
    try:
        found = parse_json(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _format_json_cell(value: Any) -> str:
    """Format a value as a cell: lists as JSON, true as 1, null as empty text."""
    if isinstance(value, bool):
        return str(int(value))
    if value is None or isinstance(value, str | int | float):
        return "" if value is None else str(value)
    return json.dumps(value, ensure_ascii=False)


def _make_reader(stream: IO[str], table: Table) -> Any:
    """Return an iterator of rows with `line_num`."""
    if table.delimiter == JSON:
        return _JsonLinesReader(stream, table.columns.header, table.name)
    return _split_cells(stream, table.delimiter, strict=True)


def _split_cells(stream: IO[str], delimiter: str, *, strict: bool) -> Any:
    if delimiter == SPACE:
        return _LastWordReader(stream)
    return csv.reader(stream, delimiter=delimiter, strict=strict)


def _read_sample(text: str, delimiter: str) -> list[Sequence[str]]:
    """Return the first rows that are not empty, up to the first line that is not CSV."""
    reader = _split_cells(io.StringIO(text, newline=""), delimiter, strict=False)
    rows: list[Sequence[str]] = []
    try:
        for written in reader:
            cells = [cell.strip() for cell in written]
            if any(cells):
                rows.append(cells)
            if len(rows) == SAMPLE_ROWS:
                break
    except csv.Error:  # reported with its line when the whole table is read
        pass
    return rows


def _iter_rows(stream: IO[str], table: Table) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield line and cells of each row that is not empty; the first row counts as line 1."""
    reader = _make_reader(stream, table)
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
        raise DataError(f"{table.name}: line {reader.line_num}: not CSV ({error})") from None


def _open_file(file: Path) -> IO[bytes]:
    try:
        if file.exists() and not file.is_file():
            raise DataError(f"{file}: cannot be read (a pipe or device, not a file)")
        return open(file, "rb")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); restore it") from error
