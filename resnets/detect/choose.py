"""The annotated pictures to measure a detector on, its classes in the order of the net's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from resnets.config import Recipe
from resnets.data.errors import DataError
from resnets.detect.localise_score import single_class
from resnets.detect.sources import DetectionSplits, open_detection
from resnets.detect.types import DetectionSplit, Target
from resnets.evaluate.match import match_classes

SplitName = Literal["test", "val", "train"]


def choose_split(
    recipe: Recipe, classes: Sequence[str], source: str | None, name: SplitName
) -> DetectionSplit:
    """The split called `name` of `source`, or of the data that a net of `recipe` was trained on.

    Image sets, shares and seeds are the recipe's for its own data; "test" of another source is its
    test set, or all of it where it has no sets. Bad annotations are left out only where the recipe
    says so. DataError where there is no such split, or where its classes are not `classes`.
    """
    assert recipe.task != "classify"
    data, detect = recipe.data, recipe.detect
    foreign = False
    if source is not None and _resolved(source) != _resolved(data.source):
        foreign = True
        whole = 0.0 if name == "test" else data.val_fraction
        data = dataclasses.replace(data, source=source, val_fraction=whole, test_fraction=0.0)
        data = dataclasses.replace(data, quarantine=None)
        detect = dataclasses.replace(detect, train_set="", val_set="", test_set="")
    splits = open_detection(data, detect, recipe.task)
    split = _named(splits, name) or (splits.train if foreign and name == "test" else None)
    if split is None:
        raise DataError(f"{splits.name}: has no {name} split; choose another --split")
    if recipe.task == "localise":
        split = single_class(split)
    return reorder(split, classes)


def reorder(split: DetectionSplit, classes: Sequence[str]) -> DetectionSplit:
    """The split with labels that are indices into `classes`; DataError where they are others."""
    if split.classes == tuple(classes):
        return split
    outputs = match_classes(split.classes, classes, split.description).numpy()
    place = {int(output): label for label, output in enumerate(outputs)}
    known = [number for number in range(len(classes)) if number in place]
    assert len(known) == len(classes)

    def moved(target: Target) -> Target:
        semantic = target.semantic
        if semantic is not None:
            semantic = semantic.relabelled(outputs.tolist())
        labels = outputs[target.labels].astype(np.int64)
        return dataclasses.replace(target, labels=labels, semantic=semantic)

    return dataclasses.replace(
        split,
        targets=[moved(target) for target in split.targets],
        classes=tuple(classes),
        category_ids=tuple(split.category_ids[place[number]] for number in known),
    )


def _named(splits: DetectionSplits, name: SplitName) -> DetectionSplit | None:
    if name == "test":
        return splits.test()
    return splits.val if name == "val" else splits.train


def _resolved(source: str) -> Path:
    return Path(source).expanduser().resolve()
