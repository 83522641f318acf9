"""Outputs of detectors, localizers and segmenters for an image: JSON, drawings and counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from resnets.detect.data.class_maps import MapPixels
from resnets.detect.data.types import Detections, Located, Pixels
from resnets.detect.draw import draw, draw_classes, drawn_objects

Json = dict[str, Any]
SAME_BOX, SAME_SCORE = 0.9, 0.05  # minimum IoU and maximum score difference of matching objects


class Output(Protocol):
    """The output of a model for an image, in pixels of the upright stored image."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        ...

    @property
    def objects(self) -> Detections | None:
        """Detected objects; None for a segmenter."""
        ...

    def to_json(self, classes: Sequence[str]) -> Json:
        """Return values for JSON: width, height, and objects by score or the area of each class."""
        ...

    def draw(self, pixels: Pixels, classes: Sequence[str]) -> Image.Image:
        """Draw the output on the image (H, W, 3) uint8."""
        ...

    def counts(self, classes: Sequence[str]) -> dict[str, int]:
        """Return the number of objects, or pixels, of each class that occurs, most first."""
        ...

    def above(self, threshold: float) -> Output:
        """Return the output without detections whose score is below `threshold`."""
        ...

    def agreement(self, other: Any) -> float:
        """Return the agreement with another output for the same image, in 0..1."""
        ...

    def without_pixels(self) -> Output:
        """Return the output without per-pixel values, which only `draw` needs, to save memory."""
        ...


@dataclass(frozen=True, eq=False)
class ObjectsOutput:
    """Detected objects, with masks where the detector predicts them."""

    size: tuple[int, int]
    objects: Detections

    def to_json(self, classes: Sequence[str]) -> Json:
        """See `Output`; masks are COCO's compressed run lengths."""
        order = np.argsort(-self.objects["scores"], kind="stable").tolist()
        found = [_object_to_json(self.objects, row, classes) for row in order]
        return {**_size_to_json(self.size), "objects": found}

    def draw(self, pixels: Pixels, classes: Sequence[str]) -> Image.Image:
        """See `Output`."""
        return draw(pixels, drawn_objects(self.objects, classes, 0.0))

    def counts(self, classes: Sequence[str]) -> dict[str, int]:
        """See `Output`."""
        return _count_by_name(np.bincount(self.objects["labels"], minlength=1), classes)

    def above(self, threshold: float) -> ObjectsOutput:
        """See `Output`."""
        objects = self.objects
        rows = np.flatnonzero(np.asarray(objects["scores"]) >= threshold)
        chosen = Detections(
            boxes=objects["boxes"][rows],
            scores=objects["scores"][rows],
            labels=objects["labels"][rows],
        )
        if "masks" in objects:
            chosen["masks"] = [objects["masks"][row] for row in rows.tolist()]
        return replace(self, objects=chosen)

    def agreement(self, other: ObjectsOutput) -> float:
        """See `Output`: fraction of matching objects, relative to the output with more objects.

        Objects match if they have the same class, an IoU of at least SAME_BOX, and scores that
        differ by at most SAME_SCORE.
        """
        mine, theirs = self.objects, other.objects
        max_objects = max(len(mine["scores"]), len(theirs["scores"]))
        if not max_objects:
            return 1.0
        overlaps = box_iou(torch.from_numpy(mine["boxes"]), torch.from_numpy(theirs["boxes"]))
        score_difference = np.abs(mine["scores"][:, None] - theirs["scores"])
        same = mine["labels"][:, None] == theirs["labels"]
        same &= (overlaps.numpy() >= SAME_BOX) & (score_difference <= SAME_SCORE)
        return float(same[linear_sum_assignment(same, maximize=True)].sum()) / max_objects

    def without_pixels(self) -> ObjectsOutput:
        """Return itself: masks are stored as run lengths."""
        return self


@dataclass(frozen=True, eq=False)
class LocationOutput:
    """A score and a box for each class; as an object, the most probable class in its box."""

    size: tuple[int, int]
    located: Located

    @property
    def objects(self) -> Detections:
        """The most probable class in its box, as one object."""
        best = int(np.argmax(self.located["scores"]))
        rows = slice(best, best + 1)
        return Detections(
            boxes=np.nan_to_num(self.located["boxes"][rows]),
            scores=self.located["scores"][rows],
            labels=np.array([best], np.int64),
        )

    @property
    def _as_objects(self) -> ObjectsOutput:
        return ObjectsOutput(self.size, self.objects)

    def to_json(self, classes: Sequence[str]) -> Json:
        """See `Output`."""
        return self._as_objects.to_json(classes)

    def draw(self, pixels: Pixels, classes: Sequence[str]) -> Image.Image:
        """See `Output`."""
        return self._as_objects.draw(pixels, classes)

    def counts(self, classes: Sequence[str]) -> dict[str, int]:
        """See `Output`."""
        return self._as_objects.counts(classes)

    def above(self, threshold: float) -> LocationOutput:
        """Return itself: a localizer always finds one object."""
        return self

    def agreement(self, other: LocationOutput) -> float:
        """See `Output`: 1 if the objects match, otherwise 0."""
        return self._as_objects.agreement(other._as_objects)

    def without_pixels(self) -> LocationOutput:
        """Return itself."""
        return self


@dataclass(frozen=True, eq=False)
class PixelsOutput:
    """The class of each pixel (H, W), or only the number of pixels of each class."""

    size: tuple[int, int]
    classes: Pixels | None
    areas: NDArray[np.int64]

    @classmethod
    def of(cls, classes: Pixels) -> PixelsOutput:
        """Return the output with `classes` (H, W)."""
        areas = np.zeros(256, np.int64)
        for label, count in MapPixels(classes, False, "").count_values().items():
            areas[label] = count
        return cls((classes.shape[0], classes.shape[1]), classes, areas)

    @property
    def objects(self) -> None:
        """None: a segmenter finds no objects."""
        return None

    def to_json(self, classes: Sequence[str]) -> Json:
        """See `Output`; areas are fractions of the image, largest first."""
        total = max(1, int(self.areas.sum()))
        areas = [
            {"class": name, "share": round(count / total, 6)}
            for name, count in self.counts(classes).items()
        ]
        return {**_size_to_json(self.size), "areas": areas}

    def draw(self, pixels: Pixels, classes: Sequence[str]) -> Image.Image:
        """See `Output`."""
        assert self.classes is not None
        return draw_classes(pixels, self.classes, classes)

    def counts(self, classes: Sequence[str]) -> dict[str, int]:
        """See `Output`."""
        return _count_by_name(self.areas, classes)

    def above(self, threshold: float) -> PixelsOutput:
        """Return itself: there are no scores."""
        return self

    def agreement(self, other: PixelsOutput) -> float:
        """See `Output`: fraction of pixels of the same class."""
        assert self.classes is not None
        assert other.classes is not None
        return float((self.classes == other.classes).mean())

    def without_pixels(self) -> PixelsOutput:
        """Return the areas only."""
        return replace(self, classes=None)


def _count_by_name(counts: NDArray[Any], classes: Sequence[str]) -> dict[str, int]:
    order = np.argsort(-counts, kind="stable").tolist()
    return {classes[label]: int(counts[label]) for label in order if counts[label]}


def _size_to_json(size: tuple[int, int]) -> Json:
    return {"width": size[1], "height": size[0]}


def _object_to_json(objects: Detections, row: int, classes: Sequence[str]) -> Json:
    found: Json = {
        "class": classes[int(objects["labels"][row])],
        "score": round(float(objects["scores"][row]), 6),
        "box": [round(float(value), 2) for value in objects["boxes"][row]],
    }
    if "masks" in objects:
        counts = objects["masks"][row]["counts"]
        counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
        found["mask"] = {"size": list(objects["masks"][row]["size"]), "counts": counts}
    return found
