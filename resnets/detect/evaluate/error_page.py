"""The worst misses on one page: what was found that is not there, and what was not found."""

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

OVERLAP, NEAR = 0.5, 0.1  # a box is right from 0.5 on, and has to do with an object from 0.1 on
TILE = 200  # px of a tile's side
EACH = 12  # of either kind on the page
PER_PICTURE = 2
CONTEXT = 2.2  # how much larger than its boxes the part of the image that is shown is


@dataclass(frozen=True, eq=False)
class Miss:
    """One error in image `row`.

    found: box (4,) that is wrong; missed: box (4,) that it should have been, or that nothing found.
    said: what happened, in two short lines. weight: how bad it is, among those of its kind.
    """

    row: int
    found: Floats | None
    missed: Floats | None
    message: tuple[str, str]
    weight: float


def worst_misses(split: DetectionSplit, found: Sequence[Detections]) -> list[Miss]:
    """The surest wrong detections and the largest objects that nothing found, up to 12 of each.

    A detection is evaluated as VOC does it, against objects of its class at an overlap of 0.5; what
    it is wrong about follows from the object it overlaps most. Crowds and difficult objects count
    for nothing. At most two of one kind come from one image.
    """
    wrong: list[Miss] = []
    missed: list[Miss] = []
    for row, (target, each) in enumerate(zip(split.targets, found, strict=True)):
        these, those = _judge(row, target, each, split.classes)
        wrong += these
        missed += those
    return [*_chosen(wrong), *_chosen(missed)]


def save_misses(split: DetectionSplit, misses: Sequence[Miss], protocol: str, path: Path) -> None:
    """Write the PNG: each miss in its surroundings, what is there green, what was found red."""
    title = f"The {len(misses)} worst misses" if misses else "No misses"
    tiles = [_tile(split, miss) for miss in misses]
    save_image_grid(title, protocol, tiles, TILE, path)


def _judge(
    row: int, target: Target, found: Detections, classes: Sequence[str]
) -> tuple[list[Miss], list[Miss]]:
    """Wrong detections and missed objects of one image."""
    boxes, labels = np.asarray(found["boxes"], np.float32), np.asarray(found["labels"])
    scores = np.asarray(found["scores"])
    ignored = target.crowd | target.difficult
    shared = box_iou(boxes, target.boxes)
    taken = np.zeros(len(target), np.bool_)
    wrong = []
    for place in np.argsort(-scores, kind="stable").tolist():
        same = np.where(target.labels == labels[place], shared[place], -1.0)
        best = int(same.argmax()) if len(target) else -1
        if best >= 0 and same[best] >= OVERLAP and (ignored[best] or not taken[best]):
            taken[best] = True
            continue
        message, near = _explain(shared[place], same, target, classes)
        if near is not None and ignored[near]:
            continue
        there = None if near is None else target.boxes[near]
        head = f"{classes[int(labels[place])]} {scores[place]:.0%}"
        wrong.append(Miss(row, boxes[place], there, (head, message), float(scores[place])))
    missed = []
    for place in np.flatnonzero(~taken & ~ignored).tolist():
        share = float(target.areas[place]) / (target.width * target.height)
        lines = (f"missed {classes[int(target.labels[place])]}", f"{share:.1%} of the image")
        missed.append(Miss(row, None, target.boxes[place], lines, share))
    return wrong, missed


def _explain(
    shared: Floats, same: Floats, target: Target, classes: Sequence[str]
) -> tuple[str, int | None]:
    """Why a detection is wrong, and the object that it has to do with."""
    if not len(target) or shared.max() < NEAR:
        return "nothing of the kind there", None
    if same.max() >= OVERLAP:
        return "found twice", int(same.argmax())
    if same.max() >= NEAR:
        return f"box off, overlap {same.max():.2f}", int(same.argmax())
    near = int(shared.argmax())
    return f"is {classes[int(target.labels[near])]}", near


def _chosen(misses: Sequence[Miss]) -> list[Miss]:
    """The worst first, few of each image."""
    kept: list[Miss] = []
    of: Counter[int] = Counter()
    for miss in sorted(misses, key=lambda miss: -miss.weight):
        if of[miss.row] < PER_PICTURE and len(kept) < EACH:
            of[miss.row] += 1
            kept.append(miss)
    return kept


def _tile(split: DetectionSplit, miss: Miss) -> Tile:
    """The miss in its surroundings, what it is, and its file."""
    happened, why = miss.message
    color = GREEN if miss.found is None else RED
    lines = (
        Caption(happened, color, strong=True),
        Caption(why),
        file_caption(split.files.name(miss.row)),
    )
    return Tile(_surroundings(split.read(miss.row)[0], miss), lines)


def _surroundings(pixels: np.ndarray, miss: Miss) -> Image.Image:
    """The part of the image around the miss, square, with its boxes."""
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
    inside = Image.fromarray(pixels).crop(
        (
            max(0, round(left)),
            max(0, round(top)),
            min(width, round(left + side)),
            min(height, round(top + side)),
        )
    )
    inside = inside.resize(
        (max(1, round(inside.width * scale)), max(1, round(inside.height * scale))),
        Image.Resampling.BICUBIC,
    )
    tile.paste(inside, (round(max(0.0, -left) * scale), round(max(0.0, -top) * scale)))
    pen = ImageDraw.Draw(tile)
    for box, color in ((miss.missed, "#3ddc5b"), (miss.found, "#ff4b33")):
        if box is not None:
            x1, y1, x2, y2 = ((box - [left, top, left, top]) * scale).tolist()
            pen.rectangle((x1, y1, max(x1 + 2, x2), max(y1 + 2, y2)), outline=color, width=3)
    return tile
