"""Byte-identical images, or images of one group, in two splits: found before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from resnets.data.dataset.image_hash import Keys
from resnets.data.dataset.source import Rows
from resnets.data.splits.image_record import TEST, TRAIN, VAL

NAMES = {TRAIN: "training", VAL: "validation", TEST: "test"}
RolePosition = tuple[int, int]  # a role, and a place among its images


@dataclass(frozen=True, eq=False)
class Overlap:
    """counts: by held-out role how many of its images are in an earlier one too: test images among
    those trained or validated on, validation images among those trained on.

    copies: by earlier role the places of such images. first: a pair, the held-out image first.
    left_out: the copies are neither trained nor validated on. group: where images are of one group
    (`data.group`) in place of byte-identical.
    """

    counts: Mapping[int, int]
    copies: Mapping[int, Rows]
    first: tuple[RolePosition, RolePosition]
    left_out: bool = field(default=False)
    group: str | None = None

    def refusal(self, source: str, held: str, seen: str) -> str:
        """The line for a run that does not begin: how many, the first pair, and the ways out."""
        return (
            f"{source}: {self} ({held} and {seen}), so its figures would say nothing about new"
            f" {'images' if self.group is None else 'groups'}; leave those out of training with"
            " --set data.overlap=leave-out, or keep them with --set data.overlap=allow"
        )

    def __str__(self) -> str:
        """Such as "3 test images are byte-identical to images trained or validated on"."""
        return " and ".join(
            f"{count:,} {NAMES[role]} {'image is' if count == 1 else 'images are'}"
            f" {_alike(self.group)} {_before(role)}"
            for role, count in self.counts.items()
        )


def copied(role: int, count: int, group: str | None = None) -> str:
    """What a protocol says of the images of a role that are, or whose group is, in an earlier one
    too."""
    return f"{count:,} of them {_alike(group)} {_before(role)}"


def _alike(group: str | None) -> str:
    return "byte-identical to" if group is None else f"in a group ({group}) with"


def earlier(role: int) -> Sequence[int]:
    """The roles whose images must not be in this one."""
    return (TRAIN, VAL)[:role]


def _before(role: int) -> str:
    return "images trained or validated on" if role == TEST else "training images"


def find_overlap(contents: Mapping[int, Keys], group: str | None = None) -> Overlap | None:
    """The images that are in two splits, by their content keys (0 = not known); None without any.

    contents: content keys by role, of the roles that there are; with `group` the keys of groups.
    """
    counts: dict[int, int] = {}
    copies: dict[int, list[Rows]] = {}
    first: tuple[RolePosition, RolePosition] | None = None
    for role in (TEST, VAL):
        keys = contents.get(role, np.empty(0, np.uint64))
        twice = np.zeros(len(keys), np.bool_)
        for before in earlier(role):
            seen = contents.get(before, np.empty(0, np.uint64))
            hits = np.isin(keys, seen) & (keys != 0)
            if not hits.any():
                continue
            twice |= hits
            copies.setdefault(before, []).append(np.flatnonzero(np.isin(seen, keys[hits])))
            if first is None:
                place = int(np.flatnonzero(hits)[0])
                first = (role, place), (before, int(np.flatnonzero(seen == keys[place])[0]))
        if twice.any():
            counts[role] = int(twice.sum())
    if first is None:
        return None
    joined = {role: np.unique(np.concatenate(rows)) for role, rows in copies.items()}
    return Overlap(counts, joined, first, group=group)
