"""Find missing files among the numbered files of a set: train-00001-of-00003.parquet, 00004.tar.

A partly downloaded set can be read like a complete one; only the numbers in its file names show
that some are missing.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from resnets.utils.printable import join_names, printable

COUNTED = re.compile(r"(?P<head>.*?)(?P<number>\d+)(?P<of>[-_.]of[-_.])(?P<total>\d+)(?P<tail>.*)")
NUMBERED = re.compile(r"(?P<head>.*?)(?P<number>\d+)(?P<tail>\D*)")
MAX_NUMBER_RATIO = 10  # highest number per file; above, numbers are dates or the like
MAX_FILES = 1_000_000  # a larger total means something else


@dataclass(frozen=True)
class _Series:
    """Files whose names differ in a number, between `head` and `tail`.

    total: number of files by their names, 0 if they do not specify it.
    """

    folder: str
    head: str
    tail: str
    total: int

    def path(self, number: int, width: int) -> str:
        """Return the path of the file of a number, with at least `width` digits."""
        return posixpath.join(self.folder, f"{self.head}{number:0{width}d}{self.tail}")


def missing_shards(paths: Iterable[str]) -> list[str]:
    """Return a warning for each series of numbered files that lacks some, or that is there twice.

    Series that state their number (NUMBER-of-TOTAL) begin with 0 or 1 and must be complete.
    Others may have any length, but no gaps, and begin with 0 or 1.
    """
    series: dict[_Series, dict[int, str]] = {}
    for path in paths:
        folder, name = posixpath.split(path)
        found = COUNTED.fullmatch(name) or NUMBERED.fullmatch(name)
        if found is None:
            continue
        number, total = found["number"], int(found.groupdict().get("total") or 0)
        tail = found["tail"] if not total else name[found.end("number") :]
        key = _Series(folder, found["head"], tail, total)
        series.setdefault(key, {})[int(number)] = number
    warnings = [
        _format_missing(each, numbers, missing)
        for each, numbers in series.items()
        if (missing := _find_missing(each, numbers))
    ]
    return [*warnings, *_repeated_warnings(series)]


def _find_missing(series: _Series, numbers: Collection[int]) -> list[int]:
    if series.total > MAX_FILES:
        return []
    if series.total:
        start = 1 if series.total in numbers else 0
        end = start + series.total
    elif len(numbers) < 2 or max(numbers) >= MAX_NUMBER_RATIO * len(numbers):
        return []
    else:
        start, end = 1 if min(numbers) == 1 else 0, max(numbers) + 1
    return [number for number in range(start, end) if number not in numbers]


def _format_missing(series: _Series, numbers: Mapping[int, str], missing: list[int]) -> str:
    width = min(map(len, numbers.values()))
    names = join_names([printable(series.path(number, width)) for number in missing])
    verb = "is" if len(missing) == 1 else "are"
    count = f"{len(numbers):,} of {len(numbers) + len(missing):,} files"
    return f"{count} are there: {names} {verb} missing; their images are not in the set"


def _repeated_warnings(series: Iterable[_Series]) -> list[str]:
    """Return warnings about files of one name with several totals, as after a second upload."""
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
