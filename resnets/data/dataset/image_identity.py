"""Image identities, and the held-out splits that are computed from them.

The identity of an image is its path below the folder of the class folders, independent of how the
data set is stored (folder, tar, zip, pack), in Unicode's composed form (NFC) and with forward
slashes. For arrays it is the hash of the pixels. Whether an image is held out is a pure function of
(seed, identity), so adding or removing images does not move other images.

Byte-identical copies are on the same side of a split, because they share the random number
(`data.dataset.image_hash`). So are images of the same group, if groups are given; then the random
number depends on (seed, group).
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
    """Identities of N images.

    ids: (N,) uint64, a hash of each identity. kind: what it was computed from. stems: (N,) hashes
    of the paths without suffix, by which re-encoded images are recognized; 0 if there is no path.
    """

    ids: Keys
    kind: str
    stems: Keys

    @classmethod
    def without_stems(cls, ids: Keys, kind: str) -> Identity:
        """Return identities that are not paths."""
        return cls(ids, kind, np.zeros(len(ids), np.uint64))


@runtime_checkable
class HasIdentities(Protocol):
    """Files whose identities differ from their `paths`."""

    def identities(self) -> tuple[Sequence[str], str] | None:
        """Return one name per file and the kind of names ("key"); None if the paths are used."""


def hash_names(names: Sequence[str]) -> Keys:
    """Return (N,) uint64: a 64-bit BLAKE2b hash of each name in NFC."""

    def digest(name: str) -> bytes:
        data = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(data, digest_size=8).digest()

    return np.frombuffer(b"".join(map(digest, names)), "<u8").astype(np.uint64)


def hash_stems(names: Sequence[str]) -> Keys:
    """Return `hash_names` of the names without suffix, "cat/1.jpg" as "cat/1"; never 0."""
    return np.maximum(hash_names([posixpath.splitext(name)[0] for name in names]), np.uint64(1))


def strip_common_folder(paths: Sequence[str]) -> list[str]:
    """Strip the folders that all paths have in common: "train/cat/1.jpg" -> "cat/1.jpg".

    A data set has two or more classes, so the common folders end above the class folders.
    """
    if not paths:
        return []
    folders = {posixpath.dirname(path) for path in paths}
    if len(folders) == 1:  # one class, or a flat folder: its name is part of the path
        common = posixpath.dirname(folders.pop())
    else:
        common = "" if "" in folders else posixpath.commonpath(folders)
    start = f"{common}/" if common else ""
    return [path[len(start) :] for path in paths]


def identify_part(part: Part, content: Keys | None) -> Identity:
    """Return the identities of a part's images. content: their content keys, if known."""
    if isinstance(part, FilePart) and part.ids is not None:
        if part.stems is None:
            return Identity.without_stems(part.ids, "path")
        return Identity(part.ids, "path", part.stems)
    if part.files is None:
        return Identity.without_stems(pixel_keys(part), "pixels")
    return identify_files(part.files, content)


def identify_files(files: Files, content: Keys | None) -> Identity:
    """Return the identities of files: stored names, otherwise content keys, otherwise rows."""
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
    if isinstance(files, HasIdentities):
        return files.identities()
    paths = getattr(files, "paths", None)
    return None if paths is None else (strip_common_folder(paths), "path")


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
    """Return the sorted rows for training, validation and test, selected by image identities.

    Each image has a random number in [0, 1) that depends on (seed, identity). Numbers below
    `test_fraction` are test images, those from 1 - `val_fraction` are validation images, so neither
    split changes with the size of the other. For each held-out split at least one image per class
    is selected (the lowest or highest number) if the class has enough images, and at least one
    remains for training. Images with equal keys in `content` (0 = unknown) are on the same side,
    and so are images with equal keys in `groups`, which then replace the identities. For
    multi-label data see `_hold_out_sets`.
    """
    ids = ids if groups is None else groups
    group_rows = find_group_rows(ids, content, groups)
    random = order.random_bits(seed, 0, ids[group_rows], order.STREAM_SPLIT)
    if is_multilabel(labels):
        side = _hold_out_sets(labels, group_rows, random, val_fraction, test_fraction)
        return rows_by_side(side)
    side = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        numbers, group_of_row = np.unique(
            random[rows], return_inverse=True
        )  # sorted; a group counts once
        fraction = numbers.astype(np.float64) / FULL
        available = len(numbers) - (
            1 if val_fraction and len(numbers) > 2 else 0
        )  # keep one for validation
        num_test = _clamp_count(test_fraction, int((fraction < test_fraction).sum()), available)
        available = len(numbers) - num_test
        num_val = _clamp_count(val_fraction, int((fraction >= 1 - val_fraction).sum()), available)
        side_of_group = np.zeros(len(numbers), np.int64)
        side_of_group[:num_test] = 2
        side_of_group[len(numbers) - num_val :] = 1
        side[rows] = side_of_group[group_of_row]
    if content is not None or groups is not None:
        _unify_sides(side, group_rows, labels)
    return rows_by_side(side)


def rows_by_side(side: NDArray[np.int64]) -> tuple[Rows, Rows, Rows]:
    """Return the sorted rows for training (0), validation (1) and test (2)."""
    train, val, test = (np.flatnonzero(side == each) for each in range(3))
    return train, val, test


def _hold_out_sets(
    labels: Labels, groups: Rows, random: Keys, val_fraction: float, test_fraction: float
) -> NDArray[np.int64]:
    """Return the side (N,) of each multi-label image: 0 training, 1 validation, 2 test.

    Each image is first assigned by its random number alone. Then each label without an image on a
    held-out side gets the training image with this label whose number is nearest to that side, and
    a label without training images gets back the nearest held-out image. Labels with fewer than
    three images are not moved otherwise.
    """
    position = random.astype(np.float64) / FULL
    side = np.zeros(len(labels), np.int64)
    if val_fraction:
        side[position >= 1 - val_fraction] = 1
    side[position < test_fraction] = 2

    def move_groups(rows: Rows, to: int) -> None:
        side[np.isin(groups, groups[rows])] = to

    for column in labels.T:
        rows = np.flatnonzero(column)
        for to, fraction in ((2, test_fraction), (1, val_fraction)):
            training = rows[side[rows] == 0]
            distinct = len(np.unique(groups[training]))
            enough = distinct > 1 and len(np.unique(groups[rows])) > 2
            if fraction and enough and not np.any(side[rows] == to):
                nearest = (
                    np.argmin(position[training]) if to == 2 else np.argmax(position[training])
                )
                move_groups(training[[nearest]], to)
    for column in labels.T:
        rows = np.flatnonzero(column)
        if len(rows) and not np.any(side[rows] == 0):
            move_groups(rows[[np.argmin(np.abs(position[rows] - 0.5))]], 0)
    return side


def _clamp_count(fraction: float, count: int, available: int) -> int:
    return min(available - 1, max(1, count)) if fraction else 0


def assign_folds(
    labels: NDArray[np.int64],
    ids: Keys,
    folds: int,
    seed: int,
    content: Keys | None = None,
    groups: Keys | None = None,
) -> NDArray[np.int64]:
    """Return the fold (N,) of each image, 0 to folds - 1; class counts differ by at most 1.

    Images are assigned class by class, in the order of random numbers that depend on (seed,
    identity). Copies and groups, as in `hold_out`, count as one image, with the class of one of
    them.
    """
    ids = ids if groups is None else groups
    rows, group_of_row = np.unique(find_group_rows(ids, content, groups), return_inverse=True)
    random = order.random_bits(seed, 0, ids[rows], order.STREAM_SPLIT)
    fold = np.empty(len(rows), np.int64)
    fold[np.lexsort((random, labels[rows]))] = np.arange(len(rows)) % folds
    return fold[group_of_row]


def find_group_rows(ids: Keys, content: Keys | None, groups: Keys | None = None) -> Rows:
    """Return for each image (N,) the row whose random number decides: the copy with the lowest id.

    With groups: the lowest id of all images that are connected by groups and copies.
    """
    if groups is not None:
        return _lowest_id_rows(_find_connected(groups, content), ids)
    own = np.arange(len(ids))
    return own if content is None else np.where(content == 0, own, _lowest_id_rows(content, ids))


def _find_connected(groups: Keys, content: Keys | None) -> Rows:
    """Return a number per image (N,), equal for images connected by groups and copies."""
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


def _lowest_id_rows(numbers: Rows | Keys, ids: Keys) -> Rows:
    """Return for each image (N,) the row with the lowest id among the images with its number."""
    by_number = np.lexsort((ids, numbers))
    ordered = numbers[by_number]
    found = np.empty(len(ids), np.int64)
    found[by_number] = by_number[np.searchsorted(ordered, ordered)]
    return found


def _unify_sides(side: NDArray[np.int64], groups: Rows, labels: NDArray[np.int64]) -> None:
    """Put copies and groups that have several classes on the same side, in place.

    Only the minimum of one image per class can have separated them. All of them are held out, or
    used for training if a class would otherwise have no training image.
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
    """Hold out images by their rank among the sorted files, the rule before `data.split_rule`.

    It remains so that old runs are evaluated on the images that they held out. One more image moves
    the others. Raises DataError for multi-label data, which earlier versions did not have.
    """
    if is_multilabel(labels):
        raise DataError("data.split_rule: 'rank' is for one class per image; use 'identity'")
    side = np.zeros(len(labels), np.int64)
    random = order.random_bits(seed, 0, np.arange(len(labels)), order.STREAM_SPLIT)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(random[rows], kind="stable")]
        num_test = _clamp_count(test_fraction, round(len(rows) * test_fraction), len(rows))
        num_val = _clamp_count(val_fraction, round(len(rows) * val_fraction), len(rows) - num_test)
        side[rows[:num_test]] = 2
        side[rows[num_test : num_test + num_val]] = 1
    return rows_by_side(side)
