"""The record that a run keeps of its images: which it trains on, and which it holds out.

It holds for each image the hash of its identity (`data.dataset.image_identity`), its content key
(`data.dataset.image_hash`), the hashes of its path without suffix and of its class name, and its
role. A set that is opened again is compared with it, so that an image keeps its role whatever else
was added, removed or renamed, and none that was trained on is ever measured as held out.
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
from resnets.data.dataset.image_identity import hash_names, identify
from resnets.data.dataset.labels import Labels, is_multilabel
from resnets.data.dataset.source import Part, Rows
from resnets.data.errors import DataError
from resnets.data.order import random_bits

ROLES = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)
NEW = -1
FEW = 0.1  # share of images that are recognized, below which a set is not the run's own
SAME_SET = 0.5  # share of the training images that another place has, where it is the same set
PREFIX = "set"


@dataclass(frozen=True, eq=False)
class Keyed:
    """Keys of images. ids, content, stems: (N,) uint64; content and stems 0 = not known.

    labels: (N,) int32, hashes of their class names (`label_keys`); 0 = not known.
    """

    ids: Keys
    content: Keys
    stems: Keys
    labels: NDArray[np.int32]

    def take(self, rows: Rows | NDArray[np.bool_]) -> Keyed:
        """The keys of some of the images."""
        return Keyed(self.ids[rows], self.content[rows], self.stems[rows], self.labels[rows])


def label_keys(labels: Labels, classes: Sequence[str]) -> NDArray[np.int32]:
    """(N,) a number for each label that follows from its class name; 0 where there is no name.

    For sets of labels one that follows from the names in the set.
    """
    if not len(classes):
        return np.zeros(len(labels), np.int32)
    if is_multilabel(labels):
        sets, of = np.unique(labels, axis=0, return_inverse=True)
        names = hash_names(["\0".join(sorted(np.array(classes)[each > 0])) for each in sets])
        return np.maximum((names >> np.uint64(33)).astype(np.int32), 1)[of.reshape(-1)]
    names = (hash_names(classes) >> np.uint64(33)).astype(np.int32)
    known = (labels >= 0) & (labels < len(classes))
    return np.where(known, np.maximum(names, 1)[np.where(known, labels, 0)], 0).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Fingerprint(Keyed):
    """The keys of a run's images, with their roles: (N,) places in `ROLES`."""

    roles: NDArray[np.int8]

    @classmethod
    def of(cls, parts: Mapping[int, Keyed]) -> Fingerprint:
        """The record of keys by role."""
        roles = [np.full(len(keys.ids), role, np.int8) for role, keys in parts.items()]
        return cls._joined(list(parts.values()), np.concatenate(roles))

    @classmethod
    def _joined(cls, keys: Sequence[Keyed], roles: NDArray[np.int8]) -> Fingerprint:
        return cls(
            np.concatenate([each.ids for each in keys]),
            np.concatenate([each.content for each in keys]),
            np.concatenate([each.stems for each in keys]),
            np.concatenate([each.labels for each in keys]),
            roles,
        )

    def __len__(self) -> int:
        """N."""
        return len(self.ids)

    def counts(self) -> dict[str, int]:
        """Images by role."""
        return {role: int((self.roles == place).sum()) for place, role in enumerate(ROLES)}

    def tensors(self) -> dict[str, Tensor]:
        """As a checkpoint keeps it; 29 bytes an image."""
        return {
            f"{PREFIX}/ids": torch.from_numpy(self.ids.view(np.int64)),
            f"{PREFIX}/content": torch.from_numpy(self.content.view(np.int64)),
            f"{PREFIX}/stems": torch.from_numpy(self.stems.view(np.int64)),
            f"{PREFIX}/labels": torch.from_numpy(self.labels),
            f"{PREFIX}/roles": torch.from_numpy(self.roles),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Fingerprint | None:
        """The record among a checkpoint's tensors, None where it has none."""
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
        """One record of several runs: what any of them trained on counts as trained on."""
        joined = cls._joined(records, np.concatenate([each.roles for each in records]))
        order = np.lexsort((joined.roles, joined.content, joined.ids))
        ids, content = joined.ids[order], joined.content[order]
        first = np.ones(len(ids), bool)  # of equal images the one with the least role, training
        first[1:] = (ids[1:] != ids[:-1]) | (content[1:] != content[:-1])
        kept = order[first]
        return cls._joined([joined.take(kept)], joined.roles[kept])

    def merged(self, current: Fingerprint) -> Fingerprint:
        """This record with what is new in `current`; nothing that was ever seen is forgotten."""
        new = ~_isin(_pairs(current.ids, current.content), self._pairs)
        return self._joined(
            [self, current.take(new)], np.concatenate([self.roles, current.roles[new]])
        )

    def roles_of(self, keys: Keyed) -> NDArray[np.int8]:
        """(N,) the role each image of a part had, `NEW` for one that is not known.

        An image at its own path with its own content keeps its role; one with known content at
        another path has the role of that content (training first); a known path with new content
        has the path's role, and so has one that differs in its suffix where no image is left at
        the path as it was.
        """
        ids, content = keys.ids, keys.content
        by_id = self._by_id.find(ids)
        by_content = np.where(content == 0, NEW, self._by_content.find(content)).astype(np.int8)
        same = _isin(_pairs(ids, content), self._pairs) | (content == 0)
        same |= np.where(by_id == NEW, False, self._unread.find(ids) != NEW)
        moved = np.where(by_content != NEW, by_content, by_id)
        found = np.where(same & (by_id != NEW), by_id, moved).astype(np.int8)
        by_stem = np.where(keys.stems == 0, NEW, self._absent(keys).find(keys.stems))
        return np.where(found == NEW, by_stem, found).astype(np.int8)

    def _absent(self, keys: Keyed) -> _Index:
        """By stem, those of which neither the path nor the content is among the keys."""
        gone = (self.stems != 0) & ~_isin(self.ids, np.sort(keys.ids))
        gone &= (self.content == 0) | ~_isin(self.content, np.sort(keys.content))
        return _Index.of(self.stems[gone], self.roles[gone])

    def recognized(self, keys: Keyed) -> tuple[float, int]:
        """The share of images that are known, or that of the record that is there, the larger one;
        and how many of the record are there."""
        known = self.roles_of(keys) != NEW
        found = int((~self._gone(keys)).sum())
        return max(float(known.mean()), found / max(len(self), 1)), found

    def _gone(self, keys: Keyed) -> NDArray[np.bool_]:
        """(N of the record,) whether an image is there no more: neither its content, nor other
        content at its path that may be it, changed or encoded anew.

        A path that a known image of another path has taken, as where files are numbered anew, says
        nothing of the image that was there.
        """
        there = _isin(self.ids, np.sort(keys.ids)) & (self.content == 0)
        there |= (self.content != 0) & _isin(self.content, np.sort(keys.content))
        holding = keys.take(~self._moved_in(keys))
        there |= _isin(self.ids, np.sort(holding.ids))
        there |= (self.stems != 0) & _isin(self.stems, np.sort(holding.stems))
        return ~there

    def _moved_in(self, keys: Keyed) -> NDArray[np.bool_]:
        """(N,) whether an image has known content, at a path where that was not seen before."""
        known = self._by_content.find(keys.content) != NEW
        return known & (keys.content != 0) & ~_isin(_pairs(keys.ids, keys.content), self._pairs)

    def _renamed(self, keys: Keyed) -> NDArray[np.bool_]:
        """(N,) whether an image was moved here: it is at none of the paths where it was seen.

        Else it is a copy of one that is still there.
        """
        in_place = _isin(self._pairs_in_order, np.sort(_pairs(keys.ids, keys.content)))
        left = np.sort(self.content[in_place])
        return self._moved_in(keys) & ~_isin(keys.content, left)

    def relabeled(self, keys: Keyed) -> NDArray[np.bool_]:
        """(N,) whether an image is known by its content, in other classes than it has now.

        By its path, where contents are not known.
        """
        by_content = keys.content != 0
        known = np.where(by_content, _isin(keys.content, np.sort(self._labeled.content)), False)
        same = _isin(_pairs(keys.content, keys.labels), self._content_labels)
        by_id = ~by_content & _isin(keys.ids, np.sort(self._labeled.ids))
        same_id = _isin(_pairs(keys.ids, keys.labels), self._id_labels)
        return (keys.labels != 0) & ((known & ~same) | (by_id & ~same_id))

    @cached_property
    def _labeled(self) -> Keyed:
        return self.take(self.labels != 0)

    @cached_property
    def _content_labels(self) -> Keys:
        return np.sort(_pairs(self._labeled.content, self._labeled.labels))

    @cached_property
    def _id_labels(self) -> Keys:
        return np.sort(_pairs(self._labeled.ids, self._labeled.labels))

    def trained(self, content: Keys) -> NDArray[np.bool_]:
        """(N,) whether an image has the content of one that was trained on."""
        return (content != 0) & (self._by_content.find(content) == TRAIN)

    def among(self, content: Keys, roles: Sequence[int]) -> NDArray[np.bool_]:
        """(N,) whether an image has the content of one that had any of the `roles`."""
        keys = np.sort(self.content[np.isin(self.roles, roles) & (self.content != 0)])
        return _isin(content, keys) & (content != 0)

    def is_of(self, ids: Keys, content: Keys) -> bool:
        """Whether images are those of this record's set: at least half its training images.

        They are recognized by content, by path alone where contents are not known.
        """
        ours = self.roles == TRAIN
        if not content.any() or not self.content[ours].any():
            known = _isin(self.ids[ours], np.sort(ids))
        else:
            known = _isin(self.content[ours], np.sort(content[content != 0]))
        return len(known) > 0 and float(known.mean()) >= SAME_SET

    def changes(self, current: Fingerprint) -> Changes:
        """What became of the recorded images, and which are new."""
        replaced, gone = self._replaced(current), self._gone(current)
        relabeled, renamed = self.relabeled(current), self._renamed(current)
        new = self.roles_of(current) == NEW
        new |= self._inserted(current) | (self._moved_in(current) & ~renamed)
        count = {
            name: {
                "added": int((new & (current.roles == role)).sum()),
                "removed": int((gone & (self.roles == role)).sum()),
                "changed": int((replaced & (current.roles == role)).sum()),
                "renamed": int((renamed & (current.roles == role)).sum()),
                "relabelled": int((relabeled & (current.roles == role)).sum()),
            }
            for role, name in enumerate(ROLES)
        }
        unread = int(((current.content == 0) | ~self.content.any()).sum())
        return Changes(count, unread, current.counts())

    def _replaced(self, current: Fingerprint) -> NDArray[np.bool_]:
        """(N of `current`,) whether an image is at a known path, with content that is not known."""
        known = (self._by_id.find(current.ids) != NEW) & (self._unread.find(current.ids) == NEW)
        known &= ~self._inserted(current)
        known |= (current.stems != 0) & (self._absent(current).find(current.stems) != NEW)
        other = self._by_content.find(current.content) == NEW
        return known & other & (current.content != 0)

    def _inserted(self, current: Fingerprint) -> NDArray[np.bool_]:
        """(N of `current`,) whether an image of unknown content is at the path of one that is at
        another path now."""
        elsewhere = _isin(self.content, np.sort(current.content)) & (self.content != 0)
        stayed = np.sort(self.ids[~elsewhere])
        taken = _isin(current.ids, np.sort(self.ids[elsewhere])) & ~_isin(current.ids, stayed)
        unknown = (current.content != 0) & (self._by_content.find(current.content) == NEW)
        return taken & unknown

    @cached_property
    def _pairs_in_order(self) -> Keys:
        return _pairs(self.ids, self.content)

    @cached_property
    def _pairs(self) -> Keys:
        return np.sort(self._pairs_in_order)

    @cached_property
    def _by_id(self) -> _Index:
        return _Index.of(self.ids, self.roles)

    @cached_property
    def _unread(self) -> _Index:
        """Those whose content is not known."""
        return _Index.of(self.ids[self.content == 0], self.roles[self.content == 0])

    @cached_property
    def _by_content(self) -> _Index:
        return _Index.of(self.content[self.content != 0], self.roles[self.content != 0])


@dataclass(frozen=True)
class Changes:
    """counts: by role how many images were added, removed, changed (other contents at a known
    path), renamed (known contents at another path) and relabelled (known images in another class
    than before). unread: how many images could only be compared by path, since contents are not
    known. images: by role, as they are now.
    """

    counts: Mapping[str, Mapping[str, int]]
    unread: int
    images: Mapping[str, int]

    def __bool__(self) -> bool:
        """Whether there is any."""
        return any(count for each in self.counts.values() for count in each.values())

    def __str__(self) -> str:
        """Such as "training 3 added, 1 removed; test 2 changed"."""
        names = dict(zip(ROLES, ("training", "validation", "test"), strict=True))
        parts = [
            f"{names[role]} " + ", ".join(f"{n:,} {what}" for what, n in each.items() if n)
            for role, each in self.counts.items()
            if any(each.values())
        ]
        return "; ".join(parts)


@dataclass(frozen=True, eq=False)
class _Index:
    """keys: sorted, distinct. roles: the least role of each."""

    keys: Keys
    roles: NDArray[np.int8]

    @classmethod
    def of(cls, keys: Keys, roles: NDArray[np.int8]) -> _Index:
        order = np.lexsort((roles, keys))
        found, first = np.unique(keys[order], return_index=True)
        return cls(found, roles[order][first])

    def find(self, wanted: Keys) -> NDArray[np.int8]:
        """The role of each of `wanted`, `NEW` where it is not among the keys."""
        if not len(self.keys):
            return np.full(len(wanted), NEW, np.int8)
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[place] == wanted, self.roles[place], NEW).astype(np.int8)


def salted(ids: Keys, role: int) -> Keys:
    """The ids of a part of its own: its "cat/1.jpg" is not the training part's."""
    return ids if role == TRAIN else random_bits(role, 0, ids, 0)


def _pairs(ids: Keys, content: NDArray[np.uint64] | NDArray[np.int32]) -> Keys:
    """One number for each image at its path with its content, or for another pair of keys."""
    return random_bits(0, ids, content.astype(np.uint64), 0)


def _isin(wanted: Keys, ordered: Keys) -> NDArray[np.bool_]:
    """(N,) whether each of `wanted` is in the sorted `ordered`."""
    if not len(ordered):
        return np.zeros(len(wanted), np.bool_)
    place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return ordered[place] == wanted


def rows_by_role(roles: NDArray[np.int64]) -> tuple[Rows, Rows, Rows]:
    """Rows of each role, sorted."""
    train, val, test = (np.flatnonzero(roles == role) for role in range(len(ROLES)))
    return train, val, test


def keys_of_part(part: Part, role: int, classes: Sequence[str]) -> Keyed:
    """The keys of all images of a part that the source has for a role."""
    content = content_keys(part)
    identity = identify(part, content)
    stems = np.where(identity.stems == 0, 0, salted(identity.stems, role)).astype(np.uint64)
    if content is None:
        content = np.zeros(len(identity.ids), np.uint64)
    return Keyed(salted(identity.ids, role), content, stems, label_keys(part.labels, classes))
