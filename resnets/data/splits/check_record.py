"""What `resnets data check` found in a set, kept where training finds it again.

The user's cache has a file for each set that was checked, by its path. It holds the pairs of images
that are alike and a fingerprint of the set's listing, so that a set that changed since is told from
one that did not. Which of the pairs leak is decided anew for the shares that a run really draws.
"""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from resnets.config import dump_json
from resnets.data.dataset.quarantine import path_within, prefixes
from resnets.data.dataset.source import Source
from resnets.data.files.folder import Files, FolderFiles
from resnets.data.finding_kinds import LEAKS, Finding
from resnets.data.splits.image_record import TEST, TRAIN, VAL
from resnets.data.splits.roles import Roles
from resnets.utils import environment
from resnets.utils.errors import read_object

VERSION = 1
FOLDER = "checks"


@dataclass(frozen=True)
class AlikePair:
    """Two images of a set by their paths within it, and whether the check called them a leak."""

    path: str
    twin: str
    leak: bool


@dataclass(frozen=True)
class CheckRecord:
    """What a check of a set found.

    checked: day. listing: fingerprint of its images. pairs: those alike. quarantine: the list that
    the check wrote.
    """

    checked: str
    listing: str
    pairs: Sequence[AlikePair]
    quarantine: str


def source_listing(source: Source, where: str) -> str:
    """Fingerprint of all images of a stored set."""
    parts = (source.train, source.val, source.test() if source.test else None)
    return listing_fingerprint((part.files for part in parts if part is not None), where)


def listing_fingerprint(parts: Iterable[Files | None], where: str) -> str:
    """Of the images of the set `where`, part by part: of their paths within it and their sizes."""
    starts = prefixes(where)
    lines: list[bytes] = []
    for files in parts:
        if files is None:
            continue
        sizes = _sizes(files)
        for row in range(len(files)):
            path = path_within(files.name(row), starts).encode("utf-8", "surrogatepass")
            lines.append(path + b"\0%d\n" % (-1 if sizes is None else sizes[row]))
    digest = hashlib.blake2b(digest_size=16)
    for line in sorted(set(lines)):
        digest.update(line)
    return digest.hexdigest()


def _sizes(files: Files) -> Sequence[int] | None:
    """Bytes of each file, -1 where it is not there; None where that would mean reading it."""
    if isinstance(files, FolderFiles):
        return [_size(files.root / path) for path in files.paths]
    spans = getattr(files, "spans", None)
    return None if spans is None else [int(size) for size in spans[:, -1].tolist()]


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def save_record(
    source: str, findings: Iterable[Finding], listing: str, quarantine: Path
) -> Path | None:
    """Keep what a check of `source` found; None where the cache cannot be written."""
    pairs = [[each.path, each.twin, each.kind in LEAKS] for each in findings if each.twin]
    record = {
        "version": VERSION,
        "source": _key(source),
        "checked": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "listing": listing,
        "quarantine": str(quarantine.resolve()),
        "pairs": pairs,
    }
    place = _place(source)
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        dump_json(record, place, indent=None)
        return place
    return None


def read_record(source: str) -> CheckRecord | None:
    """What the last check of `source` found; None where there was none, or it is damaged."""
    try:
        record = read_object(_place(source))
        if record["version"] != VERSION or record["source"] != _key(source):
            return None
        return CheckRecord(
            checked=str(record["checked"]),
            listing=str(record["listing"]),
            pairs=[AlikePair(str(a), str(b), bool(leak)) for a, b, leak in record["pairs"]],
            quarantine=str(record["quarantine"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class KnownLeaks:
    """What a check of the set says of the shares that a run draws.

    counts: (role, role of the twin) -> how many images of the first are like one of the second,
    that are still used. left_out: leaks that the quarantine takes away. changed: the set is not as
    it was when it was checked, so that there may be others.
    """

    checked: str
    counts: Mapping[tuple[str, str], int]
    left_out: int
    changed: bool
    quarantine: str

    @property
    def total(self) -> int:
        """Leaks that are still in the shares."""
        return sum(self.counts.values())

    def describe(self) -> str:
        """One line for a log or report."""
        head = f"data check of {self.checked}"
        if self.changed:
            head += " (before the data set changed: check it again)"
        if not self.total:
            out = f"; {self.left_out:,} images that leaked are left out" if self.left_out else ""
            return f"{head}: no leaks between training and test images known{out}"
        said = ", ".join(
            f"{count:,} {role} images are copies or near-copies of {other} images"
            for (role, other), count in self.counts.items()
        )
        return (
            f"{head}: {said}; the {' and '.join({other: None for _, other in self.counts})} error"
            f" counts them. Leave them out with --set data.quarantine={self.quarantine}"
        )

    def to_json(self) -> dict[str, object]:
        """For result.json."""
        return {
            "checked": self.checked,
            "set_changed_since": self.changed,
            "leaks": {f"{role} in {other}": count for (role, other), count in self.counts.items()},
            "leaks_left_out": self.left_out,
        }


def known_to(roles: Roles, listing: Callable[[], str]) -> KnownLeaks | None:
    """What a check of the set says of the images of `roles`; None where it was never checked.

    `listing` gives the fingerprint of the set as it is now; it is asked where there is a record.
    """
    where = roles.spec.source
    record = read_record(where)
    if record is None:
        return None
    starts = prefixes(where)
    shares: dict[str, list[str]] = {}
    for role, title in ((TRAIN, "training"), (VAL, "validation"), (TEST, "test")):
        share = roles.share(role)
        if share is not None and share.part.files is not None:
            files = share.part.files
            rows = share.rows.tolist()
            shares[title] = [path_within(files.name(row), starts) for row in rows]
    return known_leaks(record, listing(), shares)


ORDER = {"test": 0, "validation": 1, "training": 2}  # those kept apart come first


def known_leaks(
    record: CheckRecord, listing: str, shares: Mapping[str, Iterable[str]]
) -> KnownLeaks:
    """What `record` says of `shares`: role ("training", "validation", "test") -> paths used.

    A pair counts where its images are in two shares of which one is the test set, and where the
    check called it a leak.
    """
    role = {path: name for name, paths in shares.items() for path in paths}
    counts: dict[tuple[str, str], int] = {}
    left_out = 0
    for pair in record.pairs:
        one, other = role.get(pair.path), role.get(pair.twin)
        if one is None or other is None:
            left_out += pair.leak
        elif one != other and (pair.leak or "test" in (one, other)):
            key = (one, other) if ORDER[one] > ORDER[other] else (other, one)
            counts[key] = counts.get(key, 0) + 1
    ordered = dict(sorted(counts.items(), key=lambda each: (ORDER[each[0][1]], -ORDER[each[0][0]])))
    return KnownLeaks(
        record.checked, ordered, left_out, record.listing != listing, record.quarantine
    )


def _key(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def _place(source: str) -> Path:
    name = hashlib.blake2b(
        _key(source).encode("utf-8", "surrogatepass"), digest_size=16
    ).hexdigest()
    return environment.cache_folder() / FOLDER / f"{name}.json"
