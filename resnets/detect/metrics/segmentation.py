"""Metrics of semantic segmentation: intersection over union of each class's pixels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.detect.data.class_maps import IGNORE

BLOCK = 1 << 20  # pixels that are counted at a time


@dataclass(frozen=True, eq=False)
class SemanticFigures:
    """Metrics in 0..1; None for a class that is neither in the data nor predicted.

    mean_iou: mean over classes of intersection over union, summed over the whole set first (Long
    et al. 2015). pixel_accuracy: fraction of correct pixels. confusion: (K, K) pixels, rows are the
    true class.
    """

    mean_iou: float | None
    pixel_accuracy: float | None
    class_iou: tuple[float | None, ...]
    confusion: NDArray[np.int64]


class PixelMeter:
    """Accumulates (K, K) pixels of true class by predicted class.

    present: the classes that the data can have, over which metrics are averaged; None = all.
    """

    def __init__(self, classes: int, present: Collection[int] | None = None) -> None:
        self.confusion = np.zeros((classes, classes), np.int64)
        self.present = range(classes) if present is None else present

    def add(self, predicted: NDArray[Any], truth: NDArray[Any]) -> None:
        """Count one image: predicted and true classes (H, W); 255 in `truth` is ignored."""
        count = len(self.confusion)
        rows = max(1, BLOCK // max(1, truth.shape[1]))
        for start in range(0, len(truth), rows):  # counting copies to 64 bits
            true, guess = truth[start : start + rows], predicted[start : start + rows]
            is_counted = true != IGNORE
            pairs = true[is_counted].astype(np.int64) * count + guess[is_counted].astype(np.int64)
            self.confusion += np.bincount(pairs, minlength=count**2).reshape(count, count)

    def figures(self) -> SemanticFigures:
        """Return the metrics of all images so far."""
        correct = np.diag(self.confusion)
        union = self.confusion.sum(0) + self.confusion.sum(1) - correct
        ious: Sequence[float | None] = [
            float(hit / total) if total and label in self.present else None
            for label, (hit, total) in enumerate(zip(correct, union, strict=True))
        ]
        present_ious = [share for share in ious if share is not None]
        pixels = self.confusion.sum()
        return SemanticFigures(
            mean_iou=float(np.mean(present_ious)) if present_ious else None,
            pixel_accuracy=float(correct.sum() / pixels) if pixels else None,
            class_iou=tuple(ious),
            confusion=self.confusion.copy(),
        )
