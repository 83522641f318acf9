"""Find byte-identical images, or images of one group, in two splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from resnets.data.dataset.image_hash import Keys
from resnets.data.dataset.source import Rows
from resnets.data.splits.image_record import TEST, TRAIN, VAL

NAMES = {TRAIN: "training", VAL: "validation", TEST: "test"}
RolePosition = tuple[int, int]  # a role, and an index of its images


@dataclass(frozen=True, eq=False)
class Overlap:
    """Images that are in two splits.

    counts: by held-out role, the number of images that are in an earlier role too: test images
    among those trained or validated on, validation images among those trained on. copies: by
    earlier role, the indices of such images. first: the first pair, the held-out image first.
    excluded: the copies are neither trained nor validated on. group: the setting of groups
    (`data.group`), if images share a group instead of being identical.
    """

    counts: Mapping[int, int]
    copies: Mapping[int, Rows]
    first: tuple[RolePosition, RolePosition]
    excluded: bool = field(default=False)
    group: str | None = None

    def refusal(self, source: str, held: str, seen: str) -> str:
        """Return the error message: how many images, the first pair, and what to do."""
        return (
            f"{source}: {self} ({held} and {seen}), so its figures would say nothing about new"
            f" {'images' if self.group is None else 'groups'}; leave those out of training with"
            " --set data.overlap=leave-out, or keep them with --set data.overlap=allow"
        )

    def __str__(self) -> str:
        """Format as "3 test images are byte-identical to images trained or validated on"."""
        return " and ".join(
            f"{count:,} {NAMES[role]} {'image is' if count == 1 else 'images are'}"
            f" {_relation(self.group)} {_earlier_name(role)}"
            for role, count in self.counts.items()
        )


def format_copies(role: int, count: int, group: str | None = None) -> str:
    """Describe the images of a role that are also in an earlier role, or whose group is."""
    return f"{count:,} of them {_relation(group)} {_earlier_name(role)}"


def _relation(group: str | None) -> str:
    return "byte-identical to" if group is None else f"in a group ({group}) with"


def earlier_roles(role: int) -> Sequence[int]:
    """Return the roles that must not share images with this one."""
    return (TRAIN, VAL)[:role]


def _earlier_name(role: int) -> str:
    return "images trained or validated on" if role == TEST else "training images"


def find_overlap(contents: Mapping[int, Keys], group: str | None = None) -> Overlap | None:
    """Find images in two splits by their content keys (0 = unknown); None if there are none.

    contents: content keys by role; with `group`, keys of the groups.
    """
    counts: dict[int, int] = {}
    copies: dict[int, list[Rows]] = {}
    first_pair: tuple[RolePosition, RolePosition] | None = None
    for role in (TEST, VAL):
        keys = contents.get(role, np.empty(0, np.uint64))
        is_copy = np.zeros(len(keys), np.bool_)
        for earlier in earlier_roles(role):
            seen = contents.get(earlier, np.empty(0, np.uint64))
            hits = np.isin(keys, seen) & (keys != 0)
            if not hits.any():
                continue
            is_copy |= hits
            copies.setdefault(earlier, []).append(np.flatnonzero(np.isin(seen, keys[hits])))
            if first_pair is None:
                index = int(np.flatnonzero(hits)[0])
                first_pair = (role, index), (earlier, int(np.flatnonzero(seen == keys[index])[0]))
        if is_copy.any():
            counts[role] = int(is_copy.sum())
    if first_pair is None:
        return None
    copies_by_role = {role: np.unique(np.concatenate(rows)) for role, rows in copies.items()}
    return Overlap(counts, copies_by_role, first_pair, group=group)
