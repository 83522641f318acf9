"""Entries of `annotations` and `images` as COCO's files spell them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from resnets.detect.data.values import (
    read_box,
    read_flag,
    read_id,
    read_name,
    read_number,
    read_side,
)
from resnets.detect.formats.records import ID_TWICE, Flaw, RawObject

SAMPLE = 500  # boxes that are looked at to tell their form
NAME_KEYS = ("file_name", "filename", "path", "coco_url")
SHOWN = 80  # letters of a value in a message


def read_object(
    entry: dict[str, Any],
    number: int,
    label_of: dict[int, int],
    names: dict[int, str],
    masks: bool,
) -> tuple[RawObject, bool]:
    """An object, and whether its box has a negative side.

    Values that are missing or of a wrong type become NaN, -1 or flaws, which the check names.
    """
    stated = entry.get("category_id")
    category = read_id(stated)
    bbox = read_box(entry.get("bbox"))
    left, top, width, height = bbox
    right, bottom = left + width, top + height
    turned = width < 0 or height < 0
    if turned:
        left, right = min(left, right), max(left, right)
        top, bottom = min(top, bottom), max(top, bottom)
    area = read_number(entry.get("area"))
    crowd, difficult = read_flag(entry.get("iscrowd")), read_flag(entry.get("difficult"))
    flaws: tuple[Flaw, ...] = ()
    if crowd is None or difficult is None:
        key = "iscrowd" if crowd is None else "difficult"
        flaws = (Flaw("value", f"its {key} {entry[key]!r} is neither yes nor no"),)
    if not all(map(math.isfinite, bbox)):
        message = f"its bbox {_shown(entry)} is not four numbers x, y, width, height"
        flaws = (*flaws, Flaw("no number", message))
    outline = _outline(entry.get("segmentation")) if masks else None
    found = RawObject(
        item=f"annotation {entry.get('id', f'number {number}')}",
        label=label_of.get(category, -1) if isinstance(category, int) else -1,
        category=str(names.get(category, stated)) if isinstance(category, int) else repr(stated),
        box=(left, top, right, bottom),
        area=area if area > 0 else None,
        crowd=bool(crowd),
        difficult=bool(difficult),  # as our repaired VOC sets have it
        segmentation=outline,
        number=number,
        flaws=flaws,
        bare=outline is None,
    )
    return found, turned


def are_corners(document: dict[str, Any]) -> bool:
    """Whether boxes are written as two corners, by a sample of them.

    Nearly all are valid so, and the stated areas or outlines are those of such boxes; where neither
    is stated, half of the boxes at least would pass the edge of their image otherwise.
    """
    annotations = document["annotations"]
    sizes = {read_id(each.get("id")): each for each in document["images"]}
    corners = sides = beyond = looked = invalid = 0
    for entry in annotations[:: max(1, len(annotations) // SAMPLE)]:
        x, y, z, w = read_box(entry.get("bbox"))
        if not (z > x >= 0 and w > y >= 0):
            invalid += 1
            continue
        if x + y == 0:
            continue
        looked += 1
        size = sizes.get(read_id(entry.get("image_id")), {})
        beyond += (
            x + z > read_side(size.get("width")) + 1 or y + w > read_side(size.get("height")) + 1
        )
        area, around = read_number(entry.get("area")), _bounds(entry.get("segmentation"))
        if around is not None:
            corners += _near(around, (x, y, z, w)) and not _near(around, (x, y, x + z, y + w))
            sides += _near(around, (x, y, x + z, y + w))
        elif area > 0:
            corners += abs(area - (z - x) * (w - y)) < 0.02 * area
            sides += abs(area - z * w) < 0.02 * area
    if 10 * invalid > looked + invalid or 10 * sides > corners:
        return False
    return looked > 0 and (corners > 0 or 2 * beyond >= looked > 1)


def is_rotated(entry: dict[str, Any]) -> bool:
    """Whether a box is rotated, as CVAT's COCO files state it."""
    attributes = entry.get("attributes")
    rotation = read_number(attributes.get("rotation")) if isinstance(attributes, dict) else 0.0
    return math.isfinite(rotation) and rotation % 360 != 0


def file_name(entry: dict[str, Any]) -> str:
    """The name of an image's file: `file_name`, or what tools write that leave it out."""
    for key in NAME_KEYS:
        name = entry.get(key)
        if name := name if isinstance(name, str) else read_name(name):
            return name
    return ""


def repeated_id(entry: dict[str, Any], twin: dict[str, Any]) -> Flaw:
    """What is wrong with the second of two objects of one id."""
    keys = ("image_id", "category_id", "bbox", "segmentation")
    if all(entry.get(key) == twin.get(key) for key in keys):
        return Flaw("duplicate", "occurs twice, all values alike")
    return Flaw(ID_TWICE, "id occurs twice")


def _near(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= 2 for a, b in zip(one, other, strict=True))


def _bounds(outline: Any) -> tuple[float, float, float, float] | None:
    """The box around polygons; None for all else."""
    if not isinstance(outline, list) or not outline or not all(map(_is_flat, outline)):
        return None
    values = [[read_number(each) for each in points] for points in outline]
    across = [each for points in values for each in points[::2]]
    down = [each for points in values for each in points[1::2]]
    if not across or not down:
        return None
    return min(across), min(down), max(across), max(down)


def _shown(entry: dict[str, Any]) -> str:
    """The bbox as the file has it, shortened; "is missing" where there is none."""
    if "bbox" not in entry:
        return "(missing)"
    text = json.dumps(entry["bbox"], ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _outline(value: Any) -> Any:
    """A segmentation with its polygons as arrays, a third of the memory; bad ones as they are."""
    if not isinstance(value, list):
        return value or None
    value = [points for points in value if points != []]
    if value and (_is_flat(value) or all(map(_is_pair, value))):
        value = [value]  # one polygon that is not in a list of its own
    value = [_flattened(points) for points in value]
    arrays = [np.asarray(p) if _is_flat(p) else p for p in value]
    return [p.astype(np.float64) if _is_numeric(p) else p for p in arrays] or None


def _is_pair(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and _is_flat(point)


def _flattened(points: Any) -> Any:
    """Corners [[x, y], [x, y], ...] as x, y, x, y, ...; all else as it is."""
    if isinstance(points, list) and points and all(map(_is_pair, points)):
        return [each for pair in points for each in pair]
    return points


def _is_flat(points: Any) -> bool:
    return isinstance(points, list) and not any(isinstance(each, list | dict) for each in points)


def _is_numeric(points: Any) -> bool:
    return isinstance(points, np.ndarray) and points.dtype.kind in "iuf"


def stated_id(value: Any) -> int | str:
    """An id as results are to spell it: text stays text, whole numbers are numbers."""
    return int(value) if isinstance(value, float) else value
