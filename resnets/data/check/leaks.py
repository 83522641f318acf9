"""Which images are copies of which, and which of those copies lie in parts that are kept apart."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

from resnets.data.check.duplicates import Pair
from resnets.data.check.parts import Contents
from resnets.data.finding_kinds import (
    DUPLICATE,
    LEAK,
    LEAKS,
    NEAR_DUPLICATE,
    NEAR_LEAK,
    SAME_SOURCE,
    Finding,
    Kind,
)
from resnets.data.splits.image_versions import sources_by_name

ELSEWHERE = "filed under"  # in the detail of copies with another label


@dataclass(frozen=True)
class _Twin:
    """What an image is a copy of."""

    kind: Kind
    row: int
    how: str


def copies_found(
    contents: Contents, same: Iterable[Pair], alike: Iterable[tuple[Pair, float]]
) -> Iterator[Finding]:
    """One finding for each image that is a copy of an earlier one.

    An image of another part is preferred to one of the same part, so that no leak hides behind a
    duplicate; what is identical to a leaking image leaks too. `same`: (first, later) of equal
    bytes, where only the first is among `alike`: pairs with their mean difference in 0..255, -1
    where all pixels agree.
    """
    first_of = {later: first for first, later in same}
    partners: dict[int, list[tuple[int, float]]] = {}
    for (one, other), difference in alike:
        partners.setdefault(other, []).append((one, difference))
    found: dict[int, _Twin] = {}
    for row in sorted({*first_of, *partners}):
        if row in first_of:
            twin = _of_identical(contents, row, first_of[row], "same bytes as", found)
        else:
            twin = _of_partners(contents, row, partners[row], found)
        found[row] = twin
        yield _finding(contents, row, twin)


def _of_identical(
    contents: Contents, row: int, first: int, how: str, found: dict[int, _Twin]
) -> _Twin:
    """An image with the bytes or pixels of an earlier one, and so with the leaks of that one."""
    if _part(contents, row) != _part(contents, first):
        return _Twin(LEAK, first, f"{how} {contents.path(first)}")
    known = found.get(first)
    if known is not None and known.kind in LEAKS:
        return _Twin(known.kind, known.row, f"{how} {contents.path(first)}, which {known.how}")
    return _Twin(DUPLICATE, first, f"{how} {contents.path(first)}")


def _of_partners(
    contents: Contents, row: int, partners: list[tuple[int, float]], found: dict[int, _Twin]
) -> _Twin:
    part = _part(contents, row)

    def preference(partner: tuple[int, float]) -> tuple[bool, float, int]:
        return _part(contents, partner[0]) == part, partner[1], partner[0]

    best, difference = min(partners, key=preference)
    if _part(contents, best) == part and difference < 0:
        return _of_identical(contents, row, best, "same pixels as", found)
    together = _part(contents, best) == part
    if difference < 0:
        return _Twin(DUPLICATE if together else LEAK, best, f"same pixels as {contents.path(best)}")
    how = f"differs by {difference:.1f} of 255 from {contents.path(best)}"
    return _Twin(NEAR_DUPLICATE if together else NEAR_LEAK, best, how)


def _finding(contents: Contents, row: int, twin: _Twin) -> Finding:
    (kept_part, kept_label), (part, label) = map(contents.part_and_label, (twin.row, row))
    other = f", which is {ELSEWHERE} {kept_label}" if label != kept_label else ""
    path, kept = contents.path(row), contents.path(twin.row)
    return Finding(twin.kind, path, f"{twin.how}{other}", part, label, kept, kept_part)


def _part(contents: Contents, row: int) -> str:
    return contents.part_and_label(row)[0]


def copies_by_name(contents: Contents) -> Iterator[Finding]:
    """Images of which a part that is kept apart has another version of the same source."""
    first: dict[Hashable, tuple[str, str]] = {}
    paths = [contents.path(number) for number in range(len(contents))]
    labels = [contents.part_and_label(number)[1] for number in range(len(contents))]
    for number, source in sorted(sources_by_name(paths, labels).items()):
        path, (part, label) = paths[number], contents.part_and_label(number)
        twin, twin_part = first.setdefault(source, (path, part))
        if twin_part != part:
            detail = f"of the same source as {twin} in {twin_part}"
            yield Finding(SAME_SOURCE, path, detail, part, label, twin, twin_part)
