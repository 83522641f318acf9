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
class _Twin:
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
    found: dict[int, _Twin] = {}
    for row in sorted({*first_of, *partners}):
        if row in first_of:
            twin = _match_identical(contents, row, first_of[row], "same bytes as", found)
        else:
            twin = _match_partners(contents, row, partners[row], found)
        found[row] = twin
        yield _make_finding(contents, row, twin)


def _match_identical(
    contents: Contents, row: int, first: int, how: str, found: dict[int, _Twin]
) -> _Twin:
    """Return the twin of an image with the bytes or pixels of an earlier one, with its leaks."""
    if _part(contents, row) != _part(contents, first):
        return _Twin(LEAK, first, f"{how} {contents.path(first)}")
    known = found.get(first)
    if known is not None and known.kind in LEAKS:
        return _Twin(known.kind, known.row, f"{how} {contents.path(first)}, which {known.how}")
    return _Twin(DUPLICATE, first, f"{how} {contents.path(first)}")


def _match_partners(
    contents: Contents, row: int, partners: list[tuple[int, float]], found: dict[int, _Twin]
) -> _Twin:
    part = _part(contents, row)

    def preference(partner: tuple[int, float]) -> tuple[bool, float, int]:
        return _part(contents, partner[0]) == part, partner[1], partner[0]

    best, difference = min(partners, key=preference)
    if _part(contents, best) == part and difference < 0:
        return _match_identical(contents, row, best, "same pixels as", found)
    is_same_part = _part(contents, best) == part
    if difference < 0:
        return _Twin(
            DUPLICATE if is_same_part else LEAK, best, f"same pixels as {contents.path(best)}"
        )
    how = f"differs by {difference:.1f} of 255 from {contents.path(best)}"
    return _Twin(NEAR_DUPLICATE if is_same_part else NEAR_LEAK, best, how)


def _make_finding(contents: Contents, row: int, twin: _Twin) -> Finding:
    (twin_part, twin_label), (part, label) = map(contents.part_and_label, (twin.row, row))
    label_note = f"{OTHER_LABEL} {twin_label}" if label != twin_label else ""
    path, twin_path = contents.path(row), contents.path(twin.row)
    return Finding(twin.kind, path, f"{twin.how}{label_note}", part, label, twin_path, twin_part)


def _part(contents: Contents, row: int) -> str:
    return contents.part_and_label(row)[0]


def find_same_source(contents: Contents) -> Iterator[Finding]:
    """Yield images of which another part has a version of the same source, by their names."""
    first: dict[Hashable, tuple[str, str]] = {}
    paths = [contents.path(number) for number in range(len(contents))]
    labels = [contents.part_and_label(number)[1] for number in range(len(contents))]
    for number, source in sorted(find_sources(paths, labels).items()):
        path, (part, label) = paths[number], contents.part_and_label(number)
        twin, twin_part = first.setdefault(source, (path, part))
        if twin_part != part:
            detail = f"of the same source as {twin} in {twin_part}"
            yield Finding(SAME_SOURCE, path, detail, part, label, twin, twin_part)
