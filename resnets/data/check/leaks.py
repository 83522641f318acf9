"""Find duplicate images, and leaks: duplicates that are in different parts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

from resnets.data.check.duplicates import Pair
from resnets.data.check.images_by_split import Contents
from resnets.data.finding_kinds import (
    DUPLICATE,
    LEAK,
    LEAKS,
    NEAR_DUPLICATE,
    NEAR_LEAK,
    SAME_SOURCE,
    Finding,
    FindingKind,
)
from resnets.data.splits.image_versions import find_sources

OTHER_LABEL = ", which is labeled"  # in the details of copies with another label


@dataclass(frozen=True)
class _Match:
    """The image that another one is a copy of."""

    kind: FindingKind
    row: int
    how: str


def find_copies(
    contents: Contents, same: Iterable[Pair], similar: Iterable[tuple[Pair, float]]
) -> Iterator[Finding]:
    """Yield a finding for each image that is a copy of an earlier one.

    An image of another part takes precedence over one of the same part, so that a duplicate hides
    no leak; copies of a leaking image leak, too. same: (first, later) of equal bytes; only the
    first is in `similar`: pairs with their mean difference in 0..255, -1 if all pixels are equal.
    """
    first_of = {later: first for first, later in same}
    partners: dict[int, list[tuple[int, float]]] = {}
    for (one, other), difference in similar:
        partners.setdefault(other, []).append((one, difference))
    found: dict[int, _Match] = {}
    for row in sorted({*first_of, *partners}):
        if row in first_of:
            match = _match_identical(contents, row, first_of[row], "same bytes as", found)
        else:
            match = _match_partners(contents, row, partners[row], found)
        found[row] = match
        yield _make_finding(contents, row, match)


def _match_identical(
    contents: Contents, row: int, first: int, how: str, found: dict[int, _Match]
) -> _Match:
    """Return the match of an image with the bytes or pixels of an earlier one, with its leaks."""
    if _part(contents, row) != _part(contents, first):
        return _Match(LEAK, first, f"{how} {contents.path(first)}")
    known = found.get(first)
    if known is not None and known.kind in LEAKS:
        return _Match(known.kind, known.row, f"{how} {contents.path(first)}, which {known.how}")
    return _Match(DUPLICATE, first, f"{how} {contents.path(first)}")


def _match_partners(
    contents: Contents, row: int, partners: list[tuple[int, float]], found: dict[int, _Match]
) -> _Match:
    part = _part(contents, row)

    def preference(partner: tuple[int, float]) -> tuple[bool, float, int]:
        return _part(contents, partner[0]) == part, partner[1], partner[0]

    best, difference = min(partners, key=preference)
    if _part(contents, best) == part and difference < 0:
        return _match_identical(contents, row, best, "same pixels as", found)
    is_same_part = _part(contents, best) == part
    if difference < 0:
        return _Match(
            DUPLICATE if is_same_part else LEAK, best, f"same pixels as {contents.path(best)}"
        )
    how = f"differs by {difference:.1f} of 255 from {contents.path(best)}"
    return _Match(NEAR_DUPLICATE if is_same_part else NEAR_LEAK, best, how)


def _make_finding(contents: Contents, row: int, match: _Match) -> Finding:
    (other_part, other_label), (part, label) = map(contents.part_and_label, (match.row, row))
    label_note = f"{OTHER_LABEL} {other_label}" if label != other_label else ""
    path, other_path = contents.path(row), contents.path(match.row)
    return Finding(
        match.kind, path, f"{match.how}{label_note}", part, label, other_path, other_part
    )


def _part(contents: Contents, row: int) -> str:
    return contents.part_and_label(row)[0]


def find_same_source(contents: Contents) -> Iterator[Finding]:
    """Yield images of which another part has a version of the same source, by their names."""
    first: dict[Hashable, tuple[str, str]] = {}
    paths = [contents.path(number) for number in range(len(contents))]
    labels = [contents.part_and_label(number)[1] for number in range(len(contents))]
    for number, source in sorted(find_sources(paths, labels).items()):
        path, (part, label) = paths[number], contents.part_and_label(number)
        other, other_part = first.setdefault(source, (path, part))
        if other_part != part:
            detail = f"of the same source as {other} in {other_part}"
            yield Finding(SAME_SOURCE, path, detail, part, label, other, other_part)
