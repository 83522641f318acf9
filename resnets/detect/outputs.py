"""What detectors, localizers and segmenters output for an image: as JSON, drawn and counted."""

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
from resnets.detect.draw import draw, draw_classes, marks

Json = dict[str, Any]
SAME_BOX, SAME_SCORE = 0.9, 0.05  # least IoU and most difference of scores of counterparts


class Output(Protocol):
    """What a model found in an image, in pixels of the upright stored image."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        ...

    @property
    def objects(self) -> Detections | None:
        """What was found as objects; None for a model that labels pixels."""
        ...

    def to_json(self, classes: Sequence[str]) -> Json:
        """Plain values: width, height, and objects by score or the area of each class."""
        ...

    def draw(self, pixels: Pixels, classes: Sequence[str]) -> Image.Image:
        """The image (H, W, 3) uint8 with what was found in it."""
        ...

    def counts(self, classes: Sequence[str]) -> dict[str, int]:
        """Objects, or pixels, of each class that was found, most first."""
        ...

    def above(self, threshold: float) -> Output:
        """Without detections whose score is below `threshold`."""
        ...

    def agreement(self, other: Any) -> float:
        """How far another output of the same kind and image agrees, in 0..1."""
        ...

    def without_pixels(self) -> Output:
        """Without values per pixel, which `draw` needs: for many images they fill the memory."""
        ...


@dataclass(frozen=True, eq=False)
class ObjectsOutput:
    """Detected objects, with masks where the detector predicts them."""

    size: tuple[int, int]
    objects: Detections

    def to_json(self, classes: Sequence[str]) -> Json:
        """See `Output`; masks are COCO's compressed run lengths."""
        order = np.argsort(-self.objects["scores"], kind="stable").tolist()
        found = [_object_json(self.objects, row, classes) for row in order]
        return {**_size_json(self.size), "objects": found}

    def draw(self, pixels: Pixels, classes: Sequence[str]) -> Image.Image:
        """See `Output`."""
        return draw(pixels, marks(self.objects, classes, 0.0))

    def counts(self, classes: Sequence[str]) -> dict[str, int]:
        """See `Output`."""
        return _named(np.bincount(self.objects["labels"], minlength=1), classes)

    def above(self, threshold: float) -> ObjectsOutput:
        """See `Output`."""
        found = self.objects
        kept = np.flatnonzero(np.asarray(found["scores"]) >= threshold)
        chosen = Detections(
            boxes=found["boxes"][kept], scores=found["scores"][kept], labels=found["labels"][kept]
        )
        if "masks" in found:
            chosen["masks"] = [found["masks"][row] for row in kept.tolist()]
        return replace(self, objects=chosen)

    def agreement(self, other: ObjectsOutput) -> float:
        """See `Output`: share of objects with a counterpart, of the image that has more.

        Counterparts have one class, an IoU of SAME_BOX or more, and scores within SAME_SCORE.
        """
        mine, theirs = self.objects, other.objects
        most = max(len(mine["scores"]), len(theirs["scores"]))
        if not most:
            return 1.0
        overlaps = box_iou(torch.from_numpy(mine["boxes"]), torch.from_numpy(theirs["boxes"]))
        apart = np.abs(mine["scores"][:, None] - theirs["scores"])
        same = mine["labels"][:, None] == theirs["labels"]
        same &= (overlaps.numpy() >= SAME_BOX) & (apart <= SAME_SCORE)
        return float(same[linear_sum_assignment(same, maximize=True)].sum()) / most

    def without_pixels(self) -> ObjectsOutput:
        """Itself: masks are kept as run lengths."""
        return self


@dataclass(frozen=True, eq=False)
class LocationOutput:
    """A score and a box for each class; as an object, the most likely class in its box."""

    size: tuple[int, int]
    located: Located

    @property
    def objects(self) -> Detections:
        """The one object."""
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
        """Itself: a localizer always finds one object."""
        return self

    def agreement(self, other: LocationOutput) -> float:
        """See `Output`: 1 if the objects are counterparts, else 0."""
        return self._as_objects.agreement(other._as_objects)

    def without_pixels(self) -> LocationOutput:
        """Itself."""
        return self


@dataclass(frozen=True, eq=False)
class PixelsOutput:
    """The class of each pixel (H, W), or only the number of pixels of each class."""

    size: tuple[int, int]
    classes: Pixels | None
    areas: NDArray[np.int64]

    @classmethod
    def of(cls, classes: Pixels) -> PixelsOutput:
        """The output with `classes` (H, W)."""
        areas = np.zeros(256, np.int64)
        for label, count in MapPixels(classes, False, "").counts().items():
            areas[label] = count
        return cls((classes.shape[0], classes.shape[1]), classes, areas)

    @property
    def objects(self) -> None:
        """None: pixels are labeled, not objects."""
        return None

    def to_json(self, classes: Sequence[str]) -> Json:
        """See `Output`; areas are fractions of the image, largest first."""
        whole = max(1, int(self.areas.sum()))
        areas = [
            {"class": name, "share": round(count / whole, 6)}
            for name, count in self.counts(classes).items()
        ]
        return {**_size_json(self.size), "areas": areas}

    def draw(self, pixels: Pixels, classes: Sequence[str]) -> Image.Image:
        """See `Output`."""
        assert self.classes is not None
        return draw_classes(pixels, self.classes, classes)

    def counts(self, classes: Sequence[str]) -> dict[str, int]:
        """See `Output`."""
        return _named(self.areas, classes)

    def above(self, threshold: float) -> PixelsOutput:
        """Itself."""
        return self

    def agreement(self, other: PixelsOutput) -> float:
        """See `Output`: share of pixels of the same class."""
        assert self.classes is not None
        assert other.classes is not None
        return float((self.classes == other.classes).mean())

    def without_pixels(self) -> PixelsOutput:
        """Its areas alone."""
        return replace(self, classes=None)


def _named(counts: NDArray[Any], classes: Sequence[str]) -> dict[str, int]:
    order = np.argsort(-counts, kind="stable").tolist()
    return {classes[label]: int(counts[label]) for label in order if counts[label]}


def _size_json(size: tuple[int, int]) -> Json:
    return {"width": size[1], "height": size[0]}


def _object_json(objects: Detections, row: int, classes: Sequence[str]) -> Json:
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
