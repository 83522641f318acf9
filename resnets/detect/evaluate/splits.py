"""The annotated images to measure a detector on, its classes in the order of the model's."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from resnets.config import DataSpec, DetectSpec, Recipe
from resnets.data.errors import DataError
from resnets.data.splits.image_record import Fingerprint
from resnets.detect.data.types import IGNORE, DetectionSplit, Target
from resnets.detect.evaluate.unlabeled import Unlabeled, open_unlabeled
from resnets.detect.loading.sources import DetectionSplits, open_detection, open_set
from resnets.detect.metrics.localization import single_class

SHOWN = 5  # class names in a message
log = logging.getLogger("resnets")
SplitName = Literal["test", "val", "train"]


def choose_split(
    recipe: Recipe,
    classes: Sequence[str],
    source: str | None,
    name: SplitName,
    known: Fingerprint | None = None,
) -> DetectionSplit:
    """The split called `name` of `source`, or of the data that a model of `recipe` was trained on.

    Image sets, shares and seeds are the recipe's for its own data; "test" of another source is its
    test set, or all of it where it has no sets. Bad annotations are left out only where the recipe
    says so. known: what the run remembers of its images; none that it trained on is in a held-out
    split. DataError where there is no such split, or where it has classes that are not `classes`.
    """
    data, detect, foreign = _specs(recipe, source, name)
    whole = foreign and name == "test"
    splits = open_detection(data, detect, recipe.detection_task, known, other=foreign, whole=whole)
    if splits.changes:
        log.warning("%s: changed since the run was trained: %s", splits.name, splits.changes)
    other = whole and not splits.recognized
    split = _named(splits, name) or (splits.train if other else None)
    if split is None:
        raise DataError(f"{splits.name}: has no {name} split; choose another --split")
    if recipe.task == "localize":
        split = single_class(split)
    split = reorder(split, classes)
    return split if known is not None or name == "train" else _uncompared(split)


def choose_set(
    recipe: Recipe,
    classes: Sequence[str],
    source: str | None,
    title: str,
    known: Fingerprint | None = None,
) -> DetectionSplit | Unlabeled:
    """The image set `title` of `source`, or of a model's own data, with ground truth or without.

    DataError where there is none of that name, or its classes are none of `classes`.
    """
    data, detect, _ = _specs(recipe, source, "test")
    split = open_set(data, detect, recipe.detection_task, title, known)
    if split is not None:
        split = reorder(single_class(split) if recipe.task == "localize" else split, classes)
        return split if known is not None else _uncompared(split)
    if recipe.task not in ("detect", "instances"):
        raise DataError(f"{data.source}: no image set {title} with ground truth")
    return open_unlabeled(data.source, title, classes)


def _uncompared(split: DetectionSplit) -> DetectionSplit:
    """The split with the note, which is logged too, that the run keeps no record of its images."""
    description = f"{split.description}, not compared with training images"
    log.warning(
        "%s: there is no record of those, so some of these images may have been trained on",
        description,
    )
    return dataclasses.replace(split, description=description)


def _specs(
    recipe: Recipe, source: str | None, name: SplitName
) -> tuple[DataSpec, DetectSpec, bool]:
    """How to open the data to measure on, and whether it is other data than the model's own."""
    data, detect = recipe.data, recipe.detect
    if source is None or _resolved(source) == _resolved(data.source):
        return data, detect, False
    data = dataclasses.replace(data, source=source, quarantine=None)
    if name != "test":  # else all of it is, unless it is the run's own set
        data = dataclasses.replace(data, test_fraction=0.0)
    return data, dataclasses.replace(detect, train_set="", val_set="", test_set=""), True


def reorder(split: DetectionSplit, classes: Sequence[str]) -> DetectionSplit:
    """The split with labels that are indices into `classes`, matched by name.

    It may have some of them only: its description then says "3 of 80 classes". DataError where it
    has objects of others, or class maps with others.
    """
    if split.classes == tuple(classes):
        return split
    where = {name: number for number, name in enumerate(classes)}
    outputs = [where.get(name, -1) for name in split.classes]
    _refuse_others(split, outputs, classes)
    lookup = np.array(outputs, np.int64)
    labels = [IGNORE if output < 0 else output for output in outputs]

    def moved(target: Target) -> Target:
        semantic = target.semantic
        semantic = None if semantic is None else semantic.relabel(labels)
        return dataclasses.replace(target, labels=lookup[target.labels], semantic=semantic)

    number_of = dict(zip(outputs, split.category_ids, strict=True))
    shared = sum(output >= 0 for output in outputs)
    note = f", {shared} of {len(classes)} classes" if shared < len(classes) else ""
    return dataclasses.replace(
        split,
        targets=[moved(target) for target in split.targets],
        classes=tuple(classes),
        category_ids=tuple(number_of.get(number) for number in range(len(classes))),
        description=split.description + note,
    )


def _refuse_others(split: DetectionSplit, outputs: Sequence[int], classes: Sequence[str]) -> None:
    """DataError where the split has, or may have, what no output is of."""
    others = {label for label, output in enumerate(outputs) if output < 0}
    maps = any(target.semantic is not None for target in split.targets)
    used = others if maps else {n for t in split.targets for n in t.labels.tolist()} & others
    if used or not any(output >= 0 for output in outputs):
        names = [split.classes[label] for label in sorted(used or others)]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise DataError(
            f"{split.description}: the model does not know {', '.join(names[:SHOWN])}{more};"
            f" its {len(classes)} classes are {', '.join(classes[:SHOWN])} ..."
        )


def _named(splits: DetectionSplits, name: SplitName) -> DetectionSplit | None:
    if name == "test":
        return splits.test()
    return splits.val if name == "val" else splits.train


def _resolved(source: str) -> Path:
    return Path(source).expanduser().resolve()
