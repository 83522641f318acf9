"""Which column of a table is the image and which its label, and the labels as classes.

A column of splits is read by the rule for text tables (`table_columns`).
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from resnets.data.dataset.source import Part, Rows, Source, by_role
from resnets.data.errors import DataError
from resnets.data.files.walk import LeftOut
from resnets.data.layout.folder_names import split_role
from resnets.data.tables.columns import (
    GROUPS,
    LABELS,
    SPLITS,
    find_name,
    flag_role,
    plain,
    shown_names,
)
from resnets.data.tables.labels import ONE_LABEL, class_names, is_list, number_labels
from resnets.data.tables.reader import open_table_bytes

log = logging.getLogger("resnets")

IMAGES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "byte")
SIMPLE = frozenset(
    {"string", "large_string"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
BYTES = frozenset({"binary", "large_binary"})
NO_SPLIT = "rows of a part that is called otherwise than train, val or test"
SECRET = "rows of a part whose labels are secret"


@dataclass(frozen=True)
class Columns:
    """Names of the two columns, and of the classes where the table says them.

    marks: columns that may say the split of each row, with the names of their values where a
    ClassLabel has them. group: the column of `data.group`. unused: all other columns.
    """

    image: str
    label: str
    classes: tuple[str, ...]
    marks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    group: str | None = None
    unused: tuple[str, ...] = ()

    def said(self, unused: Sequence[str], split: str = "") -> str:
        """What was taken for what, as of a text table."""
        words = [f"image: {self.image!r}", f"label: {self.label!r}"]
        words += [f"split: {split}"] if split else []
        words += [f"group: {self.group!r}"] if self.group else []
        words += [f"not used: {shown_names(unused)}"] if unused else []
        return ", ".join(words)


def find_columns(features: Mapping[str, Any], where: str, group: str | None = None) -> Columns:
    """The columns of a table with `datasets`' `features`; `group`: the name of that of groups.

    The image is the one Image feature, else the column of bytes called image, img, jpg or so; the
    label the one ClassLabel, else the column of numbers or names called label, cls or so. DataError
    lists the columns where that leaves none or several.
    """
    image = find_image_column(features, where)
    labels = [name for name, feature in features.items() if _kind(feature) == "ClassLabel"]
    labels = labels or [name for name in features if plain(name) in LABELS]
    label = _the_one("label", labels, LABELS, features, where)
    feature = features[label]
    if _kind(feature) in ("List", "Sequence", "LargeList", "list", "dict"):
        raise DataError(f"{where}: column {label} holds several labels an image; {ONE_LABEL}")
    if _kind(feature) != "ClassLabel" and feature.dtype not in SIMPLE:
        raise DataError(
            f"{where}: column {label} is {feature.dtype}; labels are names or whole numbers"
        )
    names = list(features)
    place = None if group is None else find_name(group, names)
    grouped = None if place is None else names[place]
    marks = {
        name: tuple(getattr(feature, "names", None) or ())
        for name, feature in features.items()
        if name not in (image, label, grouped) and _is_mark(name, feature)
    }
    unused = tuple(name for name in features if name not in (image, label, grouped, *marks))
    classes = tuple(getattr(feature, "names", None) or ())
    return Columns(image, label, classes, marks, grouped, unused)


def find_image_column(features: Mapping[str, Any], where: str) -> str:
    """The column of images alone; see `find_columns`."""
    images = [name for name, feature in features.items() if _kind(feature) == "Image"]
    images = images or [
        name for name in features if plain(name) in IMAGES and _holds_bytes(features[name])
    ]
    return _the_one("image", images, IMAGES, features, where)


def _is_mark(name: str, feature: Any) -> bool:
    """Whether a column may say the split of each row, or which rows belong together."""
    called = plain(name) in SPLITS or flag_role(name) is not None or GROUPS.search(plain(name))
    simple = _kind(feature) in ("ClassLabel", "Value") and feature.dtype in (*SIMPLE, "bool")
    return bool(called) and simple


def _kind(feature: Any) -> str:
    return type(feature).__name__


def _holds_bytes(feature: Any) -> bool:
    if isinstance(feature, dict):
        feature = feature.get("bytes")
    return getattr(feature, "dtype", None) in BYTES


def _the_one(
    what: str,
    found: Sequence[str],
    known: Sequence[str],
    features: Mapping[str, Any],
    where: str,
) -> str:
    """The only one of `found`, or the only one with the first of the `known` names."""
    if len(found) == 1:
        return found[0]
    for name in known:
        if same := [each for each in found if plain(each) == name]:
            return same[0]
    columns = ", ".join(f"{name} ({_shown(feature)})" for name, feature in features.items())
    problem = f"several {what} columns" if found else f"no {what} column"
    raise DataError(
        f"{where}: {problem} among {columns}; call the one to take {known[0]}, in a copy of it"
    )


def _shown(feature: Any) -> str:
    kind = _kind(feature)
    return feature.dtype if kind == "Value" else kind


@dataclass(frozen=True)
class Table:
    """A part of a set: its columns, the label of each image as stored, and its `marks` so.

    groups: the value of each in the column of groups, where there is one.
    """

    columns: Columns
    labels: Sequence[Any]
    marks: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    groups: Sequence[Any] | None = None

    def groups_of(self, rows: Rows, where: str) -> Sequence[str] | None:
        """The names of the groups of `rows`; DataError where one has none."""
        if self.groups is None:
            return None
        found = [self.groups[row] for row in rows.tolist()]
        if None in found:
            raise DataError(
                f"{where}: row {rows[found.index(None)]}: no value in the column of groups,"
                f" {self.columns.group!r}"
            )
        return list(map(str, found))


class Piece(NamedTuple):
    """Images of one split: what it is called, those `rows` of the table `table`, their labels, and
    groups where a column says them."""

    title: str
    table: str
    rows: Rows
    labels: Rows
    groups: Sequence[str] | None = None


def from_tables(
    name: str,
    where: str,
    tables: Mapping[str, Table],
    part: Callable[[Piece], Part],
    left_out: LeftOut | None = None,
) -> Source:
    """The set of `tables` by their titles; `part` makes a part of a piece of one.

    A single table is split by its column of splits, where it has one. Beside a train part, those
    that are called otherwise than train, validation or test are left out and counted, and so is a
    test part whose labels are secret (all of them -1 or null). DataError: two parts of one split, a
    column of splits that disagrees with the parts, labels that are no class of training.
    """
    counted = LeftOut()
    if left_out is not None:
        counted.add_all(left_out)
    roles, notes = _roles(tables, where, counted), list[str]()
    chosen: dict[str, tuple[str, str, Rows]] = {}  # by split: title, table, rows
    for title, role in roles.items():
        table = tables[title]
        said = _said_splits(table, _place(where, title))
        notes += [said.note] if said.note not in notes else []
        if said.splits is not None and len(roles) == 1:
            for split in sorted(set(said.splits)):
                chosen[split] = split, title, np.flatnonzero(said.splits == split)
            continue
        if said.splits is not None and (other := set(said.splits.tolist()) - {role}):
            raise DataError(
                f"{_place(where, title)}: its column {said.column} has rows of {min(other)}; rows"
                " and parts are to say the same split, or only one of them any"
            )
        chosen[role] = title, title, np.arange(len(table.labels))
    first = chosen.get("train", next(iter(chosen.values())))
    classes = _classes(_taken(tables[first[1]], first[2]), where)
    parts = {}
    for split, (title, key, rows) in chosen.items():
        labels = _numbers(_taken(tables[key], rows), classes, _place(where, title), rows)
        if labels is None and (title, key) != first[:2]:
            log.info("%s: the labels of %s are secret; left alone", where, title)
            counted.add(SECRET, title, suffix="", count=len(rows))
            continue
        if labels is None:
            raise DataError(f"{where}: has no labels: all are -1 or missing")
        groups = tables[key].groups_of(rows, _place(where, title))
        parts[split] = part(Piece(title, key, rows, labels, groups))
    source = by_role(name, classes, parts, where)
    return replace(source, left_out=counted, notes=(*source.notes, *notes))


def _place(where: str, title: str) -> str:
    return f"{where}/{title}" if title else where


def _taken(table: Table, rows: Rows) -> Table:
    if len(rows) == len(table.labels):
        return table
    return Table(table.columns, [table.labels[row] for row in rows.tolist()])


def _roles(tables: Mapping[str, Table], where: str, left_out: LeftOut) -> dict[str, str]:
    """The split of each part by its title; all titles as they are where no part is train."""
    if len(tables) == 1:
        return {title: title for title in tables}
    roles: dict[str, str] = {title: split_role(title) or "" for title in tables}
    if "train" not in roles.values():
        roles = {title: "train" if role == "trainval" else role for title, role in roles.items()}
    if "train" not in roles.values():
        return {title: role or title for title, role in roles.items()}
    found: dict[str, str] = {}
    for title, role in roles.items():
        if role not in ("train", "val", "test"):
            left_out.add(NO_SPLIT, title, suffix="", count=len(tables[title].labels))
        elif (same := next((each for each in found if found[each] == role), None)) is not None:
            raise DataError(f"{where}: its parts {same} and {title} are both {role}; remove one")
        else:
            found[title] = role
    return found


class _Splits(NamedTuple):
    column: str
    splits: Any  # (N,) of texts; None where no column says them
    note: str  # which columns were taken for what


def _said_splits(table: Table, where: str) -> _Splits:
    """The split of each row by the table's own columns, as if it were written as CSV."""
    columns, marks = table.columns, table.columns.marks
    if not marks or not table.labels:
        return _Splits("", None, columns.said([*columns.unused, *marks]))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "label", *marks])
    cells = [_texts(table.marks[column], names) for column, names in marks.items()]
    for row, values in enumerate(zip(*cells, strict=True)):
        writer.writerow([row, "x", *values])
    place = f"{where}: {', '.join(marks)} (line 2 is row 0)"
    found = open_table_bytes(text.getvalue().encode(), place, lambda _: False)
    assert found is not None
    found.warn_of_unused()
    unused = [*columns.unused, *(name for name in marks if name in found.columns.unused)]
    if not found.columns.splits:
        return _Splits("", None, columns.said([*columns.unused, *marks]))
    used = ", ".join(column for column in marks if column not in found.columns.unused)
    splits = np.array([row.split for row in found.rows()])
    return _Splits(used, splits, columns.said(unused, used))


def _texts(values: Sequence[Any], names: Sequence[str]) -> list[str]:
    if not names:
        return ["" if value is None else str(value) for value in values]
    return ["" if value is None or value < 0 else names[value] for value in values]


def _numbers(table: Table, classes: Sequence[str], where: str, rows: Rows) -> Rows | None:
    """(N,) int64; None where all labels are -1 or null. DataError where some are.

    The names of a ClassLabel are found among `classes`: parts may number them otherwise.
    """
    values, names = table.labels, table.columns.classes
    absent = [row for row, value in enumerate(values) if value is None or value == -1]
    if absent and len(absent) == len(values):
        return None
    if absent:
        raise DataError(
            f"{where}: {len(absent):,} of {len(values):,} images have no label, the first in row"
            f" {rows[absent[0]]}"
        )
    if not names:
        texts = [str(value) for value in values]
        return number_labels(texts, classes, lambda row: f"{where}: row {rows[row]}")
    numbers = np.asarray(values, np.int64)
    if numbers.min(initial=0) < 0 or numbers.max(initial=0) >= len(names):
        raise DataError(f"{where}: has labels beyond the {len(names)} classes it names")
    if tuple(names) == tuple(classes):
        return numbers
    known = {each: number for number, each in enumerate(classes)}
    places = np.array([known.get(each, -1) for each in names], np.int64)
    if (unknown := np.flatnonzero(places[numbers] < 0)).size:
        row = unknown[0]
        raise DataError(
            f"{where}: row {rows[row]}: {names[numbers[row]]!r} is none of the training part's"
            f" {len(classes):,} classes"
        )
    return places[numbers]


def _classes(table: Table, where: str) -> tuple[str, ...]:
    """Those that the table names, or its distinct labels, sorted."""
    texts = {str(value) for value in table.labels if value is not None}
    if not table.columns.classes and (several := next(filter(is_list, sorted(texts)), None)):
        raise DataError(f"{where}: {several!r} looks like several labels; {ONE_LABEL}")
    return table.columns.classes or class_names(texts)
