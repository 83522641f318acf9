"""Labels without names, which belong to images by the order of the file names.

Numbers that are not padded have two orders: 10.jpg comes before 2.jpg by characters, after it by
number. Which of them a file follows cannot be told, so such labels are refused.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

from resnets.data.errors import DataError

DIGITS = re.compile(r"\d+")
WIDTH = 24  # digits; longer numbers are compared by characters


def order_by_name(file: object, names: Sequence[tuple[str, ...]]) -> list[int]:
    """The rows of images in the order of their `names`: the file name, then what tells equal ones.

    DataError where the order by number is another one.
    """
    order = sorted(range(len(names)), key=lambda row: names[row])
    padded = [tuple(DIGITS.sub(_padded, part) for part in name) for name in names]
    by_number = sorted(range(len(names)), key=lambda row: padded[row])
    if (place := _first_difference(order, by_number)) is not None:
        one, other = names[order[place]][0], names[by_number[place]][0]
        raise DataError(
            f"{file}: labels without file names, and image {place + 1} is {one} by characters but"
            f" {other} by number; give a table of path,label"
        )
    return order


def first_pair(name: str, label: str) -> str:
    """The first image and its label, which tell people whether the order is right."""
    return f"{posixpath.basename(name)} = {label or 'no label'}"


def _padded(digits: re.Match[str]) -> str:
    return digits[0].zfill(WIDTH)


def _first_difference(one: Sequence[int], other: Sequence[int]) -> int | None:
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), None)
