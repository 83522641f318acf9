"""Numbered files of one set, such as train-00001-of-00003.parquet or 00004.tar: which are missing.

A set of which a part was downloaded reads as well as a whole one, so that only the numbers in the
names of its files can tell.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from resnets.utils.printable import printable

COUNTED = re.compile(r"(?P<head>.*?)(?P<number>\d+)(?P<of>[-_.]of[-_.])(?P<total>\d+)(?P<tail>.*)")
NUMBERED = re.compile(r"(?P<head>.*?)(?P<number>\d+)(?P<tail>\D*)")
SPARSE = 10  # numbers this many times higher than there are files count something else: dates
MOST_FILES = 1_000_000  # a larger total means something else
SHOWN = 3  # missing files that a message names


@dataclass(frozen=True)
class _Series:
    """Files whose names differ in a number: what is before it and behind it.

    total: how many files there are by their names, 0 where these do not say it.
    """

    folder: str
    head: str
    tail: str
    total: int

    def path(self, number: int, width: int) -> str:
        """The path of the file of this number, of `width` digits at least."""
        return posixpath.join(self.folder, f"{self.head}{number:0{width}d}{self.tail}")


def missing_shards(paths: Iterable[str]) -> list[str]:
    """A warning for each series of numbered files that lacks some, or that is there twice.

    Series that state their number (NUMBER-of-TOTAL) begin with 0 or 1 and are to be whole. Others
    may end anywhere, but have no gaps, and begin with 0 or 1.
    """
    series: dict[_Series, dict[int, str]] = {}
    for path in paths:
        folder, name = posixpath.split(path)
        found = COUNTED.fullmatch(name) or NUMBERED.fullmatch(name)
        if found is None:
            continue
        number, total = found["number"], int(found.groupdict().get("total") or 0)
        behind = found["tail"] if not total else name[found.end("number") :]
        key = _Series(folder, found["head"], behind, total)
        series.setdefault(key, {})[int(number)] = number
    warnings = [
        _missing(each, numbers, lost)
        for each, numbers in series.items()
        if (lost := _lost(each, numbers))
    ]
    return [*warnings, *_uploaded_twice(series)]


def _lost(series: _Series, numbers: Collection[int]) -> list[int]:
    if series.total > MOST_FILES:
        return []
    if series.total:
        start = 1 if series.total in numbers else 0
        end = start + series.total
    elif len(numbers) < 2 or max(numbers) >= SPARSE * len(numbers):
        return []
    else:
        start, end = 1 if min(numbers) == 1 else 0, max(numbers) + 1
    return [number for number in range(start, end) if number not in numbers]


def _missing(series: _Series, numbers: Mapping[int, str], lost: list[int]) -> str:
    width = min(map(len, numbers.values()))
    names = ", ".join(printable(series.path(number, width)) for number in lost[:SHOWN])
    more = f" and {len(lost) - SHOWN:,} more" if len(lost) > SHOWN else ""
    verb = "is" if len(lost) == 1 else "are"
    count = f"{len(numbers):,} of {len(numbers) + len(lost):,} files"
    return f"{count} are there: {names}{more} {verb} missing; their images are not in the set"


def _uploaded_twice(series: Iterable[_Series]) -> list[str]:
    """Warnings where files of one name state several totals, as after a second upload."""
    totals: dict[tuple[str, str], set[int]] = {}
    for each in series:
        if each.total:
            totals.setdefault((each.folder, each.head), set()).add(each.total)
    return [
        f"files called {printable(posixpath.join(folder, head))}* state that there are"
        f" {' and '.join(map(str, sorted(found)))} of them; all are read: remove those of an"
        " earlier download"
        for (folder, head), found in totals.items()
        if len(found) > 1
    ]
