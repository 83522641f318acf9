"""Byte-identical images that lie in two classes: at least one of their labels is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resnets.data.dataset.content_hash import Keys
from resnets.data.dataset.parts import Part, Rows


@dataclass(frozen=True, eq=False)
class Labeled:
    """Images of a part: its `rows`, and their (N,) content keys, 0 = not known."""

    part: Part
    rows: Rows
    content: Keys

    def name(self, place: int) -> str:
        """What messages call one of them."""
        row, files = int(self.rows[place]), self.part.files
        return f"{self.part.title} image {row}".strip() if files is None else files.name(row)


def label_conflicts(shares: Sequence[Labeled], classes: Sequence[str]) -> tuple[str, ...]:
    """One warning where images of equal content have different labels, in one split or in two."""
    content = np.concatenate([share.content for share in shares])
    labels = np.concatenate([share.part.labels[share.rows] for share in shares])
    order = np.lexsort((np.arange(len(labels)), content))
    keys = content[order]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else order
    if len(starts) == 0:
        return ()
    sizes = np.diff(np.r_[starts, len(keys)])
    sorted_labels = labels[order]
    least = np.minimum.reduceat(sorted_labels, starts)
    most = np.maximum.reduceat(sorted_labels, starts)
    mixed = (least != most) & (keys[starts] != 0)
    if not mixed.any():
        return ()
    group = int(np.flatnonzero(mixed)[np.argmin(order[starts[mixed]])])
    members = order[starts[group] : starts[group] + sizes[group]]
    other = members[labels[members] != labels[members[0]]][0]
    pair = " and ".join(
        f"{_name(shares, int(place))} ({classes[int(labels[place])]})"
        for place in (members[0], other)
    )
    count = int(sizes[mixed].sum())
    return (
        f"{count:,} images lie in two classes: byte-identical files under different labels, such"
        f" as {pair}; remove or move the wrong ones",
    )


def _name(shares: Sequence[Labeled], place: int) -> str:
    for share in shares:
        if place < len(share.rows):
            return share.name(place)
        place -= len(share.rows)
    raise AssertionError(place)
