"""Scalars of annotation files in any notation: flags, numbers, ids, sizes, boxes and names.

Tools write the same value as 1, 1.0, "1", true or "yes". All annotation readers use these
functions, so that each notation has the same meaning everywhere. Invalid and missing values are
distinguished.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

NAN = float("nan")
Box = tuple[float, float, float, float]

_YES = frozenset({"1", "true", "yes", "y", "t", "on"})
_NO = frozenset({"", "0", "false", "no", "n", "f", "off", "none", "null", "unspecified"})
_WHOLE = re.compile(r"(-?(?:0|[1-9]\d{0,17}))(?:\.0*)?")
_LARGEST = 1e38
_LONGEST = 100  # characters of a number


def read_flag(value: Any) -> bool | None:
    """Read a flag; a missing value is False, an invalid one None.

    >>> [read_flag(value) for value in ("0", "1", True, 0.0, "yes", None, "", "maybe", 2)]
    [False, True, True, False, True, False, False, None, None]
    """
    if value is None or value is True or value is False:
        return bool(value)
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _YES or word in _NO:
            return word in _YES
    number = read_number(value)
    return bool(number) if number in (0, 1) else None


def read_number(value: Any) -> float:
    """Read a number or its text; NaN if it is invalid or exceeds float32.

    >>> [read_number(value) for value in (3, " 4.5 ", "1e2", True, "12 px", [1])]
    [3.0, 4.5, 100.0, nan, nan, nan]
    """
    if type(value) is float:  # nearly all are
        return value if -_LARGEST < value < _LARGEST else NAN
    if isinstance(value, str):
        value = value.strip()
        if len(value) > _LONGEST or "_" in value:
            return NAN
    elif isinstance(value, bool) or not isinstance(value, int | float):
        return NAN
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return NAN
    return number if -_LARGEST < number < _LARGEST else NAN


def read_side(value: Any) -> int:
    """Read the length of an image side in px; 0 = not specified, -1 = invalid.

    >>> [read_side(value) for value in (640, "640.0", None, "", 0, -5, "wide")]
    [640, 640, 0, 0, 0, -1, -1]
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return 0
    number = read_number(value)
    return int(number) if 0 <= number < 1 << 31 else -1


def read_id(value: Any) -> int | str | None:
    """Read an id; whole numbers in any spelling are the same id. None if it is invalid.

    >>> [read_id(value) for value in (7, "7", 7.0, "7.0", "007", "a 7", True, None, [7])]
    [7, 7, 7, 7, '007', 'a 7', None, None, None]
    """
    if type(value) is int:  # nearly all are
        return value
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if not isinstance(value, str):
        return None
    text = read_name(value)
    whole = _WHOLE.fullmatch(text)
    return int(whole[1]) if whole else text or None


def read_box(value: Any) -> Box:
    """Read four numbers from a list or text ("1, 2, 3, 4"); NaN for invalid ones.

    >>> read_box(["1", 2, 3.5, "4"])
    (1.0, 2.0, 3.5, 4.0)
    >>> read_box("[1, 2, 3]")
    (nan, nan, nan, nan)
    """
    if isinstance(value, str):
        value = re.split(r"[\s,;]+", value.strip(" \t[]()"), maxsplit=4)
    if not isinstance(value, list | tuple) or len(value) != 4:
        return (NAN, NAN, NAN, NAN)
    a, b, c, d = map(read_number, value)
    return a, b, c, d


def read_name(value: Any) -> str:
    """Read a name, stripped and in Unicode's composed form (NFC); "" if it is invalid."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    return unicodedata.normalize("NFC", str(value)).strip().strip("\ufeff").strip()
