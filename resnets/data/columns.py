"""Which column of a table is the picture and which its label, and the labels as classes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnets.data.errors import DataError
from resnets.data.labels import ONE_LABEL, class_names, is_list, number_labels
from resnets.data.parts import PART_NAMES, Part, Rows, Source, by_role
from resnets.data.table_columns import LABELS, plain

log = logging.getLogger("resnets")

IMAGES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "byte")
SIMPLE = frozenset(
    {"string", "large_string"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
BYTES = frozenset({"binary", "large_binary"})


@dataclass(frozen=True)
class Columns:
    """Names of the two columns, and of the classes where the table says them."""

    picture: str
    label: str
    classes: tuple[str, ...]


def find_columns(features: Mapping[str, Any], where: str) -> Columns:
    """The columns of a table with `datasets`' `features`.

    The picture is the one Image feature, else the column of bytes called image, img, jpg or so; the
    label the one ClassLabel, else the column of numbers or names called label, cls or so. DataError
    lists the columns where that leaves none or several.
    """
    picture = find_picture(features, where)
    labels = [name for name, feature in features.items() if _kind(feature) == "ClassLabel"]
    labels = labels or [name for name in features if plain(name) in LABELS]
    label = _the_one("label", labels, LABELS, features, where)
    feature = features[label]
    if _kind(feature) in ("List", "Sequence", "LargeList", "list", "dict"):
        raise DataError(f"{where}: column {label} holds several labels a picture; {ONE_LABEL}")
    if _kind(feature) != "ClassLabel" and feature.dtype not in SIMPLE:
        raise DataError(
            f"{where}: column {label} is {feature.dtype}; labels are names or whole numbers"
        )
    return Columns(picture, label, tuple(getattr(feature, "names", None) or ()))


def find_picture(features: Mapping[str, Any], where: str) -> str:
    """The column of pictures alone; see `find_columns`."""
    pictures = [name for name, feature in features.items() if _kind(feature) == "Image"]
    pictures = pictures or [
        name for name in features if plain(name) in IMAGES and _holds_bytes(features[name])
    ]
    return _the_one("picture", pictures, IMAGES, features, where)


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
    """A part of a set: its columns, and the label of each picture as stored."""

    columns: Columns
    labels: Sequence[Any]


def from_tables(
    name: str, where: str, tables: Mapping[str, Table], part: Callable[[str, Rows], Part]
) -> Source:
    """The set of `tables` by their titles; `part(title, labels)` makes a part of one.

    Parts that are called otherwise than train, validation or test are left alone beside a train
    part, and so is a test part whose labels are secret (all of them -1 or null).
    """
    if "train" in tables:
        tables = {title: table for title, table in tables.items() if title in PART_NAMES}
    first = tables.get("train", next(iter(tables.values())))
    classes = _classes(first, where)
    parts = {}
    for title, table in tables.items():
        labels = _numbers(table, classes, f"{where}/{title}" if title else where)
        if labels is None and table is not first:
            log.info("%s: the labels of %s are secret; left alone", where, title)
            continue
        if labels is None:
            raise DataError(f"{where}: has no labels: all are -1 or missing")
        parts[title] = part(title, labels)
    return by_role(name, classes, parts, where)


def _numbers(table: Table, classes: Sequence[str], where: str) -> Rows | None:
    """(N,) int64; None where all labels are -1 or null. DataError where some are."""
    values, names = table.labels, table.columns.classes
    absent = [row for row, value in enumerate(values) if value is None or value == -1]
    if absent and len(absent) == len(values):
        return None
    if absent:
        raise DataError(
            f"{where}: {len(absent):,} of {len(values):,} pictures have no label, the first in row"
            f" {absent[0]}"
        )
    if not names:
        texts = [str(value) for value in values]
        return number_labels(texts, classes, lambda row: f"{where}: row {row}")
    numbers = np.asarray(values, np.int64)
    if numbers.min(initial=0) < 0 or numbers.max(initial=0) >= len(names):
        raise DataError(f"{where}: has labels beyond the {len(names)} classes it names")
    return numbers


def _classes(table: Table, where: str) -> tuple[str, ...]:
    """Those that the table names, or its distinct labels, sorted."""
    texts = {str(value) for value in table.labels if value is not None}
    if not table.columns.classes and (several := next(filter(is_list, sorted(texts)), None)):
        raise DataError(f"{where}: {several!r} looks like several labels; {ONE_LABEL}")
    return table.columns.classes or class_names(texts)
