"""COCO's mean average precision and recall, computed by faster-coco-eval.

The values equal those of pycocotools; the tests compare them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnets.config import ConfigError
from resnets.detect.data.masks import encode_outline
from resnets.detect.data.types import Detections, DetectionSplit, Target

# The twelve numbers, in COCO's order (cocodataset.org/#detection-eval).
NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
IouType = Literal["bbox", "segm"]


@dataclass(frozen=True, eq=False)
class CocoFigures:
    """COCO's metrics in 0..1; None if there is no object of that size or class.

    numbers: the twelve metrics by name. class_ap, class_ap50: average precision of each class.
    precision: (10, 101, K) at IoU .5, .55, ..., .95 and recall 0, .01, ..., 1; NaN = no objects.
    """

    numbers: dict[str, float | None]
    class_ap: tuple[float | None, ...]
    class_ap50: tuple[float | None, ...]
    precision: NDArray[np.float64]


def coco_figures(
    split: DetectionSplit,
    detections: Sequence[Detections],
    kind: IouType = "bbox",
) -> CocoFigures:
    """Return the metrics of `detections`, one entry per image of `split`, for boxes or masks.

    Crowds count as in COCO; VOC's difficult objects are treated as crowds.
    """
    assert len(detections) == len(split)
    coco, evaluator = _interface()
    output = io.StringIO()
    with contextlib.redirect_stdout(output):  # the library prints
        ground_truth = coco()
        ground_truth.dataset = _to_coco_document(split, kind)
        ground_truth.createIndex()
        results = [
            entry for row, each in enumerate(detections) for entry in _to_results(row, each, kind)
        ]
        evaluation = evaluator(ground_truth, _load_results(coco, ground_truth, results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = np.array(evaluation.eval["precision"], np.float64)[..., 0, -1]  # (T, R, K)
    precision[precision < 0] = np.nan
    return CocoFigures(
        numbers=dict(zip(NUMBERS, map(_none_if_negative, evaluation.stats[:12]), strict=True)),
        class_ap=tuple(_mean(precision[:, :, label]) for label in range(len(split.classes))),
        class_ap50=tuple(_mean(precision[0, :, label]) for label in range(len(split.classes))),
        precision=precision,
    )


def require_coco() -> None:
    """Raise ConfigError if no library for COCO's metrics is installed."""
    _interface()


def _interface() -> tuple[Any, Any]:
    """Return the library's classes for annotations and their evaluation."""
    try:
        module = importlib.import_module("faster_coco_eval")
    except ImportError as error:
        raise ConfigError("COCO metrics need a library: pip install 'resnets[detect]'") from error
    return module.COCO, module.COCOeval_faster


def _to_coco_document(split: DetectionSplit, kind: IouType) -> dict[str, Any]:
    """Return the split as a COCO document; images are numbered by row, categories by label."""
    annotations = [
        entry | {"image_id": row}
        for row, target in enumerate(split.targets)
        for entry in _to_annotations(target, kind)
    ]
    for number, entry in enumerate(annotations, start=1):
        entry["id"] = number
    return {
        "info": {},
        "images": [
            {"id": row, "width": target.width, "height": target.height}
            for row, target in enumerate(split.targets)
        ],
        "annotations": annotations,
        "categories": [{"id": label, "name": name} for label, name in enumerate(split.classes)],
    }


def _to_annotations(target: Target, kind: IouType) -> list[dict[str, Any]]:
    ignored = target.crowd | target.difficult
    entries = []
    for index in range(len(target)):
        entry: dict[str, Any] = {
            "category_id": int(target.labels[index]),
            "bbox": _to_xywh(target.boxes[index]),
            "area": float(target.areas[index]),
            "iscrowd": int(ignored[index]),
        }
        if kind == "segm":
            assert target.masks is not None
            entry["segmentation"] = encode_outline(
                target.masks[index], (target.height, target.width)
            )
        entries.append(entry)
    return entries


def _to_results(row: int, detections: Detections, kind: IouType) -> list[dict[str, Any]]:
    boxes, scores = (
        np.asarray(detections["boxes"], np.float64),
        np.asarray(detections["scores"], np.float64),
    )
    labels = np.asarray(detections["labels"])
    entries: list[dict[str, Any]] = [
        {
            "image_id": row,
            "category_id": int(labels[index]),
            "bbox": _to_xywh(boxes[index]),
            "score": float(scores[index]),
        }
        for index in range(len(scores))
    ]
    if kind == "segm":
        for entry, run in zip(entries, detections["masks"], strict=True):
            del entry["bbox"]  # otherwise libraries use the box as the mask
            entry["segmentation"] = run
    return entries


def _load_results(coco: Any, truth: Any, entries: list[dict[str, Any]]) -> Any:
    """Load results by the library, which does not accept an empty list."""
    if entries:
        return truth.loadRes(entries)
    empty = coco()
    empty.dataset = truth.dataset | {"annotations": []}
    empty.createIndex()
    return empty


def _to_xywh(box: NDArray[Any]) -> list[float]:
    left, top, right, bottom = (float(value) for value in box)
    return [left, top, right - left, bottom - top]


def _none_if_negative(value: float) -> float | None:
    return None if value < 0 else float(value)


def _mean(values: NDArray[np.float64]) -> float | None:
    return None if np.isnan(values).all() else float(np.nanmean(values))
