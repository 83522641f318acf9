"""A page of the worst errors: wrong detections, and objects that were not detected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from resnets.detect.data.transforms import box_iou
from resnets.detect.data.types import Detections, DetectionSplit, Floats, Target
from resnets.evaluate.figures.image_grid import (
    GREEN,
    RED,
    Caption,
    Tile,
    file_caption,
    save_image_grid,
)

OVERLAP, MIN_OVERLAP = 0.5, 0.1  # IoU of a correct box, and of one related to an object
TILE = 200  # px of a tile's side
MAX_MISSES = 12  # of each kind on the page
MAX_PER_IMAGE = 2
CONTEXT = 2.2  # side of the shown square in sides of the boxes


@dataclass(frozen=True, eq=False)
class Miss:
    """An error in image `row`.

    Attributes:
        found: Box (4,) of a wrong detection.
        missed: Box (4,) of the undetected object, or the object that the detection should match.
        message: Description in two short lines.
        weight: Severity among errors of the same kind.
    """

    row: int
    found: Floats | None
    missed: Floats | None
    message: tuple[str, str]
    weight: float


def worst_misses(split: DetectionSplit, detections_of: Sequence[Detections]) -> list[Miss]:
    """Return the wrong detections with the highest scores and the largest missed objects.

    Up to 12 of each. Detections are matched as in VOC, with objects of their class at an IoU of
    0.5; the kind of error is determined by the object with the largest overlap. Crowds and
    difficult objects are ignored. At most two errors of one kind are from the same image.
    """
    wrong: list[Miss] = []
    missed: list[Miss] = []
    for row, (target, detections) in enumerate(zip(split.targets, detections_of, strict=True)):
        new_wrong, new_missed = _find_misses(row, target, detections, split.classes)
        wrong += new_wrong
        missed += new_missed
    return [*_choose_worst(wrong), *_choose_worst(missed)]


def save_misses(split: DetectionSplit, misses: Sequence[Miss], protocol: str, path: Path) -> None:
    """Write the PNG: each miss with its surroundings, objects in green, detections in red."""
    title = f"The {len(misses)} worst misses" if misses else "No misses"
    tiles = [_make_tile(split, miss) for miss in misses]
    save_image_grid(title, protocol, tiles, TILE, path)


def _find_misses(
    row: int, target: Target, detections: Detections, classes: Sequence[str]
) -> tuple[list[Miss], list[Miss]]:
    """Return the wrong detections and missed objects of one image."""
    boxes, labels = np.asarray(detections["boxes"], np.float32), np.asarray(detections["labels"])
    scores = np.asarray(detections["scores"])
    ignored = target.crowd | target.difficult
    overlaps = box_iou(boxes, target.boxes)
    is_found = np.zeros(len(target), np.bool_)
    wrong = []
    for index in np.argsort(-scores, kind="stable").tolist():
        same = np.where(target.labels == labels[index], overlaps[index], -1.0)
        best = int(same.argmax()) if len(target) else -1
        if best >= 0 and same[best] >= OVERLAP and (ignored[best] or not is_found[best]):
            is_found[best] = True
            continue
        message, near = _explain(overlaps[index], same, target, classes)
        if near is not None and ignored[near]:
            continue
        true_box = None if near is None else target.boxes[near]
        title = f"{classes[int(labels[index])]} {scores[index]:.0%}"
        wrong.append(Miss(row, boxes[index], true_box, (title, message), float(scores[index])))
    missed = []
    for index in np.flatnonzero(~is_found & ~ignored).tolist():
        share = float(target.areas[index]) / (target.width * target.height)
        lines = (f"missed {classes[int(target.labels[index])]}", f"{share:.1%} of the image")
        missed.append(Miss(row, None, target.boxes[index], lines, share))
    return wrong, missed


def _explain(
    overlaps: Floats, class_overlaps: Floats, target: Target, classes: Sequence[str]
) -> tuple[str, int | None]:
    """Return why a detection is wrong, and the object that it overlaps."""
    if not len(target) or overlaps.max() < MIN_OVERLAP:
        return "nothing of the kind there", None
    if class_overlaps.max() >= OVERLAP:
        return "found twice", int(class_overlaps.argmax())
    if class_overlaps.max() >= MIN_OVERLAP:
        return f"box off, overlap {class_overlaps.max():.2f}", int(class_overlaps.argmax())
    near = int(overlaps.argmax())
    return f"is {classes[int(target.labels[near])]}", near


def _choose_worst(misses: Sequence[Miss]) -> list[Miss]:
    """Return the worst errors, with few of the same image."""
    chosen: list[Miss] = []
    count_of_image: Counter[int] = Counter()
    for miss in sorted(misses, key=lambda miss: -miss.weight):
        if count_of_image[miss.row] < MAX_PER_IMAGE and len(chosen) < MAX_MISSES:
            count_of_image[miss.row] += 1
            chosen.append(miss)
    return chosen


def _make_tile(split: DetectionSplit, miss: Miss) -> Tile:
    """Return a tile with the miss in its surroundings, a description and its file."""
    what, why = miss.message
    color = GREEN if miss.found is None else RED
    lines = (
        Caption(what, color, strong=True),
        Caption(why),
        file_caption(split.files.name(miss.row)),
    )
    return Tile(_crop_around(split.read(miss.row)[0], miss), lines)


def _crop_around(pixels: np.ndarray, miss: Miss) -> Image.Image:
    """Crop a square of the image around the miss, with its boxes."""
    boxes = np.stack([box for box in (miss.found, miss.missed) if box is not None])
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    height, width = pixels.shape[:2]
    side = max(CONTEXT * float((high - low).max()), 0.2 * min(height, width), 8.0)
    side = min(side, float(max(height, width)))
    center = (low + high) / 2
    left, top = center[0] - side / 2, center[1] - side / 2
    left = min(max(left, 0.0), width - side) if width >= side else (width - side) / 2
    top = min(max(top, 0.0), height - side) if height >= side else (height - side) / 2
    scale = TILE / side
    tile = Image.new("RGB", (TILE, TILE), "#eef1f4")
    crop = Image.fromarray(pixels).crop(
        (
            max(0, round(left)),
            max(0, round(top)),
            min(width, round(left + side)),
            min(height, round(top + side)),
        )
    )
    crop = crop.resize(
        (max(1, round(crop.width * scale)), max(1, round(crop.height * scale))),
        Image.Resampling.BICUBIC,
    )
    tile.paste(crop, (round(max(0.0, -left) * scale), round(max(0.0, -top) * scale)))
    pen = ImageDraw.Draw(tile)
    for box, color in ((miss.missed, "#3ddc5b"), (miss.found, "#ff4b33")):
        if box is not None:
            x1, y1, x2, y2 = ((box - [left, top, left, top]) * scale).tolist()
            pen.rectangle((x1, y1, max(x1 + 2, x2), max(y1 + 2, y2)), outline=color, width=3)
    return tile
