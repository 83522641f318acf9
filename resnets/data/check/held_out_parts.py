"""The shares that training would hold out of a set without parts, as parts of what is checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from resnets.config import DataSpec
from resnets.data.check.parts import Contents, Section
from resnets.data.dataset.labels import class_counts
from resnets.data.dataset.quarantine import path_within, prefixes
from resnets.data.dataset.summary import SplitSummary, rarest_class
from resnets.data.errors import DataError
from resnets.data.sources.open import find_source
from resnets.data.splits.share import held_out_rows

SHARES = ("test share", "validation share", "training share")  # those kept apart come first


def with_shares(contents: Contents, spec: DataSpec) -> Contents:
    """The contents with their one part divided as `spec` divides it for training.

    As they are where the set has parts of its own, or where training refuses it.
    """
    if len(contents.sections) != 1 or contents.sections[0].part:
        return contents
    section = contents.sections[0]
    if (class_counts(section.labels, len(section.classes)) > 0).sum() < 2:
        return contents
    try:
        shares = _shares(spec)
    except DataError:  # said by the findings of the layout
        return contents
    of = np.array([shares.get(contents.path(row), 2) for row in range(len(section.files))])
    rows = [np.flatnonzero(of == number) for number in range(len(SHARES))]
    parts = [_part(section, title, row) for title, row in zip(SHARES, rows, strict=True)]
    understood = contents.understood
    if understood is not None:
        held = f"held out by image identity, seed {spec.split_seed}"
        origins = (f"{spec.test_fraction:.0%} {held}", f"{spec.val_fraction:.0%} {held}", "")
        splits = [
            SplitSummary(title.partition(" ")[0], len(part.labels), origin)
            for title, part, origin in zip(SHARES, parts, origins, strict=True)
            if len(part.labels)
        ]
        rarest = rarest_class(section.classes, parts[-1].labels)
        understood = replace(understood, splits=splits[::-1], rarest=rarest)
    kept = [part for part in parts if len(part.labels)]
    return replace(contents, sections=kept, understood=understood)


def _shares(spec: DataSpec) -> dict[str, int]:
    """The place in `SHARES` of each image, by its path within the source."""
    source = find_source(spec)
    files = source.train.files
    if files is None or source.val or source.test:
        return {}
    train, val, test = held_out_rows(source, spec)
    starts = prefixes(spec.source)
    numbered: Sequence[np.ndarray] = (test, val, train)
    return {
        path_within(files.name(row), starts): number
        for number, rows in enumerate(numbered)
        for row in rows.tolist()
    }


def _part(section: Section, title: str, rows: np.ndarray) -> Section:
    return Section(title, section.files.take(rows), section.labels[rows], section.classes)
