"""Metrics of a model on a split, with their protocol, and meters that accumulate them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from resnets.detect.data.types import Detections, DetectionSplit, Located
from resnets.detect.metrics.coco import CocoFigures, coco_figures
from resnets.detect.metrics.localization import LocalizationFigures, localization_figures
from resnets.detect.metrics.segmentation import PixelMeter, SemanticFigures
from resnets.detect.metrics.voc import VocFigures, voc_figures
from resnets.detect.outputs import LocationOutput, ObjectsOutput, PixelsOutput
from resnets.utils.machine.distributed import ProcessGroup

MONITORED = ("mask_AP", "AP", "mean_iou")  # the first that a task has selects checkpoints


@dataclass(frozen=True, eq=False)
class DetectionMetrics:
    """Metrics of a model on a split; those of other tasks are None.

    boxes, masks: COCO's. voc: VOC's, of boxes at an overlap of 0.5.
    """

    classes: tuple[str, ...]
    examples: int
    protocol: str
    boxes: CocoFigures | None = None
    masks: CocoFigures | None = None
    voc: VocFigures | None = None
    located: LocalizationFigures | None = None
    semantic: SemanticFigures | None = None

    @property
    def headline(self) -> dict[str, float | None]:
        """The metrics shown in logs; of masks if the model predicts them."""
        if self.semantic is not None:
            pixels = self.semantic
            return {"mean_iou": pixels.mean_iou, "pixel_accuracy": pixels.pixel_accuracy}
        if self.located is not None:
            return {
                name: value
                for name, value in asdict(self.located).items()
                if name.endswith("_error") and value is not None
            }
        assert self.boxes is not None
        numbers = {name: self.boxes.numbers[name] for name in ("AP", "AP50", "AP75")}
        if self.masks is not None:
            numbers |= {f"mask_{name}": self.masks.numbers[name] for name in ("AP", "AP50")}
        return numbers

    @property
    def monitored(self) -> str:
        """The metric that selects the best checkpoint."""
        if self.located is not None:
            return "top1_error"
        return next(name for name in MONITORED if name in self.headline)

    @property
    def percentages(self) -> dict[str, float]:
        """The metrics of logs in percent, and `error`: 100 less the one that is maximized."""
        if self.located is not None:
            errors = {name: value for name, value in self.headline.items() if value is not None}
            return {**errors, "error": errors[self.monitored]}
        percent = {name: 100 * (value or 0.0) for name, value in self.headline.items()}
        return {**percent, "error": 100 - percent[self.monitored]}

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values: dict[str, Any] = {"examples": self.examples, "protocol": self.protocol}
        per_class: list[dict[str, Any]] = [{"class": name} for name in self.classes]
        for name, coco in (("boxes", self.boxes), ("masks", self.masks)):
            if coco is not None:
                values[name] = coco.numbers
                for row, ap, ap50 in zip(per_class, coco.class_ap, coco.class_ap50, strict=True):
                    row[name] = {"AP": ap, "AP50": ap50}
        if self.voc is not None:
            values["voc"] = {"map": self.voc.map, "map11": self.voc.map11}
            for row, area, ap11 in zip(per_class, self.voc.area, self.voc.ap11, strict=True):
                row["voc"] = {"ap": area, "ap11": ap11}
        if self.located is not None:
            figures = {k: v for k, v in asdict(self.located).items() if v is not None}
            return values | {"localization": figures}
        if self.semantic is not None:
            values["semantic"] = self.headline
            for row, iou in zip(per_class, self.semantic.class_iou, strict=True):
                row["iou"] = iou
        return values | {"per_class": per_class}


class Meter(Protocol):
    """Accumulates the metrics of a model's outputs on a split.

    found: the objects of each added image, by row; empty if the model finds none.
    """

    found: dict[int, Detections]

    def add(self, row: int, output: Any) -> None:
        """Add the output for image `row` of the split."""
        ...

    def gather(self, group: ProcessGroup) -> None:
        """Add the outputs of the other processes."""
        ...

    def metrics(
        self, split: DetectionSplit, rows: Sequence[int], protocol: str
    ) -> DetectionMetrics:
        """Return the metrics of `split`: images `rows` of the split that the meter was made for."""
        ...


class ObjectMeter:
    """Boxes, and masks if `masks`: COCO's and VOC's average precision."""

    def __init__(self, masks: bool) -> None:
        self.masks = masks
        self.found: dict[int, Detections] = {}

    def add(self, row: int, output: ObjectsOutput) -> None:
        """See `Meter`."""
        self.found[row] = output.objects

    def gather(self, group: ProcessGroup) -> None:
        """See `Meter`."""
        self.found = dict(group.all_gather(list(self.found.items())))

    def metrics(
        self, split: DetectionSplit, rows: Sequence[int], protocol: str
    ) -> DetectionMetrics:
        """See `Meter`."""
        found = [self.found[row] for row in rows]
        return object_metrics(split, found, protocol, masks=self.masks)


class LocationMeter:
    """ImageNet's localization error, on images of one class (`localization.single_class`)."""

    def __init__(self) -> None:
        self.found: dict[int, Detections] = {}
        self.located: dict[int, Located] = {}

    def add(self, row: int, output: LocationOutput) -> None:
        """See `Meter`."""
        self.located[row] = output.located

    def gather(self, group: ProcessGroup) -> None:
        """See `Meter`."""
        self.located = dict(group.all_gather(list(self.located.items())))

    def metrics(
        self, split: DetectionSplit, rows: Sequence[int], protocol: str
    ) -> DetectionMetrics:
        """See `Meter`."""
        return location_metrics(split, [self.located[row] for row in rows], protocol)


class SegmentationMeter:
    """Intersection over union per class; maps are as large as images, so none is stored."""

    def __init__(self, split: DetectionSplit) -> None:
        self.found: dict[int, Detections] = {}
        self.targets, self.pixels = split.targets, PixelMeter(len(split.classes), split.present)

    def add(self, row: int, output: PixelsOutput) -> None:
        """See `Meter`."""
        semantic = self.targets[row].semantic
        assert semantic is not None
        assert output.classes is not None
        self.pixels.add(output.classes, semantic.read())

    def gather(self, group: ProcessGroup) -> None:
        """See `Meter`."""
        self.pixels.confusion = np.sum(group.all_gather([self.pixels.confusion]), axis=0)

    def metrics(
        self, split: DetectionSplit, rows: Sequence[int], protocol: str
    ) -> DetectionMetrics:
        """See `Meter`."""
        return pixel_metrics(split, self.pixels, protocol)


def object_metrics(
    split: DetectionSplit, found: Sequence[Detections], protocol: str, *, masks: bool = False
) -> DetectionMetrics:
    """Return metrics of boxes, and of masks if any; `found` has an entry for each image."""
    return DetectionMetrics(
        classes=split.classes,
        examples=len(split),
        protocol=protocol,
        boxes=coco_figures(split, found),
        masks=coco_figures(split, found, "segm") if masks else None,
        voc=voc_figures(split, found),
    )


def location_metrics(
    split: DetectionSplit, located: Sequence[Located], protocol: str
) -> DetectionMetrics:
    """Return metrics of one box per class on images of one class (`localization.single_class`)."""
    figures = localization_figures(split, located)
    return DetectionMetrics(split.classes, len(split), protocol, located=figures)


def pixel_metrics(split: DetectionSplit, meter: PixelMeter, protocol: str) -> DetectionMetrics:
    """Return metrics of the pixels of all images of the split, accumulated in `meter`."""
    return DetectionMetrics(split.classes, len(split), protocol, semantic=meter.figures())
