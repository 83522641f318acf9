"""Annotated images and splits, and the detections in an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from resnets.data.dataset.summary import DataSummary
from resnets.data.decode.decode import decode_fitted
from resnets.data.errors import DataError
from resnets.data.files.folder import Files
from resnets.detect.data.class_maps import SemanticMap

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Pixels = NDArray[np.uint8]

# COCO's three ways to write a region: polygons [[x, y, x, y, ...], ...], run lengths {"size":
# [H, W], "counts": [...]}, or the same with compressed counts.
CategoryId = int | str
Segmentation = Sequence[Sequence[float]] | dict[str, Any]


class Detections(TypedDict):
    """The N detections of a model in one image.

    boxes: (N, 4) left, top, right, bottom in px of the upright stored image.
    scores: (N,) in 0..1.
    labels: (N,) indices into the classes, without background.
    masks: N compressed COCO run lengths at the stored image's size, if the model predicts masks.
    """

    boxes: Floats
    scores: Floats
    labels: Ints
    masks: NotRequired[Sequence[dict[str, Any]]]


class Located(TypedDict):
    """One box for each of K classes in an image, from a localizer.

    scores: (K,) class probabilities. boxes: (K, 4) in px of the stored image; NaN = none.
    """

    scores: Floats
    boxes: Floats


@dataclass(frozen=True, eq=False)
class Target:
    """The annotations of one image with M objects.

    Attributes:
        boxes: (M, 4) float32, left, top, right, bottom in px of the upright stored image.
        labels: (M,) int64, indices into the data set's classes, without background.
        crowd: (M,) bool, regions of many objects (COCO's iscrowd).
        difficult: (M,) bool (VOC's difficult).
        areas: (M,) float32, area of the object's mask in px, or of its box without a mask.
        masks: COCO segmentation of each object, or None.
        semantic: Class of each pixel, or None.
    """

    boxes: Floats
    labels: Ints
    crowd: Flags
    difficult: Flags
    areas: Floats
    masks: tuple[Segmentation, ...] | None
    semantic: SemanticMap | None
    image_id: int | str
    width: int
    height: int

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.labels)

    def take(self, rows: Ints | Flags) -> Target:
        """Return the target with the objects of `rows` only."""
        kept = np.arange(len(self))[rows]
        return replace(
            self,
            boxes=self.boxes[kept],
            labels=self.labels[kept],
            crowd=self.crowd[kept],
            difficult=self.difficult[kept],
            areas=self.areas[kept],
            masks=None if self.masks is None else tuple(self.masks[row] for row in kept),
        )


@dataclass(frozen=True, eq=False)
class DetectionSplit:
    """A training, validation or test split; `targets` has one entry for each of `files`.

    category_ids: id of each of `classes` in the source (COCO's are 1..90 with gaps); None for
    classes that the source lacks. summary: summary of the data set.
    """

    files: Files
    targets: Sequence[Target]
    classes: tuple[str, ...]
    description: str
    category_ids: tuple[CategoryId | None, ...]
    summary: DataSummary | None = None

    def __post_init__(self) -> None:
        assert len(self.files) == len(self.targets)
        assert len(self.classes) == len(self.category_ids)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    @property
    def present(self) -> tuple[int, ...]:
        """Indices of the classes that the source has."""
        return tuple(n for n, number in enumerate(self.category_ids) if number is not None)

    def read(self, index: int) -> tuple[Pixels, Target]:
        """Read the upright image (H, W, 3) uint8 and its target; raises DataError as `read_at`."""
        target = self.targets[index]
        return self.read_at(index, (target.height, target.width)), target

    def read_at(self, index: int, size: tuple[int, int]) -> Pixels:
        """Read the upright image at `size` (H, W): (H, W, 3) uint8, bilinear and antialiased.

        Raises DataError for an unreadable image, or if its size differs from that in its
        annotations.
        """
        name, target = self.files.name(index), self.targets[index]
        data = self.files.read(index)
        pixels, (height, width) = decode_fitted(data, name, lambda *_: size)
        if (height, width) != (target.height, target.width):
            raise DataError(
                f"{name}: is {width}x{height}, but its annotations are for"
                f" {target.width}x{target.height}; restore the image they were made on"
            )
        return pixels

    def take(self, rows: Ints) -> DetectionSplit:
        """Return the split of the images `rows`, renumbered from 0."""
        targets = [self.targets[row] for row in rows]
        return replace(self, files=self.files.take(rows), targets=targets)
