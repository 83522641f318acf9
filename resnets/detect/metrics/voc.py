"""PASCAL VOC's average precision, by its rules of 2007 and of 2010 on (devkit, VOCevaldet.m)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnets.detect.data.transforms import box_iou
from resnets.detect.data.types import Detections, DetectionSplit, Flags, Floats

Curve = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class VocFigures:
    """Average precision in 0..1 at one IoU; None if a class has no object to find.

    ap11: mean of the best precisions at recall 0, .1, ... 1 (2007). area: area under the curve of
    precisions made monotone (2010 on). map11, map: their means over classes.
    """

    ap11: tuple[float | None, ...]
    area: tuple[float | None, ...]
    map11: float | None
    map: float | None


def voc_figures(
    split: DetectionSplit, detections: Sequence[Detections], overlap: float = 0.5
) -> VocFigures:
    """Return VOC's metrics of `detections`, one entry per image.

    Difficult objects and crowds are ignored, whether detected or not.
    """
    assert len(detections) == len(split)
    curves = [
        _precision_recall(split, detections, label, overlap) for label in range(len(split.classes))
    ]
    ap11 = tuple(None if curve is None else eleven_point(*curve) for curve in curves)
    area = tuple(None if curve is None else area_under(*curve) for curve in curves)
    return VocFigures(ap11, area, _mean(ap11), _mean(area))


def eleven_point(recall: Curve, precision: Curve) -> float:
    """Return the mean over eleven recalls of the best precision at that recall or more."""
    levels = np.linspace(0, 1, 11)
    best = [precision[recall >= level - 1e-12].max(initial=0.0) for level in levels]
    return float(np.mean(best))


def area_under(recall: Curve, precision: Curve) -> float:
    """Return the area under the curve, with each precision raised to the best at more recall."""
    monotone = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(recall, prepend=0.0)
    return float((steps * monotone).sum())


def _precision_recall(
    split: DetectionSplit, detections: Sequence[Detections], label: int, overlap: float
) -> tuple[Curve, Curve] | None:
    """Return recall and precision after each detection of a class, by descending score."""
    objects, hits, scores = 0, [], []
    for target, each in zip(split.targets, detections, strict=True):
        of_class, detected = target.labels == label, np.asarray(each["labels"]) == label
        ignored = (target.crowd | target.difficult)[of_class]
        objects += int((~ignored).sum())
        if not detected.any():
            continue
        class_scores = np.asarray(each["scores"], np.float64)[detected]
        order = np.argsort(-class_scores, kind="stable")
        boxes = np.asarray(each["boxes"])[detected][order]
        hits.append(_match_boxes(boxes, target.boxes[of_class], ignored, overlap))
        scores.append(class_scores[order])
    if not objects:
        return None
    if not hits:
        return np.zeros(0), np.zeros(0)
    outcomes = np.concatenate(hits)
    outcomes = outcomes[np.argsort(-np.concatenate(scores), kind="stable")]
    right, wrong = np.cumsum(outcomes == 1), np.cumsum(outcomes == 0)
    counted = outcomes >= 0
    precision = right / np.maximum(right + wrong, 1)
    return (right / objects)[counted], precision[counted]


def _match_boxes(boxes: Floats, truth: Floats, ignored: Flags, overlap: float) -> NDArray[np.int64]:
    """Return 1 = right, 0 = wrong, -1 = ignored for boxes (N, 4) of one image, best first."""
    result = np.zeros(len(boxes), np.int64)
    if not len(truth):
        return result
    overlaps = box_iou(boxes, truth)
    is_matched = np.zeros(len(truth), np.bool_)
    for row, best in enumerate(overlaps.argmax(1)):
        if overlaps[row, best] < overlap:
            continue
        if ignored[best]:
            result[row] = -1
        elif not is_matched[best]:
            result[row], is_matched[best] = 1, True
    return result


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
