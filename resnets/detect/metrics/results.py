"""Detections as COCO writes results (cocodataset.org/#format-results)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from resnets.detect.data.types import Detections


def coco_results(
    image_ids: Sequence[int | str],
    found: Sequence[Detections],
    category_ids: Sequence[int | str | None],
) -> list[dict[str, Any]]:
    """One entry an object: image_id, category_id, bbox (left, top, width, height), score.

    Objects of classes that the data does not have (None) are left out. Those with masks have a
    segmentation too, as compressed run lengths.
    """
    entries = []
    for image_id, each in zip(image_ids, found, strict=True):
        boxes, labels = np.asarray(each["boxes"], np.float64), np.asarray(each["labels"])
        for place, score in enumerate(np.asarray(each["scores"], np.float64).tolist()):
            category = category_ids[int(labels[place])]
            if category is None:
                continue
            left, top, right, bottom = (round(value, 2) for value in boxes[place].tolist())
            entry: dict[str, Any] = {
                "image_id": image_id,
                "category_id": category,
                "bbox": [left, top, round(right - left, 2), round(bottom - top, 2)],
                "score": round(score, 5),
            }
            if "masks" in each:
                run = each["masks"][place]
                counts = run["counts"]
                text = counts.decode("ascii") if isinstance(counts, bytes) else counts
                entry["segmentation"] = {"size": [int(v) for v in run["size"]], "counts": text}
            entries.append(entry)
    return entries
