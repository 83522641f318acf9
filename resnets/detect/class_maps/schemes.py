"""Codings of class maps that data sets share, and the files that state a set's own."""

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
from resnets.detect.data.documents import decode_text
from resnets.detect.formats.class_names import load_yaml, strip_trailing_blanks
from resnets.detect.formats.voc.dataset import CLASSES as VOC_OBJECTS
from resnets.detect.images.store import Store
from resnets.utils.errors import reading

VOC = ("background", *VOC_OBJECTS)
CLASS_FILES = (
    *("semantic_classes.yaml", "classes.yaml", "classes.yml", "classes.txt", "class_names.txt"),
    *("labelmap.txt", "label_colors.txt", "class_dict.csv", "_classes.csv", "labels.txt"),
    "codes.txt",
)
NO_CLASS = frozenset({"unlabeled", "unlabelled", "void", "ignore", "__ignore__", "unknown"})


@dataclass(frozen=True)
class ClassTable:
    """What a file says of the classes: name by number, and number by color where it has them."""

    names: Mapping[int, str]
    colors: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Scheme:
    """The classes of a set with class maps, their own numbers, and the coding of the maps."""

    classes: tuple[str, ...]
    numbers: tuple[int, ...]
    coding: Coding


def open_scheme(store: Store, named: str, is_voc: bool) -> Scheme | None:
    """The scheme that `named` (`detect.class_map`) asks for, with the names of the set's own file.

    None where there is neither a file with names nor a scheme that brings them.
    """
    table = read_class_table(store)
    if named == "binary":
        pair = list(table.names.values()) if table else []
        pair = pair if len(pair) == 2 else ["background", "object"]
        return _scheme(named, dict(enumerate(pair)), {0: 0, 1: 1, 255: 1}, {0: 0, 0xFFFFFF: 1})
    trained = {label: name for label, (_, _, name) in enumerate(CITYSCAPES)}
    if named == "cityscapes":
        of = dict.fromkeys((*range(34), IGNORE), IGNORE)
        of |= {number: label for label, (number, _, _) in enumerate(CITYSCAPES)}
        return _scheme(named, trained, of, CITYSCAPES_COLORS)
    if named == "cityscapes-trainids":
        of = {label: label for label in range(19)} | {IGNORE: IGNORE}
        return _scheme(named, trained, of, CITYSCAPES_COLORS)
    if table is None and (named == "voc" or is_voc):
        table = ClassTable(dict(enumerate(VOC)))
    if table is None:
        return None
    counted = {v: n for v, n in table.names.items() if n.lower() not in NO_CLASS}
    numbers = sorted(counted)
    label_of = {number: label for label, number in enumerate(numbers)}
    of = dict.fromkeys((*table.names, IGNORE), IGNORE) | label_of
    colors = {color: label_of.get(number, IGNORE) for color, number in table.colors.items()}
    if named == "voc":
        colors = {voc_color(number): label for number, label in of.items() if number != IGNORE}
        colors |= {VOC_VOID: IGNORE}
    names = {label: counted[number] for number, label in label_of.items()}
    return _scheme(named, names, of, colors, tuple(numbers))


def _scheme(
    named: str,
    names: Mapping[int, str],
    of: Mapping[int, int],
    colors: Mapping[int, int],
    numbers: tuple[int, ...] | None = None,
) -> Scheme:
    classes = tuple(names[label] for label in sorted(names))
    return Scheme(classes, numbers or tuple(range(len(classes))), Coding(named, of, colors, names))


def read_class_table(store: Store) -> ClassTable | None:
    """The names, and colors, that a file of CLASS_FILES states; None where there is none.

    The first of CLASS_FILES counts, of several the one nearest to the top. DataError where another
    gives a number to another class, or it names none.
    """
    order = {name: place for place, name in enumerate(CLASS_FILES)}
    found = sorted(
        (p for p in store.rows if PurePosixPath(p).name.lower() in order),
        key=lambda p: (order[PurePosixPath(p).name.lower()], p.count("/")),
    )
    if not found:
        return None
    tables = {path: _parse(store, path) for path in found}
    first, table = next(iter(tables.items()))
    if not table.names:
        raise DataError(f"{store.display_path(first)}: names no class")
    for path, other in tables.items():
        for number in sorted(table.names.keys() & other.names.keys()):
            name, named = table.names[number], other.names[number]
            if name.casefold() != named.casefold():
                raise DataError(
                    f"{store.display_path(path)}: class {number} is {named}, but {name} in"
                    f" {store.display_path(first)}; keep one of the files"
                )
        alike = PurePosixPath(path).name.lower() == PurePosixPath(first).name.lower()
        if alike and path.count("/") == first.count("/") and other != table:
            raise DataError(f"{store.display_path(path)}: other classes than {first}; keep one")
    return table


def _parse(store: Store, path: str) -> ClassTable:
    with reading(store.display_path(path), DataError, "as names of classes"):
        return _table_of(store, path)


def _table_of(store: Store, path: str) -> ClassTable:
    where = store.display_path(path)
    if path.lower().endswith((".yaml", ".yml")):
        return ClassTable(_yaml_names(store.read(path), where))
    whole = decode_text(store.read(path), where).splitlines()
    lines = [line.lstrip("\ufeff").strip() for line in whole]
    lines = [line for line in lines if line and not line.startswith("#")]
    for parse in (_labelmap, _table_csv, _color_lines, _number_lines):
        try:
            table = parse(lines)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        if table is not None:
            return _checked(table, where)
    lines = [line for line in strip_trailing_blanks(whole, where) if not line.startswith("#")]
    if lines and lines[0] == "__ignore__":  # labelme counts classes from -1
        lines = lines[1:]
    return _checked(ClassTable(dict(enumerate(lines))), where)


def _checked(table: ClassTable, where: str) -> ClassTable:
    odd = [number for number in table.names if not 0 <= number < IGNORE]
    if odd:
        raise DataError(f"{where}: class number {odd[0]}; numbers are 0 to {IGNORE - 1}")
    return table


def _labelmap(lines: list[str]) -> ClassTable | None:
    """CVAT's labelmap.txt: "name:r,g,b:parts:actions"."""
    matches = [re.fullmatch(r"(.+?):(\d+),(\d+),(\d+):[^:]*:[^:]*", line) for line in lines]
    if not lines or not all(matches):
        return None
    rows = [match for match in matches if match is not None]
    names = {number: match[1] for number, match in enumerate(rows)}
    colors = [_color(*row.groups()[1:]) for row in rows]
    _refuse_twice("color", [f"#{color:06x}" for color in colors])
    return ClassTable(names, {color: number for number, color in enumerate(colors)})


def _table_csv(lines: list[str]) -> ClassTable | None:
    """class_dict.csv: "name,r,g,b"; Roboflow's _classes.csv: "Pixel Value, Class"."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO("\n".join(lines)))]
    if not rows or len(rows[0]) < 2:
        return None
    head = [cell.lower() for cell in rows[0]]
    name = next((head.index(each) for each in ("name", "class", "label") if each in head), None)
    if name is None or any(len(row) != len(head) for row in rows):
        return None
    value = next((head.index(e) for e in ("pixel value", "value", "id") if e in head), None)
    if value is not None and not all(row[value].isdecimal() for row in rows[1:]):
        return None
    in_color = {"r", "g", "b"} <= set(head)
    if value is None and not in_color:
        return None
    numbers = [n if value is None else int(row[value]) for n, row in enumerate(rows[1:])]
    names = {number: row[name] for number, row in zip(numbers, rows[1:], strict=True)}
    _refuse_twice("number", numbers)
    if not in_color:
        return ClassTable(names)
    at = [head.index(each) for each in "rgb"]
    if not all(row[place].isdecimal() for row in rows[1:] for place in at):
        return None
    colors = [_color(*(row[i] for i in at)) for row in rows[1:]]
    _refuse_twice("color", [f"#{color:06x}" for color in colors])
    return ClassTable(names, dict(zip(colors, numbers, strict=True)))


def _refuse_twice(what: str, given: Sequence[object]) -> None:
    """DataError where two classes have one number or color."""
    twice = [each for each in given if list(given).count(each) > 1]
    if twice:
        raise DataError(f"two classes have the {what} {twice[0]}; give each class one of its own")


def _color_lines(lines: list[str]) -> ClassTable | None:
    """CamVid's label_colors.txt: "r g b name"."""
    matches = [re.fullmatch(r"(\d{1,3})\s+(\d{1,3})\s+(\d{1,3})\s+(\S.*)", line) for line in lines]
    if not lines or not all(matches):
        return None
    rows = [match for match in matches if match is not None]
    names = {number: match[4] for number, match in enumerate(rows)}
    colors = [_color(*row.groups()[:3]) for row in rows]
    _refuse_twice("color", [f"#{color:06x}" for color in colors])
    return ClassTable(names, {color: number for number, color in enumerate(colors)})


def _number_lines(lines: list[str]) -> ClassTable | None:
    """ "0: background" or "0 background", where every line has a number of its own."""
    matches = [re.fullmatch(r"(\d{1,3})\s*[:;,=\s]\s*(\S.*)", line) for line in lines]
    if not lines or not all(matches):
        return None
    names = {int(match[1]): match[2] for match in matches if match is not None}
    return ClassTable(names) if len(names) == len(lines) else None


def _color(*planes: Any) -> int:
    red, green, blue = (min(255, int(plane)) for plane in planes)
    return red << 16 | green << 8 | blue


def _yaml_names(data: bytes, where: str) -> dict[int, str]:
    document = load_yaml(data, where)
    named = document.get("classes", document.get("names")) if isinstance(document, dict) else None
    named = dict(enumerate(named)) if isinstance(named, list) else named
    if not isinstance(named, dict) or not all(value in range(255) for value in named):
        raise DataError(f"{where}: needs `classes:` with a line `value: name` for each, 0 to 254")
    return {value: str(each) for value, each in named.items()}
