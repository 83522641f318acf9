"""Boxes, polygons and areas of the shapes of annotation tools.

Corners are arrays (N, 2) of x and y in px.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.data.decode.open_image import MAX_PIXELS
from resnets.detect.data.masks import encode_run_lengths
from resnets.detect.data.values import NAN, Box, read_name
from resnets.detect.formats.records import Flaw, RawObject

Corners = NDArray[np.float64]
Geometry = tuple[Box, Any, float | None]  # box, COCO segmentation, area in px
CIRCLE_CORNERS = 48  # of the polygon that approximates a circle


def bounding_box(parts: Sequence[Corners]) -> Box:
    """Return the bounding box of all corners; NaN if one is not finite."""
    corners = np.concatenate(list(parts)) if parts else np.zeros((0, 2))
    if not len(corners) or not np.isfinite(corners).all():
        return (NAN, NAN, NAN, NAN)
    left, top = corners.min(0).tolist()
    right, bottom = corners.max(0).tolist()
    return left, top, right, bottom


def polygon_area(parts: Sequence[Corners]) -> float | None:
    """Return the area in px of polygons that do not overlap; None if it is zero or not finite."""
    total = 0.0
    for corners in parts:
        x, y = corners[:, 0], corners[:, 1]
        total += abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
    return total / 2 if math.isfinite(total) and total > 0 else None


def to_coco_polygons(parts: Sequence[Corners]) -> list[Any]:
    """Return polygons as COCO writes them: x, y, x, y, ..."""
    return [corners.reshape(-1) for corners in parts]


def ellipse_corners(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> Corners:
    """Return a polygon that approximates an ellipse with center (x, y), rotated clockwise."""
    angle = np.linspace(0, 2 * math.pi, CIRCLE_CORNERS, endpoint=False)
    corners = np.stack((rx * np.cos(angle), ry * np.sin(angle)), 1)
    return rotate_corners(corners, 0.0, 0.0, degrees) + np.array([x, y])


def rectangle_corners(left: float, top: float, right: float, bottom: float) -> Corners:
    """Return the four corners of a box."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)


def rotate_corners(corners: Corners, x: float, y: float, degrees: float) -> Corners:
    """Rotate corners clockwise (as seen, y down) about (x, y)."""
    angle = math.radians(degrees)
    turn = np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
    return (corners - (x, y)) @ turn + (x, y)


def encode_placed_mask(mask: NDArray[Any], left: int, top: int, height: int, width: int) -> Any:
    """Encode a mask (h, w) at (left, top) of an image of height x width as COCO's run lengths.

    ValueError if it is not within the image.
    """
    high, wide = mask.shape
    if height * width > MAX_PIXELS:
        raise ValueError(f"is for an image of {width}x{height}, larger than any image")
    if left < 0 or top < 0 or top + high > height or left + wide > width:
        raise ValueError(f"of {wide}x{high} px at ({left}, {top}) passes the edge")
    placed = np.zeros((height, width), np.bool_)
    placed[top : top + high, left : left + wide] = mask
    return encode_run_lengths(placed)


def placed_mask_box(mask: NDArray[Any], left: int, top: int) -> Box:
    """Return the bounding box of a mask (h, w) at (left, top); NaN if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (NAN, NAN, NAN, NAN)
    x1, x2 = left + int(columns[0]), left + int(columns[-1]) + 1
    return float(x1), float(top + int(rows[0])), float(x2), float(top + int(rows[-1]) + 1)


def parse_shape(
    kind: str, parse: Callable[[], Geometry], label: Any, number: int, label_of: Mapping[str, int]
) -> RawObject:
    """Shape `number` of an image as an object of the class `label`, with a flaw if `read` fails."""
    name = read_name(label)
    flaws: tuple[Flaw, ...] = ()
    box: Box = (NAN, NAN, NAN, NAN)
    outline: Any = None
    area = None
    try:
        box, outline, area = parse()
    except ValueError as error:  # DataError is one
        flaws = (Flaw("no number", f"its {kind} {error}"),)
    return RawObject(
        item=f"shape {number + 1}",
        label=label_of.get(name, -1),
        category=name or "(no label)",
        box=box,
        area=area,
        segmentation=outline,
        number=number,
        flaws=flaws,
    )
