"""Which column of a table is the image and which its label, and the labels as classes.

A column of splits is read by the rule for text tables (`columns`).
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from resnets.data.dataset.labels import Labels
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
from resnets.data.tables.label_sets import LabelForm, LabelSets, read_label_sets
from resnets.data.tables.labels import Label, class_names, names_of, number_labels
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

    lists: the column of labels holds a list of them for each image.

    marks: columns that may say the split of each row, with the names of their values where a
    ClassLabel has them. group: the column of `data.group`. unused: all other columns.
    """

    image: str
    label: str
    classes: tuple[str, ...]
    marks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    group: str | None = None
    unused: tuple[str, ...] = ()
    lists: bool = False

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
    lists = _kind(feature) in ("List", "Sequence", "LargeList", "list")
    if lists:
        feature = feature[0] if isinstance(feature, list) else feature.feature
    if isinstance(feature, dict | list) or not hasattr(feature, "dtype"):
        raise DataError(
            f"{where}: column {label} is {_shown(features[label])}; labels are names, whole"
            " numbers, or lists of these"
        )
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
    return Columns(image, label, classes, marks, grouped, unused, lists)


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
    labels: Labels
    groups: Sequence[str] | None = None


def from_tables(
    name: str,
    where: str,
    tables: Mapping[str, Table],
    part: Callable[[Piece], Part],
    left_out: LeftOut | None = None,
    form: LabelForm = "auto",
) -> Source:
    """The set of `tables` by their titles; `part` makes a part of a piece of one.

    form: see `label_sets.read_label_sets`.

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
    training = _meant(_taken(tables[first[1]], first[2]), _place(where, first[0]), first[2], form)
    classes = tables[first[1]].columns.classes
    if training is not None:
        classes = classes or class_names(training.labels)
        form = "multi" if training.multi else form
        notes += [training.said] if training.said else []
    parts = {}
    for split, (title, key, rows) in chosen.items():
        table, place = _taken(tables[key], rows), _place(where, title)
        meant = training if (title, key) == first[:2] else _meant(table, place, rows, form)
        labels = None if meant is None else _numbers(table, meant, classes, place, rows)
        if labels is None and (title, key) != first[:2]:
            log.info("%s: the labels of %s are secret; left alone", where, title)
            counted.add(SECRET, title, suffix="", count=len(rows))
            continue
        if labels is None:
            raise DataError(f"{where}: has no labels: all are -1 or missing")
        groups = tables[key].groups_of(rows, _place(where, title))
        parts[split] = part(Piece(title, key, rows, labels, groups))
    source = by_role(name, classes, parts, where)
    warnings = () if training is None or not training.warning else (training.warning,)
    return replace(
        source,
        left_out=counted,
        notes=(*source.notes, *notes),
        warnings=(*source.warnings, *warnings),
    )


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


def _meant(table: Table, where: str, rows: Rows, form: LabelForm) -> LabelSets | None:
    """The labels by name; None where all are -1 or null. DataError where some are.

    Those of a ClassLabel are single names unless they are in lists, or `form` says sets.
    """
    values, names = table.labels, table.columns.classes
    absent = [row for row, value in enumerate(values) if value is None or _is_secret(value)]
    if absent and len(absent) == len(values):
        return None
    if absent:
        raise DataError(
            f"{where}: {len(absent):,} of {len(values):,} images have no label, the first in row"
            f" {rows[absent[0]]}"
        )

    def name(value: Any) -> str:
        if not names:
            return str(value)
        if not 0 <= value < len(names):
            raise DataError(f"{where}: has labels beyond the {len(names)} classes it names")
        return names[value]

    if table.columns.lists:
        sets: list[Label] = [tuple(dict.fromkeys(map(name, value))) for value in values]
        return read_label_sets(
            sets, lambda row: f"{where}: row {rows[row]}", "single" if form == "single" else "multi"
        )
    texts = [name(value) for value in values]
    if names:  # no list is written in them
        return LabelSets([(text,) for text in texts] if form == "multi" else texts, form == "multi")
    return read_label_sets(texts, lambda row: f"{where}: row {rows[row]}", form)


def _is_secret(value: Any) -> bool:
    return bool(value == -1) or (isinstance(value, list) and value == [-1])


def _numbers(
    table: Table, meant: LabelSets, classes: Sequence[str], where: str, rows: Rows
) -> Labels:
    """(N,) int64 of labels by name, or (N, K). The names of a ClassLabel are found among `classes`:
    parts may number them otherwise."""
    known = {*classes}
    if table.columns.classes:
        for row, label in enumerate(meant.labels):
            if unknown := [each for each in names_of(label) if each not in known]:
                raise DataError(
                    f"{where}: row {rows[row]}: {unknown[0]!r} is none of the training part's"
                    f" {len(classes):,} classes"
                )
    return number_labels(meant.labels, classes, lambda row: f"{where}: row {rows[row]}")
