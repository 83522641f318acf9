"""Labels of N images: one class each, (N,) int64, or multi-hot with K labels, (N, K) uint8.

In multi-hot labels 1 means that the image has the label, and 0 that it does not. An image may have
no label.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[Any]  # (N,) int64 or (N, K) uint8
NO_LABEL = "no label"


def is_multilabel(labels: Any) -> bool:
    """True if images have multi-hot labels; `labels` is an array or a tensor."""
    return bool(labels.ndim == 2)


def multi_hot(sets: Sequence[Iterable[int]], num_classes: int) -> NDArray[np.uint8]:
    """Return multi-hot labels (N, K) uint8 from the class indices of each image."""
    found = np.zeros((len(sets), num_classes), np.uint8)
    for row, numbers in enumerate(sets):
        found[row, list(numbers)] = 1
    return found


def class_counts(labels: Labels, num_classes: int) -> NDArray[np.int64]:
    """Return the number of images (K,) with each label; negative labels (no class) are ignored.

    The result is longer than K if there are labels of K or more.
    """
    if is_multilabel(labels):
        return labels.sum(0, dtype=np.int64)
    return np.bincount(labels[labels >= 0], minlength=num_classes)


def group_labels(labels: Labels) -> NDArray[np.int64]:
    """Return a number (N,) for each image, equal for images with equal labels."""
    if not is_multilabel(labels):
        return labels
    if not len(labels):
        return np.zeros(0, np.int64)
    packed = np.packbits(labels.astype(bool), axis=1)
    groups = np.unique(packed, axis=0, return_inverse=True)[1]
    return groups.reshape(-1).astype(np.int64)


def label_numbers(label: Any) -> list[int]:
    """Return the class indices of an image's label: an integer (negative for none) or a 0/1 row."""
    if np.ndim(label):
        return np.flatnonzero(label).tolist()
    return [int(label)] if label >= 0 else []


def format_label(label: Any, classes: Sequence[str], none: str = "") -> str:
    """Return the class names of an image's label, such as "cat, dog"; `none` if it has none."""
    return ", ".join(classes[number] for number in label_numbers(label)) or none
