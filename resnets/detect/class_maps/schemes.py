"""Encodings of class maps of known data sets, and files that define custom classes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from resnets.data.errors import DataError
from resnets.detect.data.class_maps import (
    CITYSCAPES,
    CITYSCAPES_COLORS,
    IGNORE,
    VOC_VOID,
    Coding,
    voc_color,
)
from resnets.detect.data.documents import decode_text, parse_yaml
from resnets.detect.formats.class_names import number_names, strip_trailing_blanks
from resnets.detect.formats.voc.dataset import CLASSES as VOC_OBJECTS
from resnets.detect.images.store import Store
from resnets.utils.errors import reading

VOC = ("background", *VOC_OBJECTS)
CLASS_FILES = (
    "semantic_classes.yaml", "classes.yaml", "classes.yml", "classes.txt", "class_names.txt",
    "labelmap.txt", "label_colors.txt", "class_dict.csv", "_classes.csv", "labels.txt",
    "codes.txt",
)  # fmt: skip
IGNORED_NAMES = frozenset({"unlabeled", "unlabelled", "void", "ignore", "__ignore__", "unknown"})


@dataclass(frozen=True)
class ClassTable:
    """Class names by number, and numbers by color if the file has colors."""

    names: Mapping[int, str]
    colors: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Scheme:
    """The classes of a set with class maps, their original numbers, and the coding of the maps."""

    classes: tuple[str, ...]
    numbers: tuple[int, ...]
    coding: Coding


def open_scheme(store: Store, name: str, is_voc: bool) -> Scheme | None:
    """Return the scheme called `name` (`detect.class_map`), with class names of the set's own file.

    None if there is neither a file of names nor a scheme that has them.
    """
    table = read_class_table(store)
    if name == "binary":
        pair = list(table.names.values()) if table else []
        pair = pair if len(pair) == 2 else ["background", "object"]
        return _make_scheme(name, dict(enumerate(pair)), {0: 0, 1: 1, 255: 1}, {0: 0, 0xFFFFFF: 1})
    train_names = {label: name for label, (_, _, name) in enumerate(CITYSCAPES)}
    if name == "cityscapes":
        labels = dict.fromkeys((*range(34), IGNORE), IGNORE)
        labels |= {number: label for label, (number, _, _) in enumerate(CITYSCAPES)}
        return _make_scheme(name, train_names, labels, CITYSCAPES_COLORS)
    if name == "cityscapes-trainids":
        labels = {label: label for label in range(19)} | {IGNORE: IGNORE}
        return _make_scheme(name, train_names, labels, CITYSCAPES_COLORS)
    if table is None and (name == "voc" or is_voc):
        table = ClassTable(dict(enumerate(VOC)))
    if table is None:
        return None
    used_names = {v: n for v, n in table.names.items() if n.lower() not in IGNORED_NAMES}
    numbers = sorted(used_names)
    label_of = {number: label for label, number in enumerate(numbers)}
    labels = dict.fromkeys((*table.names, IGNORE), IGNORE) | label_of
    colors = {color: label_of.get(number, IGNORE) for color, number in table.colors.items()}
    if name == "voc":
        colors = {voc_color(number): label for number, label in labels.items() if number != IGNORE}
        colors |= {VOC_VOID: IGNORE}
    names = {label: used_names[number] for number, label in label_of.items()}
    return _make_scheme(name, names, labels, colors, tuple(numbers))


def _make_scheme(
    name: str,
    names: Mapping[int, str],
    labels: Mapping[int, int],
    colors: Mapping[int, int],
    numbers: tuple[int, ...] | None = None,
) -> Scheme:
    classes = tuple(names[label] for label in sorted(names))
    return Scheme(
        classes, numbers or tuple(range(len(classes))), Coding(name, labels, colors, names)
    )


def read_class_table(store: Store) -> ClassTable | None:
    """Read class names, and colors, from a file of CLASS_FILES; None if there is none.

    The first of CLASS_FILES is used, of several the one nearest to the top. DataError if another
    file contradicts it, or it has no names.
    """
    order = {name: index for index, name in enumerate(CLASS_FILES)}
    paths = sorted(
        (p for p in store.rows if PurePosixPath(p).name.lower() in order),
        key=lambda p: (order[PurePosixPath(p).name.lower()], p.count("/")),
    )
    if not paths:
        return None
    tables = {path: _read_table(store, path) for path in paths}
    first, table = next(iter(tables.items()))
    if not table.names:
        raise DataError(f"{store.display_path(first)}: contains no class name")
    for path, other in tables.items():
        for number in sorted(table.names.keys() & other.names.keys()):
            name, other_name = table.names[number], other.names[number]
            if name.casefold() != other_name.casefold():
                raise DataError(
                    f"{store.display_path(path)}: class {number} is {other_name}, but {name} in"
                    f" {store.display_path(first)}; keep one of the files"
                )
        same_name = PurePosixPath(path).name.lower() == PurePosixPath(first).name.lower()
        if same_name and path.count("/") == first.count("/") and other != table:
            raise DataError(f"{store.display_path(path)}: other classes than {first}; keep one")
    return table


def _read_table(store: Store, path: str) -> ClassTable:
    with reading(store.display_path(path), DataError, "as names of classes"):
        return _parse_table(store, path)


def _parse_table(store: Store, path: str) -> ClassTable:
    where = store.display_path(path)
    if path.lower().endswith((".yaml", ".yml")):
        return ClassTable(_parse_yaml(store.read(path), where))
    all_lines = decode_text(store.read(path), where).splitlines()
    lines = [line.lstrip("\ufeff").strip() for line in all_lines]
    lines = [line for line in lines if line and not line.startswith("#")]
    for parse in (_parse_labelmap, _parse_csv, _parse_color_lines, _parse_number_lines):
        try:
            table = parse(lines)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        if table is not None:
            return _check_numbers(table, where)
    lines = [line for line in strip_trailing_blanks(all_lines, where) if not line.startswith("#")]
    if lines and lines[0] == "__ignore__":  # labelme counts classes from -1
        lines = lines[1:]
    return _check_numbers(ClassTable(dict(enumerate(lines))), where)


def _check_numbers(table: ClassTable, where: str) -> ClassTable:
    invalid = [number for number in table.names if not 0 <= number < IGNORE]
    if invalid:
        raise DataError(f"{where}: class number {invalid[0]}; numbers are 0 to {IGNORE - 1}")
    return table


def _parse_labelmap(lines: list[str]) -> ClassTable | None:
    """Parse CVAT's labelmap.txt: "name:r,g,b:parts:actions"."""
    matches = [re.fullmatch(r"(.+?):(\d+),(\d+),(\d+):[^:]*:[^:]*", line) for line in lines]
    if not lines or not all(matches):
        return None
    rows = [match for match in matches if match is not None]
    names = {number: match[1] for number, match in enumerate(rows)}
    colors = [_pack_color(*row.groups()[1:]) for row in rows]
    _check_unique("color", [f"#{color:06x}" for color in colors])
    return ClassTable(names, {color: number for number, color in enumerate(colors)})


def _parse_csv(lines: list[str]) -> ClassTable | None:
    """Parse class_dict.csv, "name,r,g,b", or Roboflow's _classes.csv, "Pixel Value, Class"."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO("\n".join(lines)))]
    if not rows or len(rows[0]) < 2:
        return None
    header = [cell.lower() for cell in rows[0]]
    name_column = next(
        (header.index(each) for each in ("name", "class", "label") if each in header), None
    )
    if name_column is None or any(len(row) != len(header) for row in rows):
        return None
    value_column = next(
        (header.index(e) for e in ("pixel value", "value", "id") if e in header), None
    )
    if value_column is not None and not all(row[value_column].isdecimal() for row in rows[1:]):
        return None
    in_color = {"r", "g", "b"} <= set(header)
    if value_column is None and not in_color:
        return None
    numbers = [
        n if value_column is None else int(row[value_column]) for n, row in enumerate(rows[1:])
    ]
    names = {number: row[name_column] for number, row in zip(numbers, rows[1:], strict=True)}
    _check_unique("number", numbers)
    if not in_color:
        return ClassTable(names)
    color_columns = [header.index(each) for each in "rgb"]
    if not all(row[place].isdecimal() for row in rows[1:] for place in color_columns):
        return None
    colors = [_pack_color(*(row[i] for i in color_columns)) for row in rows[1:]]
    _check_unique("color", [f"#{color:06x}" for color in colors])
    return ClassTable(names, dict(zip(colors, numbers, strict=True)))


def _check_unique(what: str, values: Sequence[object]) -> None:
    """Raise DataError if two classes have the same number or color."""
    repeated = [each for each in values if list(values).count(each) > 1]
    if repeated:
        raise DataError(
            f"two classes have the {what} {repeated[0]}; give each class one of its own"
        )


def _parse_color_lines(lines: list[str]) -> ClassTable | None:
    """Parse CamVid's label_colors.txt: "r g b name"."""
    matches = [re.fullmatch(r"(\d{1,3})\s+(\d{1,3})\s+(\d{1,3})\s+(\S.*)", line) for line in lines]
    if not lines or not all(matches):
        return None
    rows = [match for match in matches if match is not None]
    names = {number: match[4] for number, match in enumerate(rows)}
    colors = [_pack_color(*row.groups()[:3]) for row in rows]
    _check_unique("color", [f"#{color:06x}" for color in colors])
    return ClassTable(names, {color: number for number, color in enumerate(colors)})


def _parse_number_lines(lines: list[str]) -> ClassTable | None:
    """Parse "0: background" or "0 background", if every line has a number of its own."""
    matches = [re.fullmatch(r"(\d{1,3})\s*[:;,=\s]\s*(\S.*)", line) for line in lines]
    if not lines or not all(matches):
        return None
    names = {int(match[1]): match[2] for match in matches if match is not None}
    return ClassTable(names) if len(names) == len(lines) else None


def _pack_color(*planes: Any) -> int:
    red, green, blue = (min(255, int(plane)) for plane in planes)
    return red << 16 | green << 8 | blue


def _parse_yaml(data: bytes, where: str) -> dict[int, str]:
    document = parse_yaml(data, where)
    names = document.get("classes", document.get("names")) if isinstance(document, dict) else None
    if not isinstance(names, dict | list):
        raise DataError(f"{where}: needs `classes:` with a line `value: name` for each, 0 to 254")
    return number_names(names, where, IGNORE)
