"""The results of `resnets data check`, stored so that training can use them.

The user's cache contains one file per checked set, named by its path: the pairs of similar images,
and a fingerprint of the set's listing that shows whether the set has changed since. Which pairs
leak is decided again for the splits that a run uses.
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
from resnets.data.dataset.quarantine_list import path_within, prefixes
from resnets.data.dataset.source import Source
from resnets.data.files.folder import Files, FolderFiles
from resnets.data.finding_kinds import LEAKS, Finding
from resnets.data.splits.image_record import TEST, TRAIN, VAL
from resnets.data.splits.roles import Roles
from resnets.utils.files.json import read_object
from resnets.utils.machine import environment
from resnets.utils.printable import format_count

VERSION = 1
FOLDER = "checks"


@dataclass(frozen=True)
class SimilarPair:
    """Paths of two similar images within the data set; `leak`: reported as a leak."""

    path: str
    other: str
    leak: bool


@dataclass(frozen=True)
class CheckRecord:
    """The stored result of a check.

    checked: date. listing: fingerprint of the images. pairs: similar images. quarantine: path of
    the list that the check wrote.
    """

    checked: str
    listing: str
    pairs: Sequence[SimilarPair]
    quarantine: str


def fingerprint_source(source: Source, where: str) -> str:
    """Return the fingerprint of all images of a stored set."""
    parts = (source.train, source.val, source.test() if source.test else None)
    return fingerprint_files((part.files for part in parts if part is not None), where)


def fingerprint_files(parts: Iterable[Files | None], where: str) -> str:
    """Return a fingerprint of the paths and sizes of images; `where` is the path of their set."""
    starts = prefixes(where)
    lines: list[bytes] = []
    for files in parts:
        if files is None:
            continue
        sizes = _file_sizes(files)
        for row in range(len(files)):
            path = path_within(files.name(row), starts).encode("utf-8", "surrogatepass")
            lines.append(path + b"\0%d\n" % (-1 if sizes is None else sizes[row]))
    digest = hashlib.blake2b(digest_size=16)
    for line in sorted(set(lines)):
        digest.update(line)
    return digest.hexdigest()


def _file_sizes(files: Files) -> Sequence[int] | None:
    """Return the bytes of each file, -1 if it is missing; None if files must be read."""
    if isinstance(files, FolderFiles):
        return [_file_size(files.root / path) for path in files.paths]
    spans = getattr(files, "spans", None)
    return None if spans is None else [int(size) for size in spans[:, -1].tolist()]


def _file_size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def save_record(
    source: str, findings: Iterable[Finding], listing: str, quarantine: Path
) -> Path | None:
    """Store the result of a check of `source`; return None if the cache cannot be written."""
    pairs = [
        [each.path, each.other_image, each.kind in LEAKS] for each in findings if each.other_image
    ]
    record = {
        "version": VERSION,
        "source": _source_key(source),
        "checked": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "listing": listing,
        "quarantine": str(quarantine.resolve()),
        "pairs": pairs,
    }
    path = _record_path(source)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        dump_json(record, path, indent=None)
        return path
    return None


def read_record(source: str) -> CheckRecord | None:
    """Return the result of the last check of `source`; None if there is none, or it is damaged."""
    try:
        record = read_object(_record_path(source))
        if record["version"] != VERSION or record["source"] != _source_key(source):
            return None
        return CheckRecord(
            checked=str(record["checked"]),
            listing=str(record["listing"]),
            pairs=[SimilarPair(str(a), str(b), bool(leak)) for a, b, leak in record["pairs"]],
            quarantine=str(record["quarantine"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class KnownLeaks:
    """Leaks between the splits of a run that a check of its set found.

    counts: (role, role of the other image) -> number of images of the first similar to one of the
    second that are still used. excluded: leaks that the quarantine removes. changed: the set has
    changed since the check, so that there may be others.
    """

    checked: str
    counts: Mapping[tuple[str, str], int]
    excluded: int
    changed: bool
    quarantine: str

    @property
    def total(self) -> int:
        """Leaks that are still in the splits."""
        return sum(self.counts.values())

    def describe(self) -> str:
        """Describe the leaks in one line for a log or report."""
        prefix = f"data check of {self.checked}"
        if self.changed:
            prefix += " (before the data set changed: check it again)"
        if not self.total:
            quarantined = (
                f"; {format_count(self.excluded, 'leaking image')} excluded"
                if self.excluded
                else ""
            )
            return f"{prefix}: no leaks between training and test images known{quarantined}"
        counts = ", ".join(
            format_count(
                count,
                f"{role} image is a copy or near-copy",
                f"{role} images are copies or near-copies",
            )
            + f" of {other} images"
            for (role, other), count in self.counts.items()
        )
        return (
            f"{prefix}: {counts}; the {' and '.join({other: None for _, other in self.counts})}"
            f" error counts them. Leave them out with --set data.quarantine={self.quarantine}"
        )

    def to_json(self) -> dict[str, object]:
        """Return the entry of result.json."""
        return {
            "checked": self.checked,
            "set_changed_since": self.changed,
            "leaks": {f"{role} in {other}": count for (role, other), count in self.counts.items()},
            "leaks_left_out": self.excluded,
        }


def load_known_leaks(roles: Roles, listing: Callable[[], str]) -> KnownLeaks | None:
    """Return the leaks that a check found in the images of `roles`; None if never checked.

    listing: returns the current fingerprint of the set; called only if there is a record.
    """
    source = roles.spec.source
    record = read_record(source)
    if record is None:
        return None
    starts = prefixes(source)
    shares: dict[str, list[str]] = {}
    for role, title in ((TRAIN, "training"), (VAL, "validation"), (TEST, "test")):
        share = roles.share(role)
        if share is not None and share.part.files is not None:
            files = share.part.files
            rows = share.rows.tolist()
            shares[title] = [path_within(files.name(row), starts) for row in rows]
    return find_known_leaks(record, listing(), shares)


ORDER = {"test": 0, "validation": 1, "training": 2}  # held-out roles first


def find_known_leaks(
    record: CheckRecord, listing: str, shares: Mapping[str, Iterable[str]]
) -> KnownLeaks:
    """Return the leaks of `record` in `shares`.

    shares: role ("training", "validation", "test") -> paths that are used.

    A pair counts if its images are in two shares and it was reported as a leak, or one of the
    shares is the test set.
    """
    role = {path: name for name, paths in shares.items() for path in paths}
    counts: dict[tuple[str, str], int] = {}
    excluded = 0
    for pair in record.pairs:
        one, other = role.get(pair.path), role.get(pair.other)
        if one is None or other is None:
            excluded += pair.leak
        elif one != other and (pair.leak or "test" in (one, other)):
            key = (one, other) if ORDER[one] > ORDER[other] else (other, one)
            counts[key] = counts.get(key, 0) + 1
    ordered = dict(sorted(counts.items(), key=lambda each: (ORDER[each[0][1]], -ORDER[each[0][0]])))
    return KnownLeaks(
        record.checked, ordered, excluded, record.listing != listing, record.quarantine
    )


def _source_key(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def _record_path(source: str) -> Path:
    name = hashlib.blake2b(
        _source_key(source).encode("utf-8", "surrogatepass"), digest_size=16
    ).hexdigest()
    return environment.cache_folder() / FOLDER / f"{name}.json"
