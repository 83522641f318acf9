"""Check a stored set: which pictures cannot be read, are odd, or come twice."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from resnets.config import DataSpec
from resnets.data.check_findings import (
    DUPLICATE,
    EMPTY_CLASS,
    LAYOUT,
    LEAK,
    NEAR_DUPLICATE,
    NEAR_LEAK,
    NO_PICTURE,
    UNREADABLE,
    Finding,
    Kind,
)
from resnets.data.check_picture import Look, look, reason, thumbnail
from resnets.data.check_source import Contents, open_contents
from resnets.data.check_twins import ALIKE, Pair, Seen, compare, proposals, same_bytes
from resnets.data.decode import decode_whole
from resnets.data.errors import DataError
from resnets.data.memory import cores

CHUNK = 16  # pictures looked at by one task of the pool
TINY = 16  # px

Watch = Callable[[Iterable[int], int, str], Iterable[int]]


@dataclass(frozen=True, eq=False)
class CheckReport:
    """What was found in a set: around its pictures, in them, and between them."""

    contents: Contents
    findings: Sequence[Finding]

    @property
    def pictures(self) -> dict[str, int]:
        """How many there are in each part ("" where there are no parts)."""
        return {section.part: len(section.files) for section in self.contents.sections}

    @property
    def counts(self) -> dict[Kind, int]:
        """How many findings there are of each kind that was found."""
        return dict(Counter(finding.kind for finding in self.findings))

    @property
    def broken(self) -> int:
        """Findings that mean that a picture cannot be used."""
        return sum(finding.kind.weight == "broken" for finding in self.findings)

    def without_layout(self) -> CheckReport:
        """The same of a set whose pictures are annotated, not sorted into class folders."""
        of_folders = (LAYOUT, EMPTY_CLASS, NO_PICTURE)
        kept = [finding for finding in self.findings if finding.kind not in of_folders]
        return CheckReport(self.contents, kept)

    def quarantine(self, kinds: frozenset[Kind] = frozenset()) -> list[Finding]:
        """One finding for each picture that is broken or of `kinds`, ordered by path."""
        chosen = {
            finding.path: finding
            for finding in reversed(self.findings)
            if finding.kind.weight == "broken" or finding.kind in kinds
        }
        return [chosen[path] for path in sorted(chosen)]


def check_data(
    spec: DataSpec, *, tiny: int = TINY, watch: Watch = lambda counts, *_: counts
) -> CheckReport:
    """Read every picture of `spec.source` whole, by `spec.workers` threads, and report.

    Quarantined pictures are checked like all others. `tiny`: px below which a shorter side is too
    small. `watch(counts, total, doing)` hands on for how many pictures each step was. DataError
    where the source cannot be opened or holds pixels, not files.
    """
    contents, workers = open_contents(spec), spec.workers or cores()
    findings = list(contents.findings)
    content, shapes = np.zeros((2, len(contents)), np.uint64)
    readable = np.zeros(len(contents), bool)

    def keep() -> Iterator[int]:
        for number, seen in enumerate(_looks(contents, tiny, workers)):
            content[number], shapes[number] = seen.content, seen.shape or 0
            readable[number] = seen.shape is not None
            for kind, detail in seen.problems:
                part, label = contents.part_and_label(number)
                findings.append(Finding(kind, contents.path(number), detail, part, label))
            yield 1

    for _ in watch(keep(), len(contents), "checking"):
        pass
    whole = np.flatnonzero(readable)
    copies = [(int(whole[one]), int(whole[other])) for one, other in same_bytes(content[whole])]
    findings += [_twin(contents, pair, "same bytes as") for pair in copies]
    once = np.setdiff1d(whole, np.array([later for _, later in copies], np.int64))
    findings += _alike(contents, proposals(shapes[once], once), workers, watch)
    return CheckReport(contents, findings)


def _looks(contents: Contents, tiny: int, workers: int) -> Iterator[Look]:
    """Each picture looked at, in order; a few ahead are read meanwhile."""

    def work(start: int) -> list[Look]:
        return [one(each) for each in range(start, min(start + CHUNK, len(contents)))]

    def one(number: int) -> Look:
        try:
            return look(contents.read(number), contents.name(number), tiny)
        except DataError as error:
            return Look(((UNREADABLE, reason(error, contents.name(number))),), 0)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="check")
    tasks: deque[Future[list[Look]]] = deque()
    starts = iter(range(0, len(contents), CHUNK))
    try:
        while True:
            ahead = islice(starts, 2 * workers - len(tasks))
            tasks.extend(pool.submit(work, start) for start in ahead)
            if not tasks:
                return
            yield from tasks.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _alike(
    contents: Contents, pairs: Sequence[Pair], workers: int, watch: Watch
) -> Iterator[Finding]:
    """Of the pairs of like shape those that look alike; a picture is the twin of one other."""

    def see(number: int) -> Seen:
        pixels = decode_whole(contents.read(number), contents.name(number))
        digest = hashlib.blake2b(pixels.data, digest_size=16)
        return f"{pixels.shape} {digest.hexdigest()}", thumbnail(pixels)

    twins: set[int] = set()
    found: list[tuple[Pair, float]] = []

    def keep() -> Iterator[int]:
        for pair, difference in compare(pairs, see, workers):
            if difference <= ALIKE:
                found.append((pair, difference))
            yield 1

    for _ in watch(keep(), len(pairs), "comparing"):
        pass
    for pair, difference in sorted(found, key=lambda each: (each[1], each[0])):
        if pair[1] in twins:
            continue
        twins.add(pair[1])
        if difference < 0:
            yield _twin(contents, pair, "same pixels as")
        else:
            yield _twin(contents, pair, f"differs by {difference:.1f} of 255 from", near=True)


def _twin(contents: Contents, pair: Pair, says: str, *, near: bool = False) -> Finding:
    """What to say of the second of a pair: the first is that of the part that is kept apart."""
    (kept_part, kept_label), (part, label) = map(contents.part_and_label, pair)
    kept, path = map(contents.path, pair)
    if part == kept_part:
        kind = NEAR_DUPLICATE if near else DUPLICATE
    else:
        kind = NEAR_LEAK if near else LEAK
    other = f", which is filed under {kept_label}" if label != kept_label else ""
    return Finding(kind, path, f"{says} {kept}{other}", part, label, kept)
