"""A CSV of pictures: path,label and, as a third column, the split.

With a header (`path` and `label`, in any order, other columns are left alone) or without one. Paths
are absolute or relative to the CSV's folder; labels are names or numbers; the split is train, val
(or valid, validation) or test. Each picture has one label: multi-label is out of scope.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from resnets.data.errors import DataError
from resnets.data.files import FolderFiles, read_file
from resnets.data.identity import hash_names
from resnets.data.labels import ONE_LABEL, class_names, is_list, number_labels
from resnets.data.parts import PART_NAMES, FilePart, Source, by_role

PATH_NAMES = ("path", "file", "filename", "filepath", "file_name", "image", "image_path")
LABEL_NAMES = ("label", "class", "target")
SPLIT_NAMES = ("split", "part", "set")


@dataclass(frozen=True)
class _Columns:
    """Where in a line the cells are, of `count`; a table without a header has no others."""

    path: int
    label: int
    split: int | None
    count: int
    headed: bool


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    split: str


def open_table(file: Path) -> Source:
    """The pictures that a CSV names. DataError says in which line what is wrong."""
    # Sorted by path, so that the order of the lines never changes a result.
    rows = sorted(_read(file), key=lambda row: row.path)
    if not rows:
        raise DataError(f"{file}: names no pictures; expected lines of path,label")
    _check(file, rows)
    by_split = {split: [row for row in rows if row.split == split] for split in _splits(rows)}
    training = by_split["train"] if len(by_split) > 1 and "train" in by_split else rows
    classes = class_names(row.label for row in training)
    parts = {split: _part(file, split, chosen, classes) for split, chosen in by_split.items()}
    return by_role(file.name, classes, parts, str(file))


def _splits(rows: Sequence[_Row]) -> list[str]:
    return sorted({row.split for row in rows})


def _part(file: Path, split: str, rows: Sequence[_Row], classes: Sequence[str]) -> FilePart:
    labels = number_labels(
        [row.label for row in rows], classes, lambda place: f"{file}: line {rows[place].line}"
    )
    paths = [row.path for row in rows]
    return FilePart(split, FolderFiles(file.parent, paths), labels, ids=hash_names(paths))


def _read(file: Path) -> list[_Row]:
    try:
        text = read_file(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{file}: line {line}: not UTF-8; save the file as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: _Columns | None = None
    rows = []
    try:
        for written in reader:
            cells = [cell.strip() for cell in written]
            if not any(cells):
                continue
            if columns is None:
                columns = _columns(file, cells)
                if columns.headed:
                    continue
            rows.append(_row(f"{file}: line {reader.line_num}", reader.line_num, cells, columns))
    except csv.Error as error:
        raise DataError(f"{file}: line {reader.line_num}: not CSV ({error})") from None
    return rows


def _columns(file: Path, first: Sequence[str]) -> _Columns:
    """What the first line says of all: it may be a header."""
    names = [cell.lower() for cell in first]

    def named(known: Sequence[str]) -> int | None:
        return next((names.index(name) for name in known if name in names), None)

    path, label = named(PATH_NAMES), named(LABEL_NAMES)
    if path is not None and label is not None:
        return _Columns(path, label, named(SPLIT_NAMES), len(names), headed=True)
    if path is not None:
        raise DataError(
            f"{file}: line 1: a header without a label; its columns are {', '.join(first)},"
            " and one has to be called label"
        )
    if len(first) not in (2, 3):
        raise DataError(
            f"{file}: line 1: {len(first)} cells, expected path,label or path,label,split"
            + (f"; {ONE_LABEL}" if len(first) > 3 else "")
        )
    return _Columns(0, 1, 2 if len(first) == 3 else None, len(first), headed=False)


def _row(place: str, line: int, cells: Sequence[str], columns: _Columns) -> _Row:
    if len(cells) != columns.count:
        raise DataError(f"{place}: {len(cells)} cells, but line 1 has {columns.count}")
    path, label = cells[columns.path], cells[columns.label]
    split = cells[columns.split].lower() if columns.split is not None else ""
    if not path or not label:
        raise DataError(f"{place}: no {'label' if path else 'path'}")
    if is_list(label):
        raise DataError(f"{place}: {label!r} looks like several labels; {ONE_LABEL}")
    if columns.split is not None and split not in PART_NAMES:
        raise DataError(f"{place}: split {split!r}; expected train, val or test")
    return _Row(line, path, label, split)


def _check(file: Path, rows: Sequence[_Row]) -> None:
    """DataError where a picture comes twice, or is not there; `rows` are sorted by path."""
    for one, two in pairwise(rows):
        if one.path == two.path:
            raise DataError(
                f"{file}: line {max(one.line, two.line)}: {one.path} is in line"
                f" {min(one.line, two.line)} already; {ONE_LABEL}"
            )
    missing = [row for row in rows if not (file.parent / row.path).is_file()]
    if missing:
        first = min(missing, key=lambda row: row.line)
        raise DataError(
            f"{file}: line {first.line}: no file {file.parent / first.path}"
            + (f", and {len(missing) - 1:,} more are missing" if len(missing) > 1 else "")
            + "; paths are relative to the CSV's folder, and a header has path,label"
        )
