"""ImageNet's localization error: is the class right, and does the box lie on an object of it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from resnets.data.errors import DataError
from resnets.detect.data.transforms import box_iou
from resnets.detect.data.types import DetectionSplit, Flags, Floats, Located

TOP = 5  # of so few classes a top-5 error says nothing
OVERLAP = 0.5  # ILSVRC's (Russakovsky et al. 2015, section 4.2): a box is right from here on


@dataclass(frozen=True)
class LocalizationFigures:
    """Errors in percent of `images`.

    top1_error, top5_error: no hit among the one or five most likely classes with their boxes. With
    five classes or fewer top-5 is None.
    given_error: the true class is given and its box fails. class_top1_error, class_top5_error:
    the class alone fails, whatever its box.
    """

    top1_error: float
    top5_error: float | None
    given_error: float
    class_top1_error: float
    class_top5_error: float | None
    images: int


def localization_figures(split: DetectionSplit, located: Sequence[Located]) -> LocalizationFigures:
    """Figures of `located`, one entry for each image of `split` (see `single_class`).

    An image's class is that of its objects; a box may lie on any of them (the paper's appendix
    C).
    """
    assert len(located) == len(split)
    wrong = np.zeros(5)
    for target, each in zip(split.targets, located, strict=True):
        truth = int(target.labels[0])
        assert (target.labels == truth).all()
        ranks = np.argsort(-np.asarray(each["scores"], np.float64), kind="stable")[:5]
        named = ranks == truth
        hit = on_object(np.asarray(each["boxes"])[truth : truth + 1], target.boxes)[0]
        fails = (not (named[0] and hit), not (named.any() and hit), not hit)
        wrong += np.array([*fails, not named[0], not named.any()])
    errors = 100 * wrong / max(1, len(split))
    top1, top5, given, class_top1, class_top5 = errors.tolist()
    if len(split.classes) <= TOP:
        top5 = class_top5 = None
    return LocalizationFigures(top1, top5, given, class_top1, class_top5, len(split))


def on_object(boxes: Floats, truth: Floats) -> Flags:
    """Whether each of boxes (N, 4) overlaps one of truth (M, 4) by 0.5 or more; NaN never does."""
    boxes = np.nan_to_num(np.asarray(boxes, np.float64), nan=0.0)
    return np.asarray((box_iou(boxes, truth) >= OVERLAP).any(1))


def single_class(split: DetectionSplit) -> DetectionSplit:
    """The images whose objects are all of one class; DataError when there are none."""
    rows = [row for row, each in enumerate(split.targets) if len(set(each.labels.tolist())) == 1]
    if not rows:
        raise DataError(f"{split.description}: no image with objects of one class only")
    if len(rows) == len(split):
        return split
    chosen = split.take(np.array(rows))
    note = f"{split.description}, the {len(rows):,} with objects of one class"
    return replace(chosen, description=note)
