"""ImageNet's localization error: the class must be right, and the box overlap an object of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from resnets.data.errors import DataError
from resnets.detect.data.transforms import box_iou
from resnets.detect.data.types import DetectionSplit, Flags, Floats, Located

TOP = 5  # with so few classes, a top-5 error is meaningless
OVERLAP = 0.5  # ILSVRC's (Russakovsky et al. 2015, section 4.2): minimum IoU


@dataclass(frozen=True)
class LocalizationFigures:
    """Errors in percent of `images`.

    top1_error, top5_error: no hit among the one or five most likely classes with their boxes.
    top-5 errors are None with five classes or fewer. given_error: the box of the true class fails.
    class_top1_error, class_top5_error: the class fails, regardless of its box.
    """

    top1_error: float
    top5_error: float | None
    given_error: float
    class_top1_error: float
    class_top5_error: float | None
    images: int


def localization_figures(split: DetectionSplit, located: Sequence[Located]) -> LocalizationFigures:
    """Return metrics of `located`, one entry per image of `split` (see `single_class`).

    An image's class is that of its objects; a box may overlap any of them (paper, appendix C).
    """
    assert len(located) == len(split)
    wrong = np.zeros(5)
    for target, output in zip(split.targets, located, strict=True):
        truth = int(target.labels[0])
        assert (target.labels == truth).all()
        ranks = np.argsort(-np.asarray(output["scores"], np.float64), kind="stable")[:5]
        is_truth = ranks == truth
        hit = on_object(np.asarray(output["boxes"])[truth : truth + 1], target.boxes)[0]
        failures = (not (is_truth[0] and hit), not (is_truth.any() and hit), not hit)
        wrong += np.array([*failures, not is_truth[0], not is_truth.any()])
    errors = 100 * wrong / max(1, len(split))
    top1, top5, given, class_top1, class_top5 = errors.tolist()
    if len(split.classes) <= TOP:
        top5 = class_top5 = None
    return LocalizationFigures(top1, top5, given, class_top1, class_top5, len(split))


def on_object(boxes: Floats, truth: Floats) -> Flags:
    """Return whether each of boxes (N, 4) has an IoU >= 0.5 with one of truth (M, 4); NaN never."""
    boxes = np.nan_to_num(np.asarray(boxes, np.float64), nan=0.0)
    return np.asarray((box_iou(boxes, truth) >= OVERLAP).any(1))


def single_class(split: DetectionSplit) -> DetectionSplit:
    """Return the images whose objects are all of one class; DataError if there are none."""
    rows = [row for row, each in enumerate(split.targets) if len(set(each.labels.tolist())) == 1]
    if not rows:
        raise DataError(f"{split.description}: no image with objects of one class only")
    if len(rows) == len(split):
        return split
    chosen = split.take(np.array(rows))
    note = f"{split.description}, the {len(rows):,} with objects of one class"
    return replace(chosen, description=note)
