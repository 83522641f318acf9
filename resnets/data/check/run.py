"""Check a stored data set for leaks, unreadable or unusual images, and duplicates."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from resnets.config import DataSpec
from resnets.data.check.classes import find_class_problems
from resnets.data.check.duplicates import (
    MAX_DIFFERENCE,
    ImageHashes,
    Pair,
    PixelDigest,
    compare_pairs,
    find_identical,
    propose_pairs,
)
from resnets.data.check.image import (
    ImageCheck,
    check_image,
    decode_for_comparison,
    extract_reason,
    make_thumbnail,
)
from resnets.data.check.images_by_split import Contents, open_contents, split_into_shares
from resnets.data.check.leaks import OTHER_LABEL, find_copies, find_same_source
from resnets.data.dataset.quarantine_list import Quarantine
from resnets.data.errors import DataError
from resnets.data.finding_kinds import (
    EMPTY_CLASS,
    IMBALANCE,
    KINDS,
    LAYOUT,
    LEAKS,
    NO_CLASS_FOLDER,
    NOT_AN_IMAGE,
    UNMEASURED,
    UNREADABLE,
    Finding,
    FindingKind,
)
from resnets.data.prefetch import prefetch
from resnets.utils.machine.cpu_count import cores

CHUNK = 16  # images checked by one task of the pool
MIN_SIDE = 16  # px

Progress = Callable[[Iterable[int], int, str], Iterable[int]]


@dataclass(frozen=True, eq=False)
class CheckReport:
    """Result of a check of a data set: problems of its layout, its images, and duplicates.

    quarantined: paths of the images that the quarantine of the data set lists. crowded: images with
    more images of similar hash than each was compared with, so that near-duplicates of them may be
    missed. problems: a line for each invalid annotation of boxes, outlines or class maps. refusals:
    why training refuses the data set, apart from its layout. warnings: what may be wrong with all
    of its annotations.
    """

    contents: Contents
    findings: Sequence[Finding]
    quarantined: frozenset[str] = frozenset()
    crowded: int = 0
    problems: Sequence[str] = ()
    refusals: Sequence[str] = ()
    warnings: Sequence[str] = ()

    @property
    def annotations(self) -> int:
        """Number of invalid annotations."""
        return len(self.problems)

    @property
    def images(self) -> dict[str, int]:
        """Number of images in each part ("" without parts)."""
        return {section.part: len(section.files) for section in self.contents.sections}

    @property
    def counts(self) -> dict[FindingKind, int]:
        """Number of files of each kind of finding."""
        counts: Counter[FindingKind] = Counter()
        for finding in self.findings:
            counts[finding.kind] += finding.count
        return dict(counts)

    @cached_property
    def leaks(self) -> list[Finding]:
        """Images similar to one of a held-out part, if neither is in quarantine."""
        return [
            each
            for each in self.findings
            if each.kind in LEAKS and not {each.path, each.other_image} & self.quarantined
        ]

    @cached_property
    def broken(self) -> int:
        """Number of unusable images that are not in quarantine."""
        return sum(
            each.kind.weight == "broken" and each.path not in self.quarantined
            for each in self.findings
        )

    def copies(self, *kinds: FindingKind, other_label: bool) -> list[Finding]:
        """Return copies within a part, with the other image's label or another; none in quarantine.

        kinds: DUPLICATE, NEAR_DUPLICATE.
        """
        return [
            each
            for each in self.findings
            if each.kind in kinds
            and (OTHER_LABEL in each.detail) == other_label
            and not {each.path, each.other_image} & self.quarantined
        ]

    @property
    def refused(self) -> list[str]:
        """Why training refuses the set; [] if it does not."""
        return [*self.refusals, *(each.detail for each in self.findings if each.kind == LAYOUT)]

    def with_annotations(
        self, problems: Sequence[str], refusals: Sequence[str], warnings: Sequence[str] = ()
    ) -> CheckReport:
        """Return the report of a data set with annotations instead of class folders."""
        folder_kinds = (LAYOUT, EMPTY_CLASS, NOT_AN_IMAGE, NO_CLASS_FOLDER, IMBALANCE, UNMEASURED)
        findings = [each for each in self.findings if each.kind not in folder_kinds]
        return replace(
            self, findings=findings, problems=problems, refusals=refusals, warnings=warnings
        )

    def quarantine(self, kinds: frozenset[FindingKind] = frozenset()) -> list[Finding]:
        """Return one finding for each image that is broken or of `kinds`, sorted by path."""
        chosen = {
            finding.path: finding
            for finding in reversed(self.findings)
            if finding.kind.weight == "broken" or finding.kind in kinds
        }
        return [chosen[path] for path in sorted(chosen)]


def check_data(
    spec: DataSpec,
    *,
    tiny: int = MIN_SIDE,
    contents: Contents | None = None,
    progress: Progress = lambda counts, *_: counts,
) -> CheckReport:
    """Read every image of `spec.source` completely, with `spec.workers` threads; return a report.

    Quarantined images are checked like all others. tiny: px below which a shorter side is too
    small. contents: the contents, if they are known. `progress(counts, total, title)` iterates over
    the number of images of each step, for progress. Raises DataError if the source cannot be opened
    or contains pixels instead of files.
    """
    contents = split_into_shares(open_contents(spec), spec) if contents is None else contents
    workers = spec.workers or cores()
    findings = list(contents.findings)
    content, phashes, colors = np.zeros((3, len(contents)), np.uint64)
    readable = np.zeros(len(contents), bool)

    def run_checks() -> Iterator[int]:
        for number, result in enumerate(_check_images(contents, tiny, workers)):
            content[number], phashes[number] = result.content, result.phash or 0
            colors[number] = result.color
            readable[number] = result.phash is not None
            for kind, detail in result.problems:
                part, label = contents.part_and_label(number)
                findings.append(Finding(kind, contents.path(number), detail, part, label))
            yield 1

    for _ in progress(run_checks(), len(contents), "checking"):
        pass
    readable_rows = np.flatnonzero(readable)
    copies = [
        (int(readable_rows[one]), int(readable_rows[other]))
        for one, other in find_identical(content[readable_rows])
    ]
    distinct = np.setdiff1d(readable_rows, np.array([later for _, later in copies], np.int64))
    parts = np.searchsorted(contents.starts, distinct, "right")
    proposals = propose_pairs(ImageHashes(phashes[distinct], colors[distinct], parts, distinct))
    similar = _find_similar(contents, proposals.pairs, workers, progress)
    findings += [*find_copies(contents, copies, similar), *find_class_problems(contents)]
    leaking = {each.path for each in findings if each.kind in LEAKS}
    findings += [each for each in find_same_source(contents) if each.path not in leaking]
    order = {kind: number for number, kind in enumerate(KINDS)}
    findings.sort(key=lambda each: order.get(each.kind, len(order)))
    return CheckReport(contents, findings, _quarantined_paths(contents, spec), proposals.crowded)


def _quarantined_paths(contents: Contents, spec: DataSpec) -> frozenset[str]:
    """Return the paths of images that the quarantine of the set lists."""
    quarantine = Quarantine.of(spec)
    if not quarantine.paths:
        return frozenset()
    paths = [contents.path(number) for number in range(len(contents))]
    listed = quarantine.is_listed(paths)
    return frozenset(path for path, is_out in zip(paths, listed.tolist(), strict=True) if is_out)


def _check_images(contents: Contents, tiny: int, workers: int) -> Iterator[ImageCheck]:
    """Yield the check of each image, in order; a few are read ahead."""

    def check_chunk(start: int) -> list[ImageCheck]:
        return [check(each) for each in range(start, min(start + CHUNK, len(contents)))]

    def check(number: int) -> ImageCheck:
        try:
            return check_image(contents.read(number), contents.name(number), tiny, contents.levels)
        except DataError as error:
            return ImageCheck(((UNREADABLE, extract_reason(error, contents.name(number))),), 0)

    starts = range(0, len(contents), CHUNK)
    for _, results in prefetch(check_chunk, starts, workers=workers, ahead=2 * workers):
        yield from results


def _find_similar(
    contents: Contents, pairs: Sequence[Pair], workers: int, progress: Progress
) -> list[tuple[Pair, float]]:
    """Return the proposed pairs that look alike, with their mean difference."""

    def load_pixels(number: int) -> PixelDigest:
        pixels = decode_for_comparison(
            contents.read(number), contents.name(number), contents.levels
        )
        digest = hashlib.blake2b(pixels.data, digest_size=16)
        return f"{pixels.shape} {digest.hexdigest()}", make_thumbnail(pixels)

    similar: list[tuple[Pair, float]] = []

    def run_comparisons() -> Iterator[int]:
        for pair, difference in compare_pairs(pairs, load_pixels, workers):
            if difference <= MAX_DIFFERENCE:
                similar.append((pair, difference))
            yield 1

    for _ in progress(run_comparisons(), len(pairs), "comparing"):
        pass
    return similar
