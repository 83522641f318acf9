"""Ranges of the numbers in a recipe, written as intervals: "[0, 1)" is from 0 to below 1."""

from __future__ import annotations

import math
from collections.abc import Mapping

from resnets.utils.errors import ConfigError


def check_ranges(spec: object, prefix: str, ranges: Mapping[str, str]) -> None:
    """Raise ConfigError for a field of `spec` with a number outside of its interval.

    prefix: the path of the spec in a recipe, such as "optim.". Of tuples and lists each number is
    checked; None passes.
    """
    for name, interval in ranges.items():
        value = getattr(spec, name)
        for number in value if isinstance(value, tuple | list) else (value,):
            check_range(f"{prefix}{name}:", number, interval)


def check_range(name: str, number: float | None, interval: str) -> None:
    """Raise ConfigError, which begins with `name`, if a number is outside of the interval.

    None, an option that is not given, passes.
    """
    if number is None:
        return
    low, high = map(float, interval[1:-1].split(","))
    try:
        above = low <= number if interval[0] == "[" else low < number
    except TypeError:
        raise ConfigError(f"{name} {number!r} is not a number") from None
    if above and (number <= high if interval[-1] == "]" else number < high):
        return
    needed = f"must be in {interval}"
    if not math.isfinite(number):
        needed = "must be finite"
    elif interval[0] == "[" and interval.endswith(" inf)"):
        needed = f"must be at least {interval[1:].partition(',')[0]}"
    raise ConfigError(f"{name} {number} {needed}")
