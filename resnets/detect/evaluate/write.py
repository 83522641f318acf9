"""Write the files of an evaluation or a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnets.config import dump_json
from resnets.detect.data.types import Detections, DetectionSplit
from resnets.detect.evaluate.curves import save_curves
from resnets.detect.evaluate.error_page import save_misses, worst_misses
from resnets.detect.metrics.meters import DetectionMetrics


def save_evaluation(
    metrics: DetectionMetrics, split: DetectionSplit, found: Sequence[Detections], out: Path
) -> list[Path]:
    """Write the metrics to `out` and return the files, evaluation.json first.

    With detections also detections.json (COCO's result format), precision.png, misses.png and, if
    there are masks, mask_precision.png.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "evaluation.json"]
    dump_json(metrics.to_json(), paths[0])
    for kind, figures in (("", metrics.boxes), ("mask_", metrics.masks)):
        if figures is not None:
            paths.append(out / f"{kind}precision.png")
            title = "masks" if kind else "boxes"
            save_curves(figures, metrics.classes, metrics.protocol, paths[-1], title)
    if metrics.boxes is not None:
        paths.append(out / "misses.png")
        save_misses(split, worst_misses(split, found), metrics.protocol, paths[-1])
        paths.append(out / "detections.json")
        ids = [target.image_id for target in split.targets]
        dump_json(coco_results(ids, found, split.category_ids), paths[-1], indent=None)
    return paths


def coco_document(
    paths: Sequence[str | Path],
    sizes: Sequence[tuple[int, int]],
    found: Sequence[Detections],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Return detections in images of `sizes` (H, W) as COCO JSON; annotations have a score.

    Images and categories are numbered from 1.
    """
    numbers = range(1, len(paths) + 1)
    entries = coco_results(list(numbers), found, range(1, len(classes) + 1))
    for number, entry in enumerate(entries, start=1):
        _, _, width, height = entry["bbox"]
        entry |= {"id": number, "area": round(width * height, 2), "iscrowd": 0}
    return {
        "images": [
            {"id": number, "file_name": str(path), "width": size[1], "height": size[0]}
            for number, path, size in zip(numbers, paths, sizes, strict=True)
        ],
        "annotations": entries,
        "categories": [{"id": label, "name": name} for label, name in enumerate(classes, 1)],
    }


def coco_results(
    image_ids: Sequence[int | str],
    found: Sequence[Detections],
    category_ids: Sequence[int | str | None],
) -> list[dict[str, Any]]:
    """Return one entry per object: image_id, category_id, bbox (x, y, width, height), score.

    Objects of classes that the data does not have (None) are excluded. Objects with masks also have
    a segmentation as compressed run lengths.
    """
    entries = []
    for image_id, detections in zip(image_ids, found, strict=True):
        boxes, labels = (
            np.asarray(detections["boxes"], np.float64),
            np.asarray(detections["labels"]),
        )
        for index, score in enumerate(np.asarray(detections["scores"], np.float64).tolist()):
            category = category_ids[int(labels[index])]
            if category is None:
                continue
            left, top, right, bottom = (round(value, 2) for value in boxes[index].tolist())
            entry: dict[str, Any] = {
                "image_id": image_id,
                "category_id": category,
                "bbox": [left, top, round(right - left, 2), round(bottom - top, 2)],
                "score": round(score, 5),
            }
            if "masks" in detections:
                run = detections["masks"][index]
                counts = run["counts"]
                text = counts.decode("ascii") if isinstance(counts, bytes) else counts
                entry["segmentation"] = {"size": [int(v) for v in run["size"]], "counts": text}
            entries.append(entry)
    return entries
