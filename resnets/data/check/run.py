"""Check a stored set: which images leak between its parts, cannot be read, are odd or double."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from resnets.config import DataSpec
from resnets.data.check.classes import class_findings
from resnets.data.check.duplicates import (
    ALIKE,
    Pair,
    PixelDigest,
    Shapes,
    compare,
    propose,
    same_bytes,
)
from resnets.data.check.held_out_parts import with_shares
from resnets.data.check.image import Look, comparable, look, reason, thumbnail
from resnets.data.check.leaks import ELSEWHERE, copies_by_name, copies_found
from resnets.data.check.parts import Contents, open_contents
from resnets.data.dataset.quarantine import Quarantine
from resnets.data.errors import DataError
from resnets.data.finding_kinds import (
    EMPTY_CLASS,
    IMBALANCE,
    KINDS,
    LAYOUT,
    LEAKS,
    NOT_AN_IMAGE,
    STRAY,
    UNMEASURED,
    UNREADABLE,
    Finding,
    Kind,
)
from resnets.data.prefetch import prefetch
from resnets.utils.cpu_count import cores

CHUNK = 16  # images looked at by one task of the pool
TINY = 16  # px

Watch = Callable[[Iterable[int], int, str], Iterable[int]]


@dataclass(frozen=True, eq=False)
class CheckReport:
    """What was found in a set: around its images, in them, and between them.

    left_out: paths of images that the set's quarantine lists already. crowded: images with more of
    like shape than each was compared with, so that near-copies among them may be missed.
    annotations: how many of its annotations are bad, where it has boxes, outlines or class maps.
    refusals: why training refuses the set, apart from its layout. warnings: what may be wrong with
    all of its annotations.
    """

    contents: Contents
    findings: Sequence[Finding]
    left_out: frozenset[str] = frozenset()
    crowded: int = 0
    annotations: int = 0
    refusals: Sequence[str] = ()
    warnings: Sequence[str] = ()

    @property
    def images(self) -> dict[str, int]:
        """How many there are in each part ("" where there are no parts)."""
        return {section.part: len(section.files) for section in self.contents.sections}

    @property
    def counts(self) -> dict[Kind, int]:
        """How many files there are of each kind of finding."""
        counts: Counter[Kind] = Counter()
        for finding in self.findings:
            counts[finding.kind] += finding.count
        return dict(counts)

    @cached_property
    def leaks(self) -> list[Finding]:
        """Images like one of a part that is kept apart, where neither is in quarantine."""
        return [
            each
            for each in self.findings
            if each.kind in LEAKS and not {each.path, each.twin} & self.left_out
        ]

    @cached_property
    def broken(self) -> int:
        """Findings that mean that an image cannot be used, of those not in quarantine."""
        return sum(
            each.kind.weight == "broken" and each.path not in self.left_out
            for each in self.findings
        )

    def copies(self, *kinds: Kind, other_label: bool) -> list[Finding]:
        """Copies within a part, with the label of the other image or another; none in quarantine.

        kinds: DUPLICATE, NEAR_DUPLICATE.
        """
        return [
            each
            for each in self.findings
            if each.kind in kinds
            and (ELSEWHERE in each.detail) == other_label
            and not {each.path, each.twin} & self.left_out
        ]

    @property
    def refused(self) -> list[str]:
        """Why training refuses the set, nothing where it does not."""
        return [*self.refusals, *(each.detail for each in self.findings if each.kind == LAYOUT)]

    def annotated(
        self, bad: int, refusals: Sequence[str], warnings: Sequence[str] = ()
    ) -> CheckReport:
        """The same of a set whose images are annotated, not sorted into class folders."""
        of_folders = (LAYOUT, EMPTY_CLASS, NOT_AN_IMAGE, STRAY, IMBALANCE, UNMEASURED)
        kept = [finding for finding in self.findings if finding.kind not in of_folders]
        return replace(self, findings=kept, annotations=bad, refusals=refusals, warnings=warnings)

    def quarantine(self, kinds: frozenset[Kind] = frozenset()) -> list[Finding]:
        """One finding for each image that is broken or of `kinds`, ordered by path."""
        chosen = {
            finding.path: finding
            for finding in reversed(self.findings)
            if finding.kind.weight == "broken" or finding.kind in kinds
        }
        return [chosen[path] for path in sorted(chosen)]


def check_data(
    spec: DataSpec,
    *,
    tiny: int = TINY,
    contents: Contents | None = None,
    watch: Watch = lambda counts, *_: counts,
) -> CheckReport:
    """Read every image of `spec.source` whole, by `spec.workers` threads, and report.

    Quarantined images are checked like all others. `tiny`: px below which a shorter side is too
    small. `watch(counts, total, doing)` passes on how many images each step took. DataError
    where the source cannot be opened or holds pixels, not files. `contents`: what there is, where
    that is known.
    """
    contents = with_shares(open_contents(spec), spec) if contents is None else contents
    workers = spec.workers or cores()
    findings = list(contents.findings)
    content, shapes, tones = np.zeros((3, len(contents)), np.uint64)
    readable = np.zeros(len(contents), bool)

    def keep() -> Iterator[int]:
        for number, seen in enumerate(_looks(contents, tiny, workers)):
            content[number], shapes[number] = seen.content, seen.shape or 0
            tones[number] = seen.tone
            readable[number] = seen.shape is not None
            for kind, detail in seen.problems:
                part, label = contents.part_and_label(number)
                findings.append(Finding(kind, contents.path(number), detail, part, label))
            yield 1

    for _ in watch(keep(), len(contents), "checking"):
        pass
    whole = np.flatnonzero(readable)
    copies = [(int(whole[one]), int(whole[other])) for one, other in same_bytes(content[whole])]
    once = np.setdiff1d(whole, np.array([later for _, later in copies], np.int64))
    parts = np.searchsorted(contents.starts, once, "right")
    proposed = propose(Shapes(shapes[once], tones[once], parts, once))
    alike = _alike(contents, proposed.pairs, workers, watch)
    findings += [*copies_found(contents, copies, alike), *class_findings(contents)]
    leaking = {each.path for each in findings if each.kind in LEAKS}
    findings += [each for each in copies_by_name(contents) if each.path not in leaking]
    place = {kind: number for number, kind in enumerate(KINDS)}
    findings.sort(key=lambda each: place.get(each.kind, len(place)))
    return CheckReport(contents, findings, _left_out(contents, spec), proposed.crowded)


def _left_out(contents: Contents, spec: DataSpec) -> frozenset[str]:
    """Paths of images that the quarantine of the set lists."""
    quarantine = Quarantine.of(spec)
    if not quarantine.paths:
        return frozenset()
    paths = [contents.path(number) for number in range(len(contents))]
    listed = quarantine.listed(paths)
    return frozenset(path for path, out in zip(paths, listed.tolist(), strict=True) if out)


def _looks(contents: Contents, tiny: int, workers: int) -> Iterator[Look]:
    """Each image looked at, in order; a few ahead are read meanwhile."""

    def work(start: int) -> list[Look]:
        return [one(each) for each in range(start, min(start + CHUNK, len(contents)))]

    def one(number: int) -> Look:
        try:
            return look(contents.read(number), contents.name(number), tiny, contents.levels)
        except DataError as error:
            return Look(((UNREADABLE, reason(error, contents.name(number))),), 0)

    starts = range(0, len(contents), CHUNK)
    for _, looks in prefetch(work, starts, workers=workers, ahead=2 * workers):
        yield from looks


def _alike(
    contents: Contents, pairs: Sequence[Pair], workers: int, watch: Watch
) -> list[tuple[Pair, float]]:
    """Of the pairs of like shape those that look alike, with their mean difference."""

    def see(number: int) -> PixelDigest:
        pixels = comparable(contents.read(number), contents.name(number), contents.levels)
        digest = hashlib.blake2b(pixels.data, digest_size=16)
        return f"{pixels.shape} {digest.hexdigest()}", thumbnail(pixels)

    found: list[tuple[Pair, float]] = []

    def keep() -> Iterator[int]:
        for pair, difference in compare(pairs, see, workers):
            if difference <= ALIKE:
                found.append((pair, difference))
            yield 1

    for _ in watch(keep(), len(pairs), "comparing"):
        pass
    return found
