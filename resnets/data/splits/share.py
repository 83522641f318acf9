"""Draw the shares of a set that are held out, by image or by group."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from resnets.config import DataSpec, parse_group
from resnets.data.dataset.image_hash import Keys
from resnets.data.dataset.image_identity import (
    HasIdentities,
    assign_folds,
    hash_names,
    hold_out,
    hold_out_by_rank,
)
from resnets.data.dataset.quarantine_list import path_within, prefixes
from resnets.data.dataset.source import Part, Rows, Source, image_name
from resnets.data.errors import DataError
from resnets.data.splits.image_record import (
    TRAIN,
    ImageKeys,
    compute_image_keys,
)

RankRule = Callable[..., tuple[Rows, Rows, Rows]]


def held_out_rows(
    source: Source,
    spec: DataSpec,
    keys: Callable[[], ImageKeys] | None = None,
    by_rank: RankRule = hold_out_by_rank,
) -> tuple[Rows, Rows, Rows]:
    """Return the rows of the training part for training, validation and test by `spec.split_rule`.

    keys: returns the part's keys, if they are known already; computing them takes time. by_rank:
    the source's own version of the rule of earlier versions.
    """
    part = source.train
    val = 0.0 if source.val else spec.val_fraction
    test = 0.0 if source.test else spec.test_fraction
    if spec.split_rule == "rank":
        return by_rank(part.labels, val_fraction=val, test_fraction=test, seed=spec.split_seed)
    if not val and not test and not spec.folds:
        return np.arange(len(part.labels)), empty_rows(), empty_rows()
    keyed = keys() if keys else compute_image_keys(part, TRAIN, source.classes)
    labels, groups, seed = part.labels, hash_groups(part, spec), spec.split_seed
    rest, held = np.arange(len(labels)), None
    if spec.folds:
        folds = assign_folds(labels, keyed.ids, spec.folds, seed, keyed.content, groups)
        rest, held = np.flatnonzero(folds != spec.fold), np.flatnonzero(folds == spec.fold)
    train_rows, val_rows, test_rows = hold_out(
        labels[rest],
        keyed.ids[rest],
        val_fraction=val,
        test_fraction=0.0 if spec.folds else test,
        seed=seed,
        content=keyed.content[rest],
        groups=None if groups is None else groups[rest],
    )
    return rest[train_rows], rest[val_rows], rest[test_rows] if held is None else held


@dataclass(frozen=True, eq=False)
class Share:
    """The images of one role: `rows` of `part`, without `quarantined` images.

    notes: lines for the protocol.
    """

    part: Part
    rows: Rows
    notes: tuple[str, ...] = ()
    quarantined: int = 0

    def name(self, index: int) -> str:
        """Return the name of an image for messages."""
        return image_name(self.part, int(self.rows[index]))


def add_note(share: Share, note: str, without: Rows | None = None) -> Share:
    """Return a share with an additional note, and without the images at the indices `without`."""
    rows = share.rows if without is None else np.delete(share.rows, without)
    return replace(share, rows=rows, notes=(*share.notes, note))


def empty_rows() -> Rows:
    """Return rows of no images."""
    return np.empty(0, np.int64)


def hash_groups(part: Part, spec: DataSpec) -> Keys | None:
    """Return (N,) uint64, the hash of the name of each image's group (`data.group`), never 0.

    None without groups. Groups with the same name are one group, also across parts. Raises
    DataError if the set has no such column, or if the pattern does not match an image.
    """
    if spec.group is None:
        return None
    kind, text = parse_group(spec.group)
    if kind == "regex":
        names = _match_groups(re.compile(text), part, spec)
    else:
        given = getattr(part, "groups", None)
        if given is None:
            title = f" ({part.title})" if part.title else ""
            raise DataError(
                f"data.group: {spec.source}{title} has no label table with a column {text!r}; give "
                "one of its columns, or regex:PATTERN, which is searched for in the image paths"
            )
        names = list(given)
    return np.maximum(hash_names(names), np.uint64(1))


def _match_groups(pattern: re.Pattern[str], part: Part, spec: DataSpec) -> list[str]:
    """Return what the pattern matches in each path within the source: its first group, or all."""
    if part.files is None:
        raise DataError(f"data.group: {spec.source} contains arrays of images, which have no paths")
    files, starts = part.files, prefixes(spec.source)
    stored = files.identities() if isinstance(files, HasIdentities) else None
    paths = [files.name(row) for row in range(len(files))] if stored is None else stored[0]
    names: list[str] = []
    missed: list[str] = []
    for path in paths:
        found = pattern.search(path_within(path, starts))
        name = found and found[1 if pattern.groups else 0]
        names.append(name or "")
        missed += [] if name else [path]
    if missed:
        raise DataError(
            f"data.group: {pattern.pattern!r} matches nothing in {len(missed):,} of"
            f" {len(paths):,} paths, such as {missed[0]}; write a pattern that gives a group for"
            " each image"
        )
    return names
