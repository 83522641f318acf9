"""Which image is which: names that survive a move, and the shares that are held out by them.

An image's identity is its path below the folder that holds the class folders, whatever stores the
set (a folder, a tar, a zip, a pack), in Unicode's composed form (NFC) and with forward slashes; of
arrays it is the hash of the pixels. Whether an image is held out is a pure function of (seed,
identity), so images that are added or removed later do not move the others.

Byte-identical copies are on one side: they share the number that decides
(`data.dataset.image_hash`). So are images of one group, where groups are given; the number
follows from (seed, group) then.
"""

from __future__ import annotations

import hashlib
import posixpath
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from resnets.data import order
from resnets.data.dataset.image_hash import Keys, pixel_keys
from resnets.data.dataset.labels import Labels, is_multilabel
from resnets.data.dataset.source import FilePart, Part, Rows
from resnets.data.errors import DataError
from resnets.data.files.folder import Files

FULL = 2.0**64


@dataclass(frozen=True, eq=False)
class Identity:
    """ids: (N,) uint64, a hash of each image's identity. kind: what it was taken from.

    stems: the same without the suffix, by which images are known that were encoded anew and named
    after it; 0 where the identity is no path.
    """

    ids: Keys
    kind: str
    stems: Keys

    @classmethod
    def without_stems(cls, ids: Keys, kind: str) -> Identity:
        """Of images whose identity is no path."""
        return cls(ids, kind, np.zeros(len(ids), np.uint64))


@runtime_checkable
class Named(Protocol):
    """Files whose identities are not their `paths`."""

    def identities(self) -> tuple[Sequence[str], str] | None:
        """A name for each, and what it is ("key"); None where they have none of their own."""


def hash_names(names: Sequence[str]) -> Keys:
    """(N,) uint64: 64 bits of BLAKE2b of each name, in NFC."""

    def digest(name: str) -> bytes:
        data = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(data, digest_size=8).digest()

    return np.frombuffer(b"".join(map(digest, names)), "<u8").astype(np.uint64)


def hash_stems(names: Sequence[str]) -> Keys:
    """The same of the names without their suffixes, "cat/1.jpg" as "cat/1"; never 0."""
    return np.maximum(hash_names([posixpath.splitext(name)[0] for name in names]), np.uint64(1))


def below_classes(paths: Sequence[str]) -> list[str]:
    """The paths without the folders that all of them are in: "train/cat/1.jpg" -> "cat/1.jpg".

    A set has two classes or more, so what its images have in common ends above the class folders.
    """
    if not paths:
        return []
    folders = {posixpath.dirname(path) for path in paths}
    if len(folders) == 1:  # one class alone, or a flat folder: its name belongs to the path
        common = posixpath.dirname(folders.pop())
    else:
        common = "" if "" in folders else posixpath.commonpath(folders)
    start = f"{common}/" if common else ""
    return [path[len(start) :] for path in paths]


def identify(part: Part, content: Keys | None) -> Identity:
    """The identities of a part's images. `content`: their keys, where they are known."""
    if isinstance(part, FilePart) and part.ids is not None:
        if part.stems is None:
            return Identity.without_stems(part.ids, "path")
        return Identity(part.ids, "path", part.stems)
    if part.files is None:
        return Identity.without_stems(pixel_keys(part), "pixels")
    return identify_files(part.files, content)


def identify_files(files: Files, content: Keys | None) -> Identity:
    """The identities of files by their stored names, else by content, else by row."""
    named = _stored_names(files)
    if named is not None and len(set(named[0])) == len(named[0]):
        names, kind = named
        if kind == "path":
            return Identity(hash_names(names), kind, hash_stems(names))
        return Identity.without_stems(hash_names(names), kind)
    if content is not None and content.all():
        return Identity.without_stems(content, "content")
    return Identity.without_stems(hash_names([str(row) for row in range(len(files))]), "row")


def _stored_names(files: Files) -> tuple[Sequence[str], str] | None:
    if isinstance(files, Named):
        return files.identities()
    paths = getattr(files, "paths", None)
    return None if paths is None else (below_classes(paths), "path")


def hold_out(
    labels: Labels,
    ids: Keys,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    content: Keys | None = None,
    groups: Keys | None = None,
) -> tuple[Rows, Rows, Rows]:
    """Rows for training, validation and test, each sorted, by the images' identities.

    Each image has a number in [0, 1) that follows from (seed, identity); those below
    `test_fraction` are the test share, those from 1 - `val_fraction` on the validation share, so
    neither changes with the other's size. Every class holds out at least one image of each (the
    lowest, the highest) where it has enough, and keeps one for training. Images with equal keys in
    `content` (0 = not known) are on one side, and so are those with equal keys in `groups`, which
    then stand for the identities. Of sets of labels see `_hold_out_sets`.
    """
    ids = ids if groups is None else groups
    joined = joined_rows(ids, content, groups)
    luck = order.random_bits(seed, 0, ids[joined], order.STREAM_SPLIT)
    if is_multilabel(labels):
        side = _hold_out_sets(labels, joined, luck, val_fraction, test_fraction)
        train, val, test = (np.flatnonzero(side == each) for each in range(3))
        return train, val, test
    side = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        numbers, group = np.unique(luck[rows], return_inverse=True)  # sorted; a group is one
        share = numbers.astype(np.float64) / FULL
        left = len(numbers) - (1 if val_fraction and len(numbers) > 2 else 0)  # one to validate on
        tests = _share(test_fraction, int((share < test_fraction).sum()), left)
        left = len(numbers) - tests
        vals = _share(val_fraction, int((share >= 1 - val_fraction).sum()), left)
        of = np.zeros(len(numbers), np.int64)
        of[:tests] = 2
        of[len(numbers) - vals :] = 1
        side[rows] = of[group]
    if content is not None or groups is not None:
        _join_sides(side, joined, labels)
    train, val, test = (np.flatnonzero(side == each) for each in range(3))
    return train, val, test


def _hold_out_sets(
    labels: Labels, groups: Rows, luck: Keys, val_fraction: float, test_fraction: float
) -> NDArray[np.int64]:
    """(N,) sides of images that have sets of labels: 0 training, 1 validation, 2 test.

    Each image goes by its number alone. Then each label without an image on a held-out side gets
    the training image of that label whose number is nearest to that side, and one without an image
    to train on gets back the held-out one nearest to training; a label of fewer than three images
    stays as it fell, but for the last.
    """
    share = luck.astype(np.float64) / FULL
    side = np.zeros(len(labels), np.int64)
    if val_fraction:
        side[share >= 1 - val_fraction] = 1
    side[share < test_fraction] = 2

    def move(rows: Rows, to: int) -> None:
        side[np.isin(groups, groups[rows])] = to

    for column in labels.T:
        rows = np.flatnonzero(column)
        for to, fraction in ((2, test_fraction), (1, val_fraction)):
            free = rows[side[rows] == 0]
            distinct = len(np.unique(groups[free]))
            enough = distinct > 1 and len(np.unique(groups[rows])) > 2
            if fraction and enough and not np.any(side[rows] == to):
                nearest = np.argmin(share[free]) if to == 2 else np.argmax(share[free])
                move(free[[nearest]], to)
    for column in labels.T:
        rows = np.flatnonzero(column)
        if len(rows) and not np.any(side[rows] == 0):
            move(rows[[np.argmin(np.abs(share[rows] - 0.5))]], 0)
    return side


def _share(fraction: float, drawn: int, left: int) -> int:
    return min(left - 1, max(1, drawn)) if fraction else 0


def fold_of(
    labels: NDArray[np.int64],
    ids: Keys,
    folds: int,
    seed: int,
    content: Keys | None = None,
    groups: Keys | None = None,
) -> NDArray[np.int64]:
    """(N,) the fold of each image, 0 to folds - 1: as many of each class in each, or one more.

    Images are dealt to the folds class by class, in the order of numbers that follow from (seed,
    identity). Copies and groups, as in `hold_out`, are dealt as one image, of the class of one of
    theirs.
    """
    ids = ids if groups is None else groups
    rows, unit = np.unique(joined_rows(ids, content, groups), return_inverse=True)
    luck = order.random_bits(seed, 0, ids[rows], order.STREAM_SPLIT)
    fold = np.empty(len(rows), np.int64)
    fold[np.lexsort((luck, labels[rows]))] = np.arange(len(rows)) % folds
    return fold[unit]


def joined_rows(ids: Keys, content: Keys | None, groups: Keys | None = None) -> Rows:
    """(N,) for each image the row whose number decides: of equal ones that of the lowest id.

    With groups, of all images that groups and copies connect.
    """
    if groups is not None:
        return _lowest(_connected(groups, content), ids)
    own = np.arange(len(ids))
    return own if content is None else np.where(content == 0, own, _lowest(content, ids))


def _connected(groups: Keys, content: Keys | None) -> Rows:
    """(N,) a number for each image, equal for those that a chain of groups and copies connects."""
    from scipy.sparse import coo_array  # deferred: slow to import
    from scipy.sparse.csgraph import connected_components

    names, group = np.unique(groups, return_inverse=True)
    if content is None or not content.any():
        return group
    known = np.flatnonzero(content)
    copies, copy = np.unique(content[known], return_inverse=True)
    count = len(names) + len(copies)
    edges = (np.ones(len(known), np.bool_), (group[known], len(names) + copy))
    return connected_components(coo_array(edges, shape=(count, count)), directed=False)[1][group]


def _lowest(numbers: Rows | Keys, ids: Keys) -> Rows:
    """(N,) for each image the row of the lowest id among those of its number."""
    by_number = np.lexsort((ids, numbers))
    ordered = numbers[by_number]
    found = np.empty(len(ids), np.int64)
    found[by_number] = by_number[np.searchsorted(ordered, ordered)]
    return found


def _join_sides(side: NDArray[np.int64], groups: Rows, labels: NDArray[np.int64]) -> None:
    """Put copies and groups that lie in several classes on one side, in place.

    Only the least of one image a class can have parted them. They are all held out, or all trained
    on where a class would otherwise have no training image.
    """
    most, least = (np.full(len(side), start, np.int64) for start in (-1, 3))
    np.maximum.at(most, groups, side)
    np.minimum.at(least, groups, side)
    for group in np.flatnonzero(most > least):
        rows = np.flatnonzero(groups == group)
        side[rows] = most[group]
        if any(not np.any((labels == label) & (side == 0)) for label in np.unique(labels[rows])):
            side[rows] = least[group]


def hold_out_by_rank(
    labels: Labels, *, val_fraction: float, test_fraction: float, seed: int
) -> tuple[Rows, Rows, Rows]:
    """The rule of runs before `data.split_rule`: by each image's rank among the sorted files.

    It is kept so that such runs are measured on the images that they held out. One more image
    moves the others. DataError for sets of labels, which earlier versions did not have.
    """
    if is_multilabel(labels):
        raise DataError("data.split_rule: 'rank' is for one class per image; use 'identity'")
    side = np.zeros(len(labels), np.int64)
    luck = order.random_bits(seed, 0, np.arange(len(labels)), order.STREAM_SPLIT)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(luck[rows], kind="stable")]
        tests = _share(test_fraction, round(len(rows) * test_fraction), len(rows))
        vals = _share(val_fraction, round(len(rows) * val_fraction), len(rows) - tests)
        side[rows[:tests]] = 2
        side[rows[tests : tests + vals]] = 1
    train, val, test = (np.flatnonzero(side == each) for each in range(3))
    return train, val, test
