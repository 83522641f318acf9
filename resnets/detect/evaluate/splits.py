"""The annotated images on which a detector is evaluated, with classes in the model's order."""

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
from resnets.detect.data.class_maps import IGNORE
from resnets.detect.data.types import DetectionSplit, Target
from resnets.detect.evaluate.server_submission import Unlabeled, open_unlabeled
from resnets.detect.loading.sources import DetectionSplits, open_detection, open_set
from resnets.detect.metrics.localization import single_class
from resnets.utils.printable import join_names

MAX_SHOWN = 5  # class names in a message
log = logging.getLogger("resnets")
SplitName = Literal["test", "val", "train"]


def choose_split(
    recipe: Recipe,
    classes: Sequence[str],
    source: str | None,
    name: SplitName,
    known: Fingerprint | None = None,
) -> DetectionSplit:
    """Return the split `name` of `source`, or of the data set that the model was trained on.

    For the model's own data, image sets, fractions and seeds are the recipe's. "test" of another
    source is its test set, or all images if it has no sets. Invalid annotations are excluded only
    if the recipe says so. known: the run's record of its images; images used for training are in no
    held-out split. Raises DataError if there is no such split, or it has classes that are not in
    `classes`.
    """
    data, detect, is_other_data = _data_specs(recipe, source, name)
    is_whole = is_other_data and name == "test"
    splits = open_detection(
        data, detect, recipe.detection_task, known, other=is_other_data, whole=is_whole
    )
    if splits.changes:
        log.warning("%s: changed since the run was trained: %s", splits.name, splits.changes)
    unrecognized = is_whole and not splits.recognized
    split = _get_split(splits, name) or (splits.train if unrecognized else None)
    if split is None:
        raise DataError(f"{splits.name}: has no {name} split; choose another --split")
    if recipe.task == "localize":
        split = single_class(split)
    split = reorder(split, classes)
    return split if known is not None or name == "train" else _mark_not_compared(split)


def choose_set(
    recipe: Recipe,
    classes: Sequence[str],
    source: str | None,
    title: str,
    known: Fingerprint | None = None,
) -> DetectionSplit | Unlabeled:
    """Return the image set `title` of `source` or of the model's own data, annotated or not.

    Raises DataError if there is no such set, or none of its classes is in `classes`.
    """
    data, detect, _ = _data_specs(recipe, source, "test")
    split = open_set(data, detect, recipe.detection_task, title, known)
    if split is not None:
        split = reorder(single_class(split) if recipe.task == "localize" else split, classes)
        return split if known is not None else _mark_not_compared(split)
    if recipe.task not in ("detect", "instances"):
        raise DataError(f"{data.source}: no image set {title} with ground truth")
    return open_unlabeled(data.source, title, classes)


def _mark_not_compared(split: DetectionSplit) -> DetectionSplit:
    """Note in the description, and log, that images were not compared with the training images."""
    description = f"{split.description}, not compared with training images"
    log.warning(
        "%s: there is no record of those, so some of these images may have been trained on",
        description,
    )
    return dataclasses.replace(split, description=description)


def _data_specs(
    recipe: Recipe, source: str | None, name: SplitName
) -> tuple[DataSpec, DetectSpec, bool]:
    """Return how to open the data, and whether it differs from the model's own data."""
    data, detect = recipe.data, recipe.detect
    if source is None or _resolve(source) == _resolve(data.source):
        return data, detect, False
    data = dataclasses.replace(data, source=source, quarantine=None)
    if name != "test":  # else all of it is, unless it is the run's own set
        data = dataclasses.replace(data, test_fraction=0.0)
    return data, dataclasses.replace(detect, train_set="", val_set="", test_set=""), True


def reorder(split: DetectionSplit, classes: Sequence[str]) -> DetectionSplit:
    """Return the split with labels as indices into `classes`, matched by name.

    If it has only some of them, its description says "3 of 80 classes". Raises DataError if it has
    objects, or class maps, of other classes.
    """
    if split.classes == tuple(classes):
        return split
    index_of = {name: number for number, name in enumerate(classes)}
    output_of = [index_of.get(name, -1) for name in split.classes]
    _check_classes(split, output_of, classes)
    lookup = np.array(output_of, np.int64)
    labels = [IGNORE if output < 0 else output for output in output_of]

    def relabel(target: Target) -> Target:
        semantic = target.semantic
        semantic = None if semantic is None else semantic.relabel(labels)
        return dataclasses.replace(target, labels=lookup[target.labels], semantic=semantic)

    id_of = dict(zip(output_of, split.category_ids, strict=True))
    num_shared = sum(output >= 0 for output in output_of)
    note = f", {num_shared} of {len(classes)} classes" if num_shared < len(classes) else ""
    return dataclasses.replace(
        split,
        targets=[relabel(target) for target in split.targets],
        classes=tuple(classes),
        category_ids=tuple(id_of.get(number) for number in range(len(classes))),
        description=split.description + note,
    )


def _check_classes(split: DetectionSplit, output_of: Sequence[int], classes: Sequence[str]) -> None:
    """Raise DataError if the split has, or may have, classes that the model does not output."""
    unknown = {label for label, output in enumerate(output_of) if output < 0}
    has_maps = any(target.semantic is not None for target in split.targets)
    found = unknown if has_maps else {n for t in split.targets for n in t.labels.tolist()} & unknown
    if found or not any(output >= 0 for output in output_of):
        names = [split.classes[label] for label in sorted(found or unknown)]
        raise DataError(
            f"{split.description}: the model does not know {join_names(names, MAX_SHOWN)};"
            f" its {len(classes)} classes are {join_names(classes, MAX_SHOWN)}"
        )


def _get_split(splits: DetectionSplits, name: SplitName) -> DetectionSplit | None:
    if name == "test":
        return splits.test()
    return splits.val if name == "val" else splits.train


def _resolve(source: str) -> Path:
    return Path(source).expanduser().resolve()
