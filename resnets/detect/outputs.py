"""The files that an evaluation and a prediction leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnets.config import dump_json
from resnets.detect.data.types import Detections, DetectionSplit
from resnets.detect.metrics.curves import save_curves
from resnets.detect.metrics.error_page import save_misses, worst_misses
from resnets.detect.metrics.evaluator import DetectionMetrics
from resnets.detect.metrics.results import coco_results


def save_evaluation(
    judged: DetectionMetrics, split: DetectionSplit, found: Sequence[Detections], out: Path
) -> list[Path]:
    """Write what was measured into `out` and return the files, evaluation.json first.

    With detections also detections.json (COCO's result format), precision.png, mask_precision.png
    where there are masks, and misses.png, the worst ones.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "evaluation.json"]
    dump_json(judged.to_json(), written[0])
    for kind, figures in (("", judged.boxes), ("mask_", judged.masks)):
        if figures is not None:
            written.append(out / f"{kind}precision.png")
            title = "masks" if kind else "boxes"
            save_curves(figures, judged.classes, judged.protocol, written[-1], title)
    if judged.boxes is not None:
        written.append(out / "misses.png")
        save_misses(split, worst_misses(split, found), judged.protocol, written[-1])
        written.append(out / "detections.json")
        ids = [target.image_id for target in split.targets]
        dump_json(coco_results(ids, found, split.category_ids), written[-1], indent=None)
    return written


def coco_document(
    paths: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    found: Sequence[Detections],
    classes: Sequence[str],
) -> dict[str, Any]:
    """COCO JSON of what was found in pictures of `sizes` (H, W); annotations carry a score.

    Pictures and categories are numbered from 1.
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
