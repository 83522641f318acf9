"""Parsing of single entries of COCO's `annotations` and `images`."""

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

SAMPLE = 500  # number of boxes that are examined to infer their form
NAME_KEYS = ("file_name", "filename", "path", "coco_url")
MAX_LETTERS = 80  # letters of a value in a message


def read_object(
    entry: dict[str, Any],
    number: int,
    label_of: dict[int, int],
    names: dict[int, str],
    masks: bool,
) -> tuple[RawObject, bool]:
    """Parse an annotation; also return whether its box has a negative side.

    Values that are missing or of a wrong type become NaN, -1 or flaws, which the check reports.
    """
    category_id = entry.get("category_id")
    category = read_id(category_id)
    bbox = read_box(entry.get("bbox"))
    left, top, width, height = bbox
    right, bottom = left + width, top + height
    has_negative_side = width < 0 or height < 0
    if has_negative_side:
        left, right = min(left, right), max(left, right)
        top, bottom = min(top, bottom), max(top, bottom)
    area = read_number(entry.get("area"))
    crowd, difficult = read_flag(entry.get("iscrowd")), read_flag(entry.get("difficult"))
    flaws: tuple[Flaw, ...] = ()
    if crowd is None or difficult is None:
        key = "iscrowd" if crowd is None else "difficult"
        flaws = (Flaw("value", f"its {key} {entry[key]!r} is neither yes nor no"),)
    if not all(map(math.isfinite, bbox)):
        message = f"its bbox {_format_bbox(entry)} is not four numbers x, y, width, height"
        flaws = (*flaws, Flaw("no number", message))
    outline = _parse_segmentation(entry.get("segmentation")) if masks else None
    raw_object = RawObject(
        item=f"annotation {entry.get('id', f'number {number}')}",
        label=label_of.get(category, -1) if isinstance(category, int) else -1,
        category=str(names.get(category, category_id))
        if isinstance(category, int)
        else repr(category_id),
        box=(left, top, right, bottom),
        area=area if area > 0 else None,
        crowd=bool(crowd),
        difficult=bool(difficult),  # in repaired VOC sets
        segmentation=outline,
        number=number,
        flaws=flaws,
    )
    return raw_object, has_negative_side


def has_corner_boxes(document: dict[str, Any]) -> bool:
    """Return whether boxes are written as two corners, judged by a sample.

    They are if nearly all are valid as corners, and the stated areas or outlines agree with that;
    without areas and outlines, if at least half of the boxes would pass the edge of their image
    otherwise.
    """
    annotations = document["annotations"]
    entry_of_image = {read_id(each.get("id")): each for each in document["images"]}
    corners = sides = beyond = num_examined = invalid = 0
    for entry in annotations[:: max(1, len(annotations) // SAMPLE)]:
        x, y, x2, y2 = read_box(entry.get("bbox"))
        if not (x2 > x >= 0 and y2 > y >= 0):
            invalid += 1
            continue
        if x + y == 0:
            continue
        num_examined += 1
        image = entry_of_image.get(read_id(entry.get("image_id")), {})
        beyond += (
            x + x2 > read_side(image.get("width")) + 1
            or y + y2 > read_side(image.get("height")) + 1
        )
        area = read_number(entry.get("area"))
        bounds = _polygon_bounds(entry.get("segmentation"))
        if bounds is not None:
            corners += _is_close(bounds, (x, y, x2, y2)) and not _is_close(
                bounds, (x, y, x + x2, y + y2)
            )
            sides += _is_close(bounds, (x, y, x + x2, y + y2))
        elif area > 0:
            corners += abs(area - (x2 - x) * (y2 - y)) < 0.02 * area
            sides += abs(area - x2 * y2) < 0.02 * area
    if 10 * invalid > num_examined + invalid or 10 * sides > corners:
        return False
    return num_examined > 0 and (corners > 0 or 2 * beyond >= num_examined > 1)


def is_rotated(entry: dict[str, Any]) -> bool:
    """Return whether a box is rotated, as CVAT's COCO files specify it."""
    attributes = entry.get("attributes")
    rotation = read_number(attributes.get("rotation")) if isinstance(attributes, dict) else 0.0
    return math.isfinite(rotation) and rotation % 360 != 0


def image_file_name(entry: dict[str, Any]) -> str:
    """Return the file name of an image entry: `file_name`, or the fields of tools that omit it."""
    for key in NAME_KEYS:
        name = entry.get(key)
        if name := name if isinstance(name, str) else read_name(name):
            return name
    return ""


def repeated_id_flaw(entry: dict[str, Any], first: dict[str, Any]) -> Flaw:
    """Return the flaw of the second of two objects with one id."""
    keys = ("image_id", "category_id", "bbox", "segmentation")
    if all(entry.get(key) == first.get(key) for key in keys):
        return Flaw("duplicate", "occurs twice with equal values")
    return Flaw(ID_TWICE, "id occurs twice")


def _is_close(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(abs(x - y) <= 2 for x, y in zip(a, b, strict=True))


def _polygon_bounds(outline: Any) -> tuple[float, float, float, float] | None:
    """Return the bounding box of polygons; None for anything else."""
    if not isinstance(outline, list) or not outline or not all(map(_is_flat, outline)):
        return None
    values = [[read_number(each) for each in points] for points in outline]
    across = [each for points in values for each in points[::2]]
    down = [each for points in values for each in points[1::2]]
    if not across or not down:
        return None
    return min(across), min(down), max(across), max(down)


def _format_bbox(entry: dict[str, Any]) -> str:
    """Format the bbox as in the file, shortened; "(missing)" if there is none."""
    if "bbox" not in entry:
        return "(missing)"
    text = json.dumps(entry["bbox"], ensure_ascii=False)
    return text if len(text) <= MAX_LETTERS else f"{text[:MAX_LETTERS]}..."


def _parse_segmentation(value: Any) -> Any:
    """Convert polygons to arrays, a third of the memory; other values are returned unchanged."""
    if not isinstance(value, list):
        return value or None
    value = [points for points in value if points != []]
    if value and (_is_flat(value) or all(map(_is_pair, value))):
        value = [value]  # a single polygon without the outer list
    value = [_flatten_pairs(points) for points in value]
    arrays = [np.asarray(p) if _is_flat(p) else p for p in value]
    return [p.astype(np.float64) if _is_numeric(p) else p for p in arrays] or None


def _is_pair(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and _is_flat(point)


def _flatten_pairs(points: Any) -> Any:
    """Convert corners [[x, y], [x, y], ...] to x, y, x, y, ...; other values stay unchanged."""
    if isinstance(points, list) and points and all(map(_is_pair, points)):
        return [each for pair in points for each in pair]
    return points


def _is_flat(points: Any) -> bool:
    return isinstance(points, list) and not any(isinstance(each, list | dict) for each in points)


def _is_numeric(points: Any) -> bool:
    return isinstance(points, np.ndarray) and points.dtype.kind in "iuf"


def to_result_id(value: Any) -> int | str:
    """Return an id as written in result files: text stays text, whole numbers become int."""
    return int(value) if isinstance(value, float) else value
