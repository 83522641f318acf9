"""The record of a run's images: which ones it trains on, and which ones it holds out.

For each image it contains the hash of its identity (`data.dataset.image_identity`), its content key
(`data.dataset.image_hash`), the hashes of its path without suffix and of its class name, and its
role. A set that is opened again is compared with the record, so that an image keeps its role when
others are added, removed or renamed, and no image that was trained on is measured as held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data.dataset.image_hash import Keys, content_keys
from resnets.data.dataset.image_identity import hash_names, identify_part
from resnets.data.dataset.labels import Labels, is_multilabel
from resnets.data.dataset.source import Part, Rows
from resnets.data.errors import DataError
from resnets.data.order import random_bits

ROLES = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)
UNKNOWN = -1
MIN_RECOGNIZED = 0.1  # share of recognized images below which a set is not the run's own
MIN_SAME_SET = 0.5  # share of the training images from which a set elsewhere is the same one
PREFIX = "set"


@dataclass(frozen=True, eq=False)
class ImageKeys:
    """Keys of N images. ids, content, stems: (N,) uint64; 0 in content and stems means unknown.

    labels: (N,) int32, hashes of class names (`hash_labels`); 0 means unknown.
    """

    ids: Keys
    content: Keys
    stems: Keys
    labels: NDArray[np.int32]

    def take(self, rows: Rows | NDArray[np.bool_]) -> ImageKeys:
        """Return the keys of some of the images."""
        return ImageKeys(self.ids[rows], self.content[rows], self.stems[rows], self.labels[rows])


def hash_labels(labels: Labels, classes: Sequence[str]) -> NDArray[np.int32]:
    """Return (N,) int32, a hash of each label's class name; 0 without a name.

    For multi-label data it is a hash of the names in the set.
    """
    if not len(classes):
        return np.zeros(len(labels), np.int32)
    if is_multilabel(labels):
        sets, group = np.unique(labels, axis=0, return_inverse=True)
        names = hash_names(["\0".join(sorted(np.array(classes)[each > 0])) for each in sets])
        return np.maximum((names >> np.uint64(33)).astype(np.int32), 1)[group.reshape(-1)]
    names = (hash_names(classes) >> np.uint64(33)).astype(np.int32)
    known = (labels >= 0) & (labels < len(classes))
    return np.where(known, np.maximum(names, 1)[np.where(known, labels, 0)], 0).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Fingerprint(ImageKeys):
    """The keys of a run's images with their roles: (N,) indices of `ROLES`."""

    roles: NDArray[np.int8]

    @classmethod
    def of(cls, parts: Mapping[int, ImageKeys]) -> Fingerprint:
        """Build the record from keys by role."""
        roles = [np.full(len(keys.ids), role, np.int8) for role, keys in parts.items()]
        return cls._concat(list(parts.values()), np.concatenate(roles))

    @classmethod
    def _concat(cls, keys: Sequence[ImageKeys], roles: NDArray[np.int8]) -> Fingerprint:
        return cls(
            np.concatenate([each.ids for each in keys]),
            np.concatenate([each.content for each in keys]),
            np.concatenate([each.stems for each in keys]),
            np.concatenate([each.labels for each in keys]),
            roles,
        )

    def __len__(self) -> int:
        """Return N."""
        return len(self.ids)

    def counts(self) -> dict[str, int]:
        """Return the number of images by role."""
        return {role: int((self.roles == place).sum()) for place, role in enumerate(ROLES)}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint stores; 29 bytes per image."""
        return {
            f"{PREFIX}/ids": torch.from_numpy(self.ids.view(np.int64)),
            f"{PREFIX}/content": torch.from_numpy(self.content.view(np.int64)),
            f"{PREFIX}/stems": torch.from_numpy(self.stems.view(np.int64)),
            f"{PREFIX}/labels": torch.from_numpy(self.labels),
            f"{PREFIX}/roles": torch.from_numpy(self.roles),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Fingerprint | None:
        """Read the record from a checkpoint's tensors; None if there is none."""
        names = [f"{PREFIX}/{name}" for name in ("ids", "content", "roles")]
        if not tensors.keys() >= set(names):
            return None
        ids, content, roles = (tensors[name].numpy() for name in names)
        stems, labels = np.zeros(len(ids), np.uint64), np.zeros(len(ids), np.int32)
        if f"{PREFIX}/stems" in tensors:  # not in the first records
            stems = tensors[f"{PREFIX}/stems"].numpy().view(np.uint64)
        if f"{PREFIX}/labels" in tensors:
            labels = tensors[f"{PREFIX}/labels"].numpy()
        columns = (ids, content, stems, labels, roles)
        if any(each.shape != (len(ids),) for each in columns) or (
            len(ids) and not 0 <= int(roles.min()) <= int(roles.max()) < len(ROLES)
        ):
            raise DataError("the record of images is damaged: its columns do not fit together")
        return cls(ids.view(np.uint64), content.view(np.uint64), stems, labels, roles)

    @classmethod
    def union(cls, records: Sequence[Fingerprint]) -> Fingerprint:
        """Join the records of several runs; an image used for training by any of them stays so."""
        joined = cls._concat(records, np.concatenate([each.roles for each in records]))
        order = np.lexsort((joined.roles, joined.content, joined.ids))
        ids, content = joined.ids[order], joined.content[order]
        first = np.ones(len(ids), bool)  # of equal images the one with the smallest role, training
        first[1:] = (ids[1:] != ids[:-1]) | (content[1:] != content[:-1])
        kept = order[first]
        return cls._concat([joined.take(kept)], joined.roles[kept])

    def merged(self, current: Fingerprint) -> Fingerprint:
        """Return this record with the new images of `current`; no image is ever removed."""
        new = ~_isin_sorted(_hash_pairs(current.ids, current.content), self._sorted_pairs)
        return self._concat(
            [self, current.take(new)], np.concatenate([self.roles, current.roles[new]])
        )

    def roles_of(self, keys: ImageKeys) -> NDArray[np.int8]:
        """Return (N,) the earlier role of each image of a part, `UNKNOWN` for a new one.

        An image at its own path with its own content keeps its role. One with known content at
        another path has the role of that content (training first). A known path with new content
        has the role of the path, and so has a path that differs only in its suffix if no image is
        left at the recorded path.
        """
        ids, content = keys.ids, keys.content
        by_id = self._by_id.find(ids)
        by_content = np.where(content == 0, UNKNOWN, self._by_content.find(content)).astype(np.int8)
        same = _isin_sorted(_hash_pairs(ids, content), self._sorted_pairs) | (content == 0)
        same |= np.where(by_id == UNKNOWN, False, self._unread.find(ids) != UNKNOWN)
        moved = np.where(by_content != UNKNOWN, by_content, by_id)
        found = np.where(same & (by_id != UNKNOWN), by_id, moved).astype(np.int8)
        by_stem = np.where(
            keys.stems == 0, UNKNOWN, self._index_absent_stems(keys).find(keys.stems)
        )
        return np.where(found == UNKNOWN, by_stem, found).astype(np.int8)

    def _index_absent_stems(self, keys: ImageKeys) -> _RoleIndex:
        """Index by stem the images of which neither path nor content is among the keys."""
        absent = (self.stems != 0) & ~_isin_sorted(self.ids, np.sort(keys.ids))
        absent &= (self.content == 0) | ~_isin_sorted(self.content, np.sort(keys.content))
        return _RoleIndex.of(self.stems[absent], self.roles[absent])

    def recognized_share(self, keys: ImageKeys) -> tuple[float, int]:
        """Return the fraction of images that are recognized, and the number that are present.

        The fraction is that of images that are known, or of recorded images that are present,
        whichever is larger. The number counts recorded images.
        """
        known = self.roles_of(keys) != UNKNOWN
        found = int((~self._is_removed(keys)).sum())
        return max(float(known.mean()), found / max(len(self), 1)), found

    def _is_removed(self, keys: ImageKeys) -> NDArray[np.bool_]:
        """Return whether each recorded image (N,) is gone.

        Neither its content nor a changed version at its path is present.

        A path that now has a known image of another path, as after renumbering, does not count.
        """
        is_present = _isin_sorted(self.ids, np.sort(keys.ids)) & (self.content == 0)
        is_present |= (self.content != 0) & _isin_sorted(self.content, np.sort(keys.content))
        in_place = keys.take(~self._is_moved(keys))
        is_present |= _isin_sorted(self.ids, np.sort(in_place.ids))
        is_present |= (self.stems != 0) & _isin_sorted(self.stems, np.sort(in_place.stems))
        return ~is_present

    def _is_moved(self, keys: ImageKeys) -> NDArray[np.bool_]:
        """Return (N,) whether an image has known content at a path where it was not seen before."""
        known = self._by_content.find(keys.content) != UNKNOWN
        return (
            known
            & (keys.content != 0)
            & ~_isin_sorted(_hash_pairs(keys.ids, keys.content), self._sorted_pairs)
        )

    def _is_renamed(self, keys: ImageKeys) -> NDArray[np.bool_]:
        """Return (N,) whether an image was moved: it is at none of the paths where it was seen.

        Otherwise it is a copy of an image that is still there.
        """
        in_place = _isin_sorted(self._pair_hashes, np.sort(_hash_pairs(keys.ids, keys.content)))
        remaining = np.sort(self.content[in_place])
        return self._is_moved(keys) & ~_isin_sorted(keys.content, remaining)

    def is_relabeled(self, keys: ImageKeys) -> NDArray[np.bool_]:
        """Return whether each image (N,) is known by its content, but in other classes.

        By its path if contents are unknown.
        """
        by_content = keys.content != 0
        known = np.where(
            by_content, _isin_sorted(keys.content, np.sort(self._labeled.content)), False
        )
        same = _isin_sorted(_hash_pairs(keys.content, keys.labels), self._content_labels)
        by_id = ~by_content & _isin_sorted(keys.ids, np.sort(self._labeled.ids))
        same_id = _isin_sorted(_hash_pairs(keys.ids, keys.labels), self._id_labels)
        return (keys.labels != 0) & ((known & ~same) | (by_id & ~same_id))

    @cached_property
    def _labeled(self) -> ImageKeys:
        return self.take(self.labels != 0)

    @cached_property
    def _content_labels(self) -> Keys:
        return np.sort(_hash_pairs(self._labeled.content, self._labeled.labels))

    @cached_property
    def _id_labels(self) -> Keys:
        return np.sort(_hash_pairs(self._labeled.ids, self._labeled.labels))

    def was_trained_on(self, content: Keys) -> NDArray[np.bool_]:
        """Return (N,) whether an image has the content of one that was trained on."""
        return (content != 0) & (self._by_content.find(content) == TRAIN)

    def has_role(self, content: Keys, roles: Sequence[int]) -> NDArray[np.bool_]:
        """Return (N,) whether an image has the content of one that had any of the `roles`."""
        keys = np.sort(self.content[np.isin(self.roles, roles) & (self.content != 0)])
        return _isin_sorted(content, keys) & (content != 0)

    def is_same_set(self, ids: Keys, content: Keys) -> bool:
        """Return whether images include at least half the training images of this record.

        They are recognized by content, by path if contents are unknown.
        """
        is_train = self.roles == TRAIN
        if not content.any() or not self.content[is_train].any():
            known = _isin_sorted(self.ids[is_train], np.sort(ids))
        else:
            known = _isin_sorted(self.content[is_train], np.sort(content[content != 0]))
        return len(known) > 0 and float(known.mean()) >= MIN_SAME_SET

    def changes(self, current: Fingerprint) -> Changes:
        """Compare the recorded images with the `current` ones."""
        replaced, removed = self._is_replaced(current), self._is_removed(current)
        relabeled, renamed = self.is_relabeled(current), self._is_renamed(current)
        new = self.roles_of(current) == UNKNOWN
        new |= self._is_inserted(current) | (self._is_moved(current) & ~renamed)
        count = {
            name: {
                "added": int((new & (current.roles == role)).sum()),
                "removed": int((removed & (self.roles == role)).sum()),
                "changed": int((replaced & (current.roles == role)).sum()),
                "renamed": int((renamed & (current.roles == role)).sum()),
                "relabelled": int((relabeled & (current.roles == role)).sum()),
            }
            for role, name in enumerate(ROLES)
        }
        num_unread = int(((current.content == 0) | ~self.content.any()).sum())
        return Changes(count, num_unread, current.counts())

    def _is_replaced(self, current: Fingerprint) -> NDArray[np.bool_]:
        """Return (N of `current`,) whether an image is at a known path with unknown content."""
        known = (self._by_id.find(current.ids) != UNKNOWN) & (
            self._unread.find(current.ids) == UNKNOWN
        )
        known &= ~self._is_inserted(current)
        known |= (current.stems != 0) & (
            self._index_absent_stems(current).find(current.stems) != UNKNOWN
        )
        other = self._by_content.find(current.content) == UNKNOWN
        return known & other & (current.content != 0)

    def _is_inserted(self, current: Fingerprint) -> NDArray[np.bool_]:
        """Return whether each `current` image (N,) is unknown, at the path of a moved image."""
        elsewhere = _isin_sorted(self.content, np.sort(current.content)) & (self.content != 0)
        stayed = np.sort(self.ids[~elsewhere])
        is_reused = _isin_sorted(current.ids, np.sort(self.ids[elsewhere])) & ~_isin_sorted(
            current.ids, stayed
        )
        unknown = (current.content != 0) & (self._by_content.find(current.content) == UNKNOWN)
        return is_reused & unknown

    @cached_property
    def _pair_hashes(self) -> Keys:
        return _hash_pairs(self.ids, self.content)

    @cached_property
    def _sorted_pairs(self) -> Keys:
        return np.sort(self._pair_hashes)

    @cached_property
    def _by_id(self) -> _RoleIndex:
        return _RoleIndex.of(self.ids, self.roles)

    @cached_property
    def _unread(self) -> _RoleIndex:
        """Images of unknown content."""
        return _RoleIndex.of(self.ids[self.content == 0], self.roles[self.content == 0])

    @cached_property
    def _by_content(self) -> _RoleIndex:
        return _RoleIndex.of(self.content[self.content != 0], self.roles[self.content != 0])


@dataclass(frozen=True)
class Changes:
    """The differences between a recorded set and the current one.

    counts: by role, the number of images added, removed, changed (other contents at a known path),
    renamed (known contents at another path) and relabelled (known images in another class). unread:
    images that could only be compared by path, since contents are unknown. images: by role, in the
    current set.
    """

    counts: Mapping[str, Mapping[str, int]]
    unread: int
    images: Mapping[str, int]

    def __bool__(self) -> bool:
        """Return whether there are any changes."""
        return any(count for each in self.counts.values() for count in each.values())

    def __str__(self) -> str:
        """Format as "training 3 added, 1 removed; test 2 changed"."""
        names = dict(zip(ROLES, ("training", "validation", "test"), strict=True))
        parts = [
            f"{names[role]} " + ", ".join(f"{n:,} {what}" for what, n in each.items() if n)
            for role, each in self.counts.items()
            if any(each.values())
        ]
        return "; ".join(parts)


@dataclass(frozen=True, eq=False)
class _RoleIndex:
    """Maps keys to roles. keys: sorted, distinct. roles: the smallest role of each."""

    keys: Keys
    roles: NDArray[np.int8]

    @classmethod
    def of(cls, keys: Keys, roles: NDArray[np.int8]) -> _RoleIndex:
        order = np.lexsort((roles, keys))
        found, first = np.unique(keys[order], return_index=True)
        return cls(found, roles[order][first])

    def find(self, queries: Keys) -> NDArray[np.int8]:
        """Return the role of each query, `UNKNOWN` for keys that are not in the index."""
        if not len(self.keys):
            return np.full(len(queries), UNKNOWN, np.int8)
        index = np.minimum(np.searchsorted(self.keys, queries), len(self.keys) - 1)
        return np.where(self.keys[index] == queries, self.roles[index], UNKNOWN).astype(np.int8)


def salt_ids(ids: Keys, role: int) -> Keys:
    """Make the ids of a separate part differ: its "cat/1.jpg" is not that of the training part."""
    return ids if role == TRAIN else random_bits(role, 0, ids, 0)


def _hash_pairs(ids: Keys, content: NDArray[np.uint64] | NDArray[np.int32]) -> Keys:
    """Hash pairs of keys, such as path and content of an image, into one number each."""
    return random_bits(0, ids, content.astype(np.uint64), 0)


def _isin_sorted(queries: Keys, sorted_keys: Keys) -> NDArray[np.bool_]:
    """Return (N,) whether each query is in the sorted `sorted_keys`."""
    if not len(sorted_keys):
        return np.zeros(len(queries), np.bool_)
    index = np.minimum(np.searchsorted(sorted_keys, queries), len(sorted_keys) - 1)
    return sorted_keys[index] == queries


def compute_image_keys(part: Part, role: int, classes: Sequence[str]) -> ImageKeys:
    """Compute the keys of all images of the part that the source has for a role."""
    content = content_keys(part)
    identity = identify_part(part, content)
    stems = np.where(identity.stems == 0, 0, salt_ids(identity.stems, role)).astype(np.uint64)
    if content is None:
        content = np.zeros(len(identity.ids), np.uint64)
    return ImageKeys(
        salt_ids(identity.ids, role), content, stems, hash_labels(part.labels, classes)
    )
