"""The share of a set that is one role's, and the rule that draws shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from resnets.config import DataSpec
from resnets.data.dataset.image_identity import fold_of, hold_out, hold_out_by_rank
from resnets.data.dataset.source import Part, Rows, Source
from resnets.data.splits.groups import group_keys
from resnets.data.splits.image_record import (
    TRAIN,
    Keyed,
    keys_of_part,
)

SHOWN = 3  # class names in a message
RankRule = Callable[..., tuple[Rows, Rows, Rows]]


def held_out_rows(
    source: Source,
    spec: DataSpec,
    keys: Callable[[], Keyed] | None = None,
    by_rank: RankRule = hold_out_by_rank,
) -> tuple[Rows, Rows, Rows]:
    """Rows of the training part for training, validation and test, as `spec.split_rule` says.

    keys: gives the part's keys, where they are at hand; reading them takes time. by_rank: the
    source's own form of the rule of earlier versions.
    """
    part = source.train
    val = 0.0 if source.val else spec.val_fraction
    test = 0.0 if source.test else spec.test_fraction
    if spec.split_rule == "rank":
        return by_rank(part.labels, val_fraction=val, test_fraction=test, seed=spec.split_seed)
    if not val and not test and not spec.folds:
        return np.arange(len(part.labels)), no_rows(), no_rows()
    keyed = keys() if keys else keys_of_part(part, TRAIN, source.classes)
    labels, groups, seed = part.labels, group_keys(part, spec), spec.split_seed
    rest, held = np.arange(len(labels)), None
    if spec.folds:
        folds = fold_of(labels, keyed.ids, spec.folds, seed, keyed.content, groups)
        rest, held = np.flatnonzero(folds != spec.fold), np.flatnonzero(folds == spec.fold)
    train, validate, tested = hold_out(
        labels[rest],
        keyed.ids[rest],
        val_fraction=val,
        test_fraction=0.0 if spec.folds else test,
        seed=seed,
        content=keyed.content[rest],
        groups=None if groups is None else groups[rest],
    )
    return rest[train], rest[validate], rest[tested] if held is None else held


@dataclass(frozen=True, eq=False)
class Share:
    """The images of one role: `rows` of `part`, without as many `quarantined` ones.

    notes: for the protocol.
    """

    part: Part
    rows: Rows
    notes: tuple[str, ...] = ()
    quarantined: int = 0


def noted(share: Share | None, note: str, without: Rows | None = None) -> Share:
    """A share with one more note, and without the images at some places."""
    assert share is not None
    rows = share.rows if without is None else np.delete(share.rows, without)
    return replace(share, rows=rows, notes=(*share.notes, note))


def named(share: Share | None, place: int) -> str:
    """What messages call an image of a share."""
    assert share is not None
    row, files = int(share.rows[place]), share.part.files
    return f"{share.part.title} image {row}".strip() if files is None else files.name(row)


def no_rows() -> Rows:
    """Rows of no images."""
    return np.empty(0, np.int64)


def some_of(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
