"""Boxes, masks, labels and scores drawn on images, for people to look at."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from resnets.config import atomic_write
from resnets.detect.data.masks import decode_mask
from resnets.detect.data.types import IGNORE, Detections, Pixels
from resnets.evaluate.figures.fonts import TextRenderer
from resnets.utils.printable import printable

Color = tuple[int, int, int]
TagBox = tuple[float, float, float, float]
SMALLEST = 640  # px: smaller images are enlarged, so that labels leave something to see
TINT = 0.45  # how much of its colour a mask lays over the image
GOLDEN_TURN = 0.618033988749895
LEGEND = 24  # classes that the legend of a class map names at most


@dataclass(frozen=True, eq=False)
class Mark:
    """One object to draw: box in px of the image, its tag, colour and mask (H, W) if any."""

    box: tuple[float, float, float, float]
    tag: str
    color: Color
    mask: Pixels | None = None


def class_color(label: int) -> Color:
    """A colour for a class, the same everywhere; neighbours differ most."""
    hue = (0.02 + label * GOLDEN_TURN) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.80 - 0.25 * (label % 3 == 2), 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def marks(found: Detections, classes: Sequence[str], threshold: float) -> list[Mark]:
    """What to draw of detections whose score is `threshold` or more, least certain first."""
    scores = np.asarray(found["scores"])
    chosen = []
    for place in np.argsort(scores, kind="stable").tolist():
        if scores[place] < threshold:
            continue
        label = int(found["labels"][place])
        left, top, right, bottom = np.asarray(found["boxes"][place], np.float64).tolist()
        tag = f"{classes[label]} {scores[place]:.0%}"
        mask = decode_mask(dict(found["masks"][place])) if "masks" in found else None
        chosen.append(Mark((left, top, right, bottom), tag, class_color(label), mask))
    return chosen


def draw(pixels: Pixels, chosen: Sequence[Mark]) -> Image.Image:
    """The image (H, W, 3) with its marks; small images are enlarged."""
    height, width = pixels.shape[:2]
    scale = max(1.0, SMALLEST / max(width, height))
    page = _tinted(pixels, chosen)
    if scale > 1:
        size = (round(width * scale), round(height * scale))
        page = page.resize(size, Image.Resampling.BICUBIC)
    thick = max(2, round(min(page.size) / 240))
    pen = ImageDraw.Draw(page)
    boxes = [tuple(value * scale for value in mark.box) for mark in chosen]
    for mark, box in zip(chosen, boxes, strict=True):
        left, top, right, bottom = box
        pen.rectangle(_ordered(left, top, right, bottom), outline=mark.color, width=thick)
    taken: list[TagBox] = []
    for mark, box in reversed(list(zip(chosen, boxes, strict=True))):  # surest take their place
        taken.append(_write_tag(page, pen, mark, (box[0], box[1], box[2], box[3]), taken))
    return page


def draw_classes(pixels: Pixels, classes: Pixels, names: Sequence[str]) -> Image.Image:
    """The image under its class map (H, W), above the names of the classes by their share."""
    present, counts = np.unique(classes[classes != IGNORE], return_counts=True)
    palette = np.zeros((256, 3), np.float64)
    for label in present.tolist():
        palette[label] = class_color(label)
    counted = (classes != IGNORE)[..., None]
    mixed = np.where(counted, 0.45 * pixels + 0.55 * palette[classes], pixels)
    image = Image.fromarray(mixed.round().astype(np.uint8))
    scale = max(1.0, SMALLEST / max(image.size))
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    shares = counts / max(1, counts.sum())
    rows = [
        (names[present[place]], shares[place], class_color(int(present[place])))
        for place in np.argsort(-counts, kind="stable")[:LEGEND].tolist()
    ]
    return _with_legend(image, rows)


def save_drawing(page: Image.Image, path: Path) -> None:
    """Write a PNG or JPEG, by its suffix, whole or not at all."""
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    with atomic_write(path) as temporary:
        page.save(temporary, format="JPEG" if jpeg else "PNG", **({"quality": 92} if jpeg else {}))


def _tinted(pixels: Pixels, chosen: Sequence[Mark]) -> Image.Image:
    """The image with each mask as a tint inside a line of its colour."""
    mixed = pixels.astype(np.float32)
    for mark in chosen:
        if mark.mask is None:
            continue
        inside = mark.mask.astype(bool)
        mixed[inside] = (1 - TINT) * mixed[inside] + TINT * np.array(mark.color, np.float32)
        mixed[_outline(inside)] = mark.color
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def _outline(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Pixels of a mask (H, W) with a neighbour that is not of it."""
    wide = np.pad(mask, 1)
    core = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return mask & ~core


def _write_tag(
    page: Image.Image, pen: ImageDraw.ImageDraw, mark: Mark, box: TagBox, taken: Sequence[TagBox]
) -> TagBox:
    """Write the tag where it covers others least: above the box, below it, or inside it."""
    letters, tag = TextRenderer(int(np.clip(min(page.size) / 34, 11, 30))), printable(mark.tag)
    wide, high = letters.width(tag) + 6, letters.size + 5.0
    left, top, right, bottom = _ordered(*box)
    places = ((left, top - high), (left, bottom), (left, top), (right - wide, bottom - high))
    spots = [_fitted(x, y, wide, high, page.size) for x, y in places]
    place = min(spots, key=lambda spot: sum(_shared(spot, other) for other in taken))
    pen.rectangle(place, fill=mark.color)
    bright = np.dot(mark.color, (0.299, 0.587, 0.114)) > 140
    at = (place[0] + 3, place[1] + high / 2)
    letters.draw(pen, at, tag, "black" if bright else "white", anchor="lm")
    return place


def _fitted(x: float, y: float, wide: float, high: float, page: tuple[int, int]) -> TagBox:
    """A tag at (x, y), moved as little as it takes to lie on the page."""
    x, y = max(0.0, min(x, page[0] - wide)), max(0.0, min(y, page[1] - high))
    return x, y, x + wide, y + high


def _shared(one: TagBox, other: TagBox) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, down)


def _ordered(left: float, top: float, right: float, bottom: float) -> TagBox:
    return min(left, right), min(top, bottom), max(left, right), max(top, bottom)


def _with_legend(image: Image.Image, rows: Sequence[tuple[str, float, Color]]) -> Image.Image:
    letters, high, wide = TextRenderer(14), 22, 210
    columns = max(1, image.width // wide)
    lines = -(-len(rows) // columns)
    page = Image.new("RGB", (image.width, image.height + lines * high + 10), "white")
    page.paste(image, (0, 0))
    pen = ImageDraw.Draw(page)
    for number, (name, share, color) in enumerate(rows):
        x = 8 + number % columns * wide
        y = image.height + 6 + number // columns * high
        pen.rectangle((x, y + 3, x + 14, y + 17), fill=color)
        message = f"{share:.0%}" if share >= 0.005 else "<1%"
        letters.draw(pen, (x + 20, y + 10), f"{printable(name)} {message}", "#1f2933", anchor="lm")
    return page
