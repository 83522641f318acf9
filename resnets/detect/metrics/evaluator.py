"""All figures of one net on one set of annotated pictures, with the protocol they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resnets.detect.data.types import Detections, DetectionSplit
from resnets.detect.metrics.coco import CocoFigures, coco_figures
from resnets.detect.metrics.localization import LocalizationFigures, Located, localization_figures
from resnets.detect.metrics.segmentation import PixelMeter, SemanticFigures
from resnets.detect.metrics.voc import VocFigures, voc_figures


@dataclass(frozen=True, eq=False)
class DetectionMetrics:
    """Figures of one net on one split; those of other tasks are None.

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
        """The figures that a log shows; of masks where the net draws some."""
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

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found: dict[str, Any] = {"examples": self.examples, "protocol": self.protocol}
        per_class: list[dict[str, Any]] = [{"class": name} for name in self.classes]
        for name, coco in (("boxes", self.boxes), ("masks", self.masks)):
            if coco is not None:
                found[name] = coco.numbers
                for row, ap, ap50 in zip(per_class, coco.class_ap, coco.class_ap50, strict=True):
                    row[name] = {"AP": ap, "AP50": ap50}
        if self.voc is not None:
            found["voc"] = {"map": self.voc.map, "map11": self.voc.map11}
            for row, area, ap11 in zip(per_class, self.voc.area, self.voc.ap11, strict=True):
                row["voc"] = {"ap": area, "ap11": ap11}
        if self.located is not None:
            figures = {k: v for k, v in asdict(self.located).items() if v is not None}
            return found | {"localization": figures}
        if self.semantic is not None:
            found["semantic"] = self.headline
            for row, iou in zip(per_class, self.semantic.class_iou, strict=True):
                row["iou"] = iou
        return found | {"per_class": per_class}


def judge_objects(
    split: DetectionSplit, found: Sequence[Detections], protocol: str, *, masks: bool = False
) -> DetectionMetrics:
    """Boxes, and masks where there are any, against the split's; one of `found` a picture."""
    return DetectionMetrics(
        classes=split.classes,
        examples=len(split),
        protocol=protocol,
        boxes=coco_figures(split, found),
        masks=coco_figures(split, found, "segm") if masks else None,
        voc=voc_figures(split, found),
    )


def judge_located(
    split: DetectionSplit, located: Sequence[Located], protocol: str
) -> DetectionMetrics:
    """One box a class against pictures of one class (`localize_score.single_class`)."""
    figures = localization_figures(split, located)
    return DetectionMetrics(split.classes, len(split), protocol, located=figures)


def judge_maps(split: DetectionSplit, meter: PixelMeter, protocol: str) -> DetectionMetrics:
    """The pixels of all images of the split, as `meter` has counted them."""
    return DetectionMetrics(split.classes, len(split), protocol, semantic=meter.figures())
