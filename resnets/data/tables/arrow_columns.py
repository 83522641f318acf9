"""Find the columns of Arrow tables (Parquet, `datasets`), and build a source of their rows.

A column of splits is read by the rules for text tables (`columns`).
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
from resnets.data.dataset.source import Part, Rows, Source, source_from_parts
from resnets.data.errors import DataError
from resnets.data.files.walk import SkippedFiles
from resnets.data.layout.folder_names import split_role
from resnets.data.tables.columns import (
    GROUP_NAME,
    LABELS,
    SPLITS,
    find_column,
    format_names,
    normalize_name,
    parse_flag_name,
)
from resnets.data.tables.labels import Label, class_names, encode_labels, label_names
from resnets.data.tables.multilabel import LabelForm, ParsedLabels, parse_labels
from resnets.data.tables.reader import open_table_bytes

log = logging.getLogger("resnets")

IMAGE_NAMES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "byte")
LABEL_DTYPES = frozenset(
    {"string", "large_string"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
BYTES_DTYPES = frozenset({"binary", "large_binary"})
NO_SPLIT = "rows of a part not named train, val or test"
SECRET_LABELS = "rows of a part whose labels are secret"


@dataclass(frozen=True)
class ArrowColumns:
    """Columns of images and labels in an Arrow table, with the class names if it has them.

    split_columns: columns that may contain the split of each row, with the names of their values if
    they are a ClassLabel. group: the column of `data.group`. unused: all other columns. lists: the
    label column contains a list of labels per image.
    """

    image: str
    label: str
    classes: tuple[str, ...]
    split_columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    group: str | None = None
    unused: tuple[str, ...] = ()
    lists: bool = False

    def describe(self, unused: Sequence[str], split: str = "") -> str:
        """Describe which column is used for what, as `columns.Columns.describe`."""
        parts = [f"image: {self.image!r}", f"label: {self.label!r}"]
        parts += [f"split: {split}"] if split else []
        parts += [f"group: {self.group!r}"] if self.group else []
        parts += [f"not used: {format_names(unused)}"] if unused else []
        return ", ".join(parts)


def find_arrow_columns(
    features: Mapping[str, Any], where: str, group: str | None = None
) -> ArrowColumns:
    """Find the columns of a table in `features` of `datasets`; `group`: column of groups.

    The image is the only Image feature, else the column of bytes called image, img, jpg or so; the
    label is the only ClassLabel, else the column of numbers or names called label, cls or so.
    Raises DataError, which lists the columns, if that leaves none or several.
    """
    image = find_image_column(features, where)
    labels = [name for name, feature in features.items() if _feature_type(feature) == "ClassLabel"]
    labels = labels or [name for name in features if normalize_name(name) in LABELS]
    label = _select_column("label", labels, LABELS, features, where)
    feature = features[label]
    lists = _feature_type(feature) in ("List", "Sequence", "LargeList", "list")
    if lists:
        feature = feature[0] if isinstance(feature, list) else feature.feature
    if isinstance(feature, dict | list) or not hasattr(feature, "dtype"):
        raise DataError(
            f"{where}: column {label} is {_format_feature(features[label])}; labels are names,"
            " whole numbers, or lists of these"
        )
    if _feature_type(feature) != "ClassLabel" and feature.dtype not in LABEL_DTYPES:
        raise DataError(
            f"{where}: column {label} is {feature.dtype}; labels are names or whole numbers"
        )
    names = list(features)
    group_index = None if group is None else find_column(group, names)
    group_name = None if group_index is None else names[group_index]
    split_columns = {
        name: tuple(getattr(feature, "names", None) or ())
        for name, feature in features.items()
        if name not in (image, label, group_name) and _is_split_column(name, feature)
    }
    unused = tuple(
        name for name in features if name not in (image, label, group_name, *split_columns)
    )
    classes = tuple(getattr(feature, "names", None) or ())
    return ArrowColumns(image, label, classes, split_columns, group_name, unused, lists)


def find_image_column(features: Mapping[str, Any], where: str) -> str:
    """Return the name of the image column; see `find_arrow_columns`."""
    images = [name for name, feature in features.items() if _feature_type(feature) == "Image"]
    images = images or [
        name
        for name in features
        if normalize_name(name) in IMAGE_NAMES and _holds_bytes(features[name])
    ]
    return _select_column("image", images, IMAGE_NAMES, features, where)


def _is_split_column(name: str, feature: Any) -> bool:
    """Return whether a column may contain the split of each row, or groups of related rows."""
    normalized = normalize_name(name)
    if _feature_type(feature) not in ("ClassLabel", "Value"):
        return False
    if feature.dtype not in (*LABEL_DTYPES, "bool"):
        return False
    return (
        normalized in SPLITS
        or parse_flag_name(name) is not None
        or GROUP_NAME.search(normalized) is not None
    )


def _feature_type(feature: Any) -> str:
    return type(feature).__name__


def _holds_bytes(feature: Any) -> bool:
    if isinstance(feature, dict):
        feature = feature.get("bytes")
    return getattr(feature, "dtype", None) in BYTES_DTYPES


def _select_column(
    what: str,
    candidates: Sequence[str],
    known_names: Sequence[str],
    features: Mapping[str, Any],
    where: str,
) -> str:
    """Return the only one of `candidates`, or the one with the first of the `known_names`."""
    if len(candidates) == 1:
        return candidates[0]
    for name in known_names:
        if matches := [each for each in candidates if normalize_name(each) == name]:
            return matches[0]
    columns = ", ".join(
        f"{name} ({_format_feature(feature)})" for name, feature in features.items()
    )
    problem = f"several {what} columns" if candidates else f"no {what} column"
    raise DataError(
        f"{where}: {problem} among {columns}; rename the one to use to {known_names[0]}, in a copy"
    )


def _format_feature(feature: Any) -> str:
    kind = _feature_type(feature)
    return feature.dtype if kind == "Value" else kind


@dataclass(frozen=True)
class ArrowTable:
    """Part of a data set: columns, and the stored values of labels, `split_columns` and groups."""

    columns: ArrowColumns
    labels: Sequence[Any]
    split_columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    groups: Sequence[Any] | None = None

    def group_names(self, rows: Rows, where: str) -> Sequence[str] | None:
        """Return the group of each of `rows`, or None; raises DataError for a missing value."""
        if self.groups is None:
            return None
        found = [self.groups[row] for row in rows.tolist()]
        if None in found:
            raise DataError(
                f"{where}: row {rows[found.index(None)]}: no value in the column of groups,"
                f" {self.columns.group!r}"
            )
        return list(map(str, found))


class TableSplit(NamedTuple):
    """Images of one split: title, `rows` of the table `table`, labels, and groups (optional)."""

    title: str
    table: str
    rows: Rows
    labels: Labels
    groups: Sequence[str] | None = None


def source_from_tables(
    name: str,
    where: str,
    tables: Mapping[str, ArrowTable],
    part: Callable[[TableSplit], Part],
    skipped: SkippedFiles | None = None,
    form: LabelForm = "auto",
) -> Source:
    """Create a source from `tables` (by title); `part` creates a part from the rows of a split.

    A single table is split by its column of splits, if any. If there is a train part, parts not
    named train, validation or test are skipped and counted, and so is a test part with secret
    labels (all -1 or null). form: see `multilabel.parse_labels`. Raises DataError for two parts
    of one split, a column of splits that contradicts the parts, and labels that are not classes of
    the training part.
    """
    total_skipped = SkippedFiles()
    if skipped is not None:
        total_skipped.add_all(skipped)
    roles, notes = _find_roles(tables, where, total_skipped), list[str]()
    chosen: dict[str, tuple[str, str, Rows]] = {}  # by split: title, table, rows
    for title, role in roles.items():
        table = tables[title]
        found = _read_split_columns(table, _format_location(where, title))
        notes += [found.note] if found.note not in notes else []
        if found.splits is not None and len(roles) == 1:
            for split in sorted(set(found.splits)):
                chosen[split] = split, title, np.flatnonzero(found.splits == split)
            continue
        if found.splits is not None and (other := set(found.splits.tolist()) - {role}):
            raise DataError(
                f"{_format_location(where, title)}: its column {found.column} has rows of"
                f" {min(other)}; rows and parts must name the same split, or only one of them"
            )
        chosen[role] = title, title, np.arange(len(table.labels))
    first = chosen.get("train", next(iter(chosen.values())))
    first_title, first_table, first_rows = first
    location = _format_location(where, first_title)
    train_labels = _parse_labels(tables[first_table], location, first_rows, form)
    classes = tables[first_table].columns.classes
    if train_labels is not None:
        classes = classes or class_names(train_labels.labels)
        form = "multi" if train_labels.multi else form
        notes += [train_labels.description] if train_labels.description else []
    parts = {}
    for split, (title, table_title, rows) in chosen.items():
        table, location = tables[table_title], _format_location(where, title)
        is_first = (title, table_title) == first[:2]
        parsed = train_labels if is_first else _parse_labels(table, location, rows, form)
        labels = None if parsed is None else _encode_labels(table, parsed, classes, location, rows)
        if labels is None and not is_first:
            log.info("%s: %s has no public labels; skipped", where, title)
            total_skipped.add(SECRET_LABELS, title, suffix="", count=len(rows))
            continue
        if labels is None:
            raise DataError(f"{where}: has no labels: all are -1 or missing")
        groups = table.group_names(rows, location)
        parts[split] = part(TableSplit(title, table_title, rows, labels, groups))
    source = source_from_parts(name, classes, parts, where)
    warnings = () if train_labels is None or not train_labels.warning else (train_labels.warning,)
    return replace(
        source,
        skipped=total_skipped,
        notes=(*source.notes, *notes),
        warnings=(*source.warnings, *warnings),
    )


def _format_location(where: str, title: str) -> str:
    return f"{where}/{title}" if title else where


def _find_roles(
    tables: Mapping[str, ArrowTable], where: str, skipped: SkippedFiles
) -> dict[str, str]:
    """Return the split of each part by title; the titles themselves if no part is train."""
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
            skipped.add(NO_SPLIT, title, suffix="", count=len(tables[title].labels))
        elif (same := next((each for each in found if found[each] == role), None)) is not None:
            raise DataError(
                f"{where}: the splits {same} and {title} are both used for {role}; remove one"
            )
        else:
            found[title] = role
    return found


class _SplitColumns(NamedTuple):
    column: str
    splits: Any  # (N,) text; None without such a column
    note: str  # which column is used for what


def _read_split_columns(table: ArrowTable, where: str) -> _SplitColumns:
    """Read the split of each row from the table's own columns, by the rules for CSV files."""
    columns, split_columns = table.columns, table.columns.split_columns
    if not split_columns or not table.labels:
        return _SplitColumns("", None, columns.describe([*columns.unused, *split_columns]))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "label", *split_columns])
    cells = [
        _format_cells(table.split_columns[column], names) for column, names in split_columns.items()
    ]
    for row, values in enumerate(zip(*cells, strict=True)):
        writer.writerow([row, "x", *values])
    location = f"{where}: {', '.join(split_columns)} (line 2 is row 0)"
    text_table = open_table_bytes(text.getvalue().encode(), location, lambda _: False)
    assert text_table is not None
    text_table.warn_of_unused_columns()
    unused = [
        *columns.unused,
        *(name for name in split_columns if name in text_table.columns.unused),
    ]
    if not text_table.columns.has_splits:
        return _SplitColumns("", None, columns.describe([*columns.unused, *split_columns]))
    used = ", ".join(column for column in split_columns if column not in text_table.columns.unused)
    splits = np.array([row.split for row in text_table.rows()])
    return _SplitColumns(used, splits, columns.describe(unused, used))


def _format_cells(values: Sequence[Any], names: Sequence[str]) -> list[str]:
    if not names:
        return ["" if value is None else str(value) for value in values]
    return ["" if value is None or value < 0 else names[value] for value in values]


def _parse_labels(
    table: ArrowTable, where: str, rows: Rows, form: LabelForm
) -> ParsedLabels | None:
    """Return the labels as names; None if all are -1 or null.

    Labels of a ClassLabel are single names unless they are in lists or `form` is "multi". Raises
    DataError if some labels are missing.
    """
    values, names = [table.labels[row] for row in rows.tolist()], table.columns.classes
    absent = [row for row, value in enumerate(values) if value is None or _is_secret(value)]
    if absent and len(absent) == len(values):
        return None
    if absent:
        raise DataError(
            f"{where}: {len(absent):,} of {len(values):,} images have no label, the first in row"
            f" {rows[absent[0]]}"
        )

    def class_name(value: Any) -> str:
        if not names:
            return str(value)
        if not 0 <= value < len(names):
            raise DataError(f"{where}: has labels beyond the {len(names)} classes it names")
        return names[value]

    if table.columns.lists:
        sets: list[Label] = [tuple(dict.fromkeys(map(class_name, value))) for value in values]
        return parse_labels(
            sets, lambda row: f"{where}: row {rows[row]}", "single" if form == "single" else "multi"
        )
    texts = [class_name(value) for value in values]
    if names:  # no list is written in them
        multi = form == "multi"
        return ParsedLabels([(text,) for text in texts] if multi else texts, multi)
    return parse_labels(texts, lambda row: f"{where}: row {rows[row]}", form)


def _is_secret(value: Any) -> bool:
    return bool(value == -1) or (isinstance(value, list) and value == [-1])


def _encode_labels(
    table: ArrowTable, parsed: ParsedLabels, classes: Sequence[str], where: str, rows: Rows
) -> Labels:
    """Return class indices (N,) int64, or multi-hot (N, K).

    Labels of a ClassLabel are looked up by name, since parts may number the classes differently.
    """
    known = {*classes}
    if table.columns.classes:
        for row, label in enumerate(parsed.labels):
            if unknown := [each for each in label_names(label) if each not in known]:
                raise DataError(
                    f"{where}: row {rows[row]}: {unknown[0]!r} is not one of the {len(classes):,}"
                    " classes of the training part"
                )
    return encode_labels(parsed.labels, classes, lambda row: f"{where}: row {rows[row]}")
