"""Draw boxes, masks, labels and scores on images."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from resnets.detect.data.class_maps import IGNORE
from resnets.detect.data.masks import decode_mask
from resnets.detect.data.types import Detections, Pixels
from resnets.evaluate.figures.fonts import TextRenderer
from resnets.utils.files.write import atomic_write
from resnets.utils.printable import printable

Color = tuple[int, int, int]
TagBox = tuple[float, float, float, float]
MIN_SIDE = 640  # px; smaller images are enlarged, so that labels do not cover them
TINT = 0.45  # opacity of masks
GOLDEN_RATIO = 0.618033988749895
MAX_LEGEND = 24  # classes in the legend of a class map


@dataclass(frozen=True, eq=False)
class DrawnObject:
    """An object to draw: box in px of the image, label, color, and mask (H, W) or None."""

    box: tuple[float, float, float, float]
    tag: str
    color: Color
    mask: Pixels | None = None


def class_color(label: int) -> Color:
    """Return the color of a class; it is constant, and consecutive classes differ most."""
    hue = (0.02 + label * GOLDEN_RATIO) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.80 - 0.25 * (label % 3 == 2), 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def drawn_objects(found: Detections, classes: Sequence[str], threshold: float) -> list[DrawnObject]:
    """Return the drawing of detections with a score of at least `threshold`, lowest score first."""
    scores = np.asarray(found["scores"])
    objects = []
    for index in np.argsort(scores, kind="stable").tolist():
        if scores[index] < threshold:
            continue
        label = int(found["labels"][index])
        left, top, right, bottom = np.asarray(found["boxes"][index], np.float64).tolist()
        tag = f"{classes[label]} {scores[index]:.0%}"
        mask = decode_mask(dict(found["masks"][index])) if "masks" in found else None
        objects.append(DrawnObject((left, top, right, bottom), tag, class_color(label), mask))
    return objects


def draw(pixels: Pixels, objects: Sequence[DrawnObject]) -> Image.Image:
    """Draw objects on an image (H, W, 3); small images are enlarged."""
    height, width = pixels.shape[:2]
    scale = max(1.0, MIN_SIDE / max(width, height))
    page = _tint_masks(pixels, objects)
    if scale > 1:
        size = (round(width * scale), round(height * scale))
        page = page.resize(size, Image.Resampling.BICUBIC)
    line_width = max(2, round(min(page.size) / 240))
    pen = ImageDraw.Draw(page)
    boxes = [tuple(value * scale for value in drawn.box) for drawn in objects]
    for drawn, box in zip(objects, boxes, strict=True):
        left, top, right, bottom = box
        pen.rectangle(
            _sort_corners(left, top, right, bottom), outline=drawn.color, width=line_width
        )
    tag_boxes: list[TagBox] = []
    for drawn, box in reversed(list(zip(objects, boxes, strict=True))):  # the highest scores first
        tag_boxes.append(_write_tag(page, pen, drawn, (box[0], box[1], box[2], box[3]), tag_boxes))
    return page


def draw_classes(pixels: Pixels, classes: Pixels, names: Sequence[str]) -> Image.Image:
    """Draw a class map (H, W) over its image, above a legend of its classes by area."""
    present, counts = np.unique(classes[classes != IGNORE], return_counts=True)
    palette = np.zeros((256, 3), np.float64)
    for label in present.tolist():
        palette[label] = class_color(label)
    is_counted = (classes != IGNORE)[..., None]
    blended = np.where(is_counted, 0.45 * pixels + 0.55 * palette[classes], pixels)
    image = Image.fromarray(blended.round().astype(np.uint8))
    scale = max(1.0, MIN_SIDE / max(image.size))
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    shares = counts / max(1, counts.sum())
    rows = [
        (names[present[index]], shares[index], class_color(int(present[index])))
        for index in np.argsort(-counts, kind="stable")[:MAX_LEGEND].tolist()
    ]
    return _add_legend(image, rows)


def save_drawing(page: Image.Image, path: Path) -> None:
    """Write a PNG or JPEG, by its suffix, atomically."""
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    with atomic_write(path) as temporary:
        page.save(temporary, format="JPEG" if jpeg else "PNG", **({"quality": 92} if jpeg else {}))


def _tint_masks(pixels: Pixels, objects: Sequence[DrawnObject]) -> Image.Image:
    """Return the image with each mask tinted, and its edge drawn, in its color."""
    blended = pixels.astype(np.float32)
    for drawn in objects:
        if drawn.mask is None:
            continue
        inside = drawn.mask.astype(bool)
        blended[inside] = (1 - TINT) * blended[inside] + TINT * np.array(drawn.color, np.float32)
        blended[_mask_edge(inside)] = drawn.color
    return Image.fromarray(blended.round().clip(0, 255).astype(np.uint8))


def _mask_edge(mask: np.ndarray[Any, np.dtype[np.bool_]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return the pixels of a mask (H, W) that have a neighbor outside it."""
    padded = np.pad(mask, 1)
    interior = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~interior


def _write_tag(
    page: Image.Image,
    pen: ImageDraw.ImageDraw,
    drawn: DrawnObject,
    box: TagBox,
    tag_boxes: Sequence[TagBox],
) -> TagBox:
    """Write the label above, below or inside the box, where it covers other labels least."""
    renderer, tag = TextRenderer(int(np.clip(min(page.size) / 34, 11, 30))), printable(drawn.tag)
    width, height = renderer.width(tag) + 6, renderer.size + 5.0
    left, top, right, bottom = _sort_corners(*box)
    corners = ((left, top - height), (left, bottom), (left, top), (right - width, bottom - height))
    boxes = [_fit_on_page(x, y, width, height, page.size) for x, y in corners]
    best = min(boxes, key=lambda each: sum(_overlap_area(each, other) for other in tag_boxes))
    pen.rectangle(best, fill=drawn.color)
    bright = np.dot(drawn.color, (0.299, 0.587, 0.114)) > 140
    anchor_point = (best[0] + 3, best[1] + height / 2)
    renderer.draw(pen, anchor_point, tag, "black" if bright else "white", anchor="lm")
    return best


def _fit_on_page(x: float, y: float, width: float, height: float, page: tuple[int, int]) -> TagBox:
    """Return the box of a label at (x, y), moved onto the page."""
    x, y = max(0.0, min(x, page[0] - width)), max(0.0, min(y, page[1] - height))
    return x, y, x + width, y + height


def _overlap_area(a: TagBox, b: TagBox) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def _sort_corners(left: float, top: float, right: float, bottom: float) -> TagBox:
    return min(left, right), min(top, bottom), max(left, right), max(top, bottom)


def _add_legend(image: Image.Image, rows: Sequence[tuple[str, float, Color]]) -> Image.Image:
    renderer, row_height, column_width = TextRenderer(14), 22, 210
    columns = max(1, image.width // column_width)
    lines = -(-len(rows) // columns)
    page = Image.new("RGB", (image.width, image.height + lines * row_height + 10), "white")
    page.paste(image, (0, 0))
    pen = ImageDraw.Draw(page)
    for number, (name, share, color) in enumerate(rows):
        x = 8 + number % columns * column_width
        y = image.height + 6 + number // columns * row_height
        pen.rectangle((x, y + 3, x + 14, y + 17), fill=color)
        message = f"{share:.0%}" if share >= 0.005 else "<1%"
        renderer.draw(pen, (x + 20, y + 10), f"{printable(name)} {message}", "#1f2933", anchor="lm")
    return page
