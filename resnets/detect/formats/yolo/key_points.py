"""Whether lines that could be outlines are boxes with key points, whose number is not stated.

YOLO's pose labels are a box (center, width, height) and points of two or three values. Without
`kpt_shape` in data.yaml an even number of values reads as an outline.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

FEWEST, FEWEST_VISIBLE = 10, 3  # lines that tell, of points of two and of three values
NEARLY_ALL = 0.98
SLACK = 0.15  # of a box's sides, by which points may lie outside
EDGE = 0.01  # share of an image's sides by which boxes may pass its edge

Rows = NDArray[np.float64]


def pose_form(lines: Iterable[Rows]) -> str:
    """Why the values of all `lines`, read as outlines, are boxes with key points; "" = no.

    All have as many values, their first four are boxes within the image, and the points lie in
    them, or have 0, 1 or 2 (visible) as every third value. Rectangles of four corners do neither
    where objects lie in the lower right.
    """
    values = list(lines)
    if len(values) < FEWEST_VISIBLE or len({len(line) for line in values}) > 1:
        return ""
    rows = np.stack(values)
    found = len(rows) >= FEWEST and not _parallel(rows) and _in_boxes(rows, 2)
    if rows.shape[1] % 3 == 1 and np.isin(rows[:, 6::3], (0, 1, 2)).all():
        found = found or _in_boxes(rows, 3)
    if not found:
        return ""
    return (
        f"all {len(rows):,} outlines have {rows.shape[1]} values, and read as a box with key points"
        " these lie in the box; write kpt_shape: [points, values of each] into data.yaml, or"
        " kpt_shape: [0, 0] where they are outlines"
    )


def _in_boxes(rows: Rows, size: int) -> bool:
    """Whether points of `size` values, but those at 0, lie in the box before them, in the image."""
    center, sides = rows[:, None, :2], rows[:, None, 2:4]
    points = rows[:, 4:].reshape(len(rows), -1, size)[..., :2]
    inside = (np.abs(points - center) <= (0.5 + SLACK) * sides + EDGE).all(-1)
    inside |= (points == 0).all(-1)
    within = np.abs(center - 0.5) + sides / 2 <= 0.5 + EDGE
    return bool(inside.mean() >= NEARLY_ALL and within.mean() >= NEARLY_ALL)


def _parallel(rows: Rows) -> bool:
    """Whether nearly all are four corners of a parallelogram, as turned boxes are written."""
    if rows.shape[1] != 8:
        return False
    corners = rows.reshape(-1, 4, 2)
    off = np.abs(corners[:, 0] + corners[:, 2] - corners[:, 1] - corners[:, 3]).max(-1)
    return bool((off <= EDGE).mean() >= NEARLY_ALL)
