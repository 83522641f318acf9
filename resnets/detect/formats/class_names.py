"""Text files of class names, one per line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resnets.data.errors import DataError
from resnets.data.layout.class_spelling import indexed_names
from resnets.detect.data.documents import decode_text
from resnets.detect.data.values import read_name, read_number
from resnets.detect.images.store import Store


def read_class_names(store: Store, path: str) -> list[str]:
    """Read the class names of a file, in the order of its lines or of the numbers in them.

    DataError if a blank line makes the numbers ambiguous.
    """
    where = store.display_path(path)
    text = decode_text(store.read(path), where)
    lines = [read_name(line) for line in strip_trailing_blanks(text.splitlines(), where)]
    return indexed_names(lines) or lines


def number_names(
    names: Mapping[Any, Any] | Sequence[Any], where: str, limit: int
) -> dict[int, str]:
    """Return the class names of a YAML file, a list or a mapping of numbers below `limit`, by
    number.

    DataError for an entry that is not a number with a name, and for a number that occurs twice.
    """
    found: dict[int, str] = {}
    for key, value in names.items() if isinstance(names, Mapping) else enumerate(names):
        number, name = read_number(key), read_name(value)
        if not name:
            written = "no name" if value is None else f"{value!r}, which is not a name"
            raise DataError(f"{where}: class {key} has {written}; write one, in quotes")
        if not (number.is_integer() and 0 <= number < limit):
            raise DataError(
                f"{where}: {key}: {name} is not a number with a name; write the number of the class"
                f" (0 to {limit - 1:,}) before the colon"
            )
        if int(number) in found:
            raise DataError(f"{where}: class {int(number)} occurs twice; remove one")
        found[int(number)] = name
    return found


def strip_trailing_blanks(lines: Sequence[str], where: str) -> list[str]:
    """Return the stripped lines without blank ones at the end.

    DataError for a blank line before a name: it may or may not count as a class.
    """
    stripped = [line.lstrip("\ufeff").strip() for line in lines]
    while stripped and not stripped[-1]:
        stripped.pop()
    if "" in stripped:
        raise DataError(
            f"{where}: line {stripped.index('') + 1} is blank, and class numbers are counted by"
            " line; remove the line, or write a name there if it has a number of its own"
        )
    return stripped
