"""Shapes as annotation tools draw them, to boxes and outlines; corners are (N, 2) x, y in px."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.data.decode.open_image import MAX_PIXELS
from resnets.detect.data.values import NAN, Box, read_name
from resnets.detect.formats.records import Flaw, RawObject

Corners = NDArray[np.float64]
Read = tuple[Box, Any, float | None]  # a box, its outline and its area in px
AROUND = 48  # corners of a polygon that stands for a circle


def box_around(parts: Sequence[Corners]) -> Box:
    """The box around all corners; NaN where one is no number."""
    corners = np.concatenate(list(parts)) if parts else np.zeros((0, 2))
    if not len(corners) or not np.isfinite(corners).all():
        return (NAN, NAN, NAN, NAN)
    left, top = corners.min(0).tolist()
    right, bottom = corners.max(0).tolist()
    return left, top, right, bottom


def area_of(parts: Sequence[Corners]) -> float | None:
    """Area in px of polygons that do not overlap; None where there is none."""
    total = 0.0
    for corners in parts:
        across, down = corners[:, 0], corners[:, 1]
        total += abs(float(np.dot(across, np.roll(down, -1)) - np.dot(down, np.roll(across, -1))))
    return total / 2 if math.isfinite(total) and total > 0 else None


def flat(parts: Sequence[Corners]) -> list[Any]:
    """Polygons as COCO writes them, x and y by turns."""
    return [corners.reshape(-1) for corners in parts]


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> Corners:
    """A polygon around the ellipse about (x, y), turned clockwise."""
    angle = np.linspace(0, 2 * math.pi, AROUND, endpoint=False)
    corners = np.stack((rx * np.cos(angle), ry * np.sin(angle)), 1)
    return turned(corners, 0.0, 0.0, degrees) + np.array([x, y])


def rectangle(left: float, top: float, right: float, bottom: float) -> Corners:
    """The four corners of a box."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)


def turned(corners: Corners, x: float, y: float, degrees: float) -> Corners:
    """Corners turned clockwise (as seen, y down) about (x, y)."""
    angle = math.radians(degrees)
    turn = np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
    return (corners - (x, y)) @ turn + (x, y)


def mask_outline(mask: NDArray[Any], left: int, top: int, height: int, width: int) -> Any:
    """Run lengths, COCO's, of a mask (h, w) at (left, top) of an image of height x width.

    ValueError where it does not lie within the image.
    """
    high, wide = mask.shape
    if height * width > MAX_PIXELS:
        raise ValueError(f"is for an image of {width}x{height}, which none is")
    if left < 0 or top < 0 or top + high > height or left + wide > width:
        raise ValueError(f"of {wide}x{high} px at ({left}, {top}) passes the edge")
    whole = np.zeros((height, width), np.bool_)
    whole[top : top + high, left : left + wide] = mask
    columns = whole.T.reshape(-1)
    edges = np.flatnonzero(np.diff(columns)) + 1
    bounds = np.concatenate(([0], edges, [len(columns)]))
    counts = np.diff(bounds).tolist()
    return {"size": [height, width], "counts": [0, *counts] if columns[:1].any() else counts}


def mask_box(mask: NDArray[Any], left: int, top: int) -> Box:
    """The box around the pixels of a mask that are set; NaN where none is."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (NAN, NAN, NAN, NAN)
    x1, x2 = left + int(columns[0]), left + int(columns[-1]) + 1
    return float(x1), float(top + int(rows[0])), float(x2), float(top + int(rows[-1]) + 1)


def shape_object(
    kind: str, read: Callable[[], Read], label: Any, number: int, label_of: Mapping[str, int]
) -> RawObject:
    """Shape `number` of an image as an object of the class `label`, with a flaw if `read` fails."""
    name = read_name(label)
    flaws: tuple[Flaw, ...] = ()
    box: Box = (NAN, NAN, NAN, NAN)
    outline: Any = None
    area = None
    try:
        box, outline, area = read()
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
        bare=outline is None,
    )
