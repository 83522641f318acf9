"""Semantic segmentation's figures: intersection over union of each class's pixels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.detect.data.types import IGNORE

BLOCK = 1 << 20  # pixels that are counted at a time


@dataclass(frozen=True, eq=False)
class SemanticFigures:
    """Shares in 0..1; None for a class that is neither there nor said anywhere.

    mean_iou: mean over classes of intersection over union, summed over the whole set first (Long
    et al. 2015). pixel_accuracy: share of pixels labelled right. confusion: (K, K) pixels, rows
    the true class.
    """

    mean_iou: float | None
    pixel_accuracy: float | None
    class_iou: tuple[float | None, ...]
    confusion: NDArray[np.int64]


class PixelMeter:
    """Adds up (K, K) pixels of true class by predicted class.

    present: the classes that the data can have, over which figures are averaged; None = all.
    """

    def __init__(self, classes: int, present: Collection[int] | None = None) -> None:
        self.confusion = np.zeros((classes, classes), np.int64)
        self.present = range(classes) if present is None else present

    def add(self, predicted: NDArray[Any], truth: NDArray[Any]) -> None:
        """Count one image: classes (H, W) as predicted and as true; 255 in truth is left out."""
        count = len(self.confusion)
        rows = max(1, BLOCK // max(1, truth.shape[1]))
        for start in range(0, len(truth), rows):  # counting copies to 64 bits
            true, seen = truth[start : start + rows], predicted[start : start + rows]
            counted = true != IGNORE
            pairs = true[counted].astype(np.int64) * count + seen[counted].astype(np.int64)
            self.confusion += np.bincount(pairs, minlength=count**2).reshape(count, count)

    def figures(self) -> SemanticFigures:
        """The figures of all images so far."""
        right = np.diag(self.confusion)
        union = self.confusion.sum(0) + self.confusion.sum(1) - right
        shares: Sequence[float | None] = [
            float(hit / whole) if whole and label in self.present else None
            for label, (hit, whole) in enumerate(zip(right, union, strict=True))
        ]
        known = [share for share in shares if share is not None]
        pixels = self.confusion.sum()
        return SemanticFigures(
            mean_iou=float(np.mean(known)) if known else None,
            pixel_accuracy=float(right.sum() / pixels) if pixels else None,
            class_iou=tuple(shares),
            confusion=self.confusion.copy(),
        )
