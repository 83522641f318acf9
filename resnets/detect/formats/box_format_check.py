"""Detect boxes and segmentations that are in another form than the one they are read in.

A single box beyond the edge is a mistake in one annotation. Many of them are boxes in another form
(two corners for x, y, width, height; corners for a center) or for images of another size. Then
no box is read correctly, even if it happens to fit, and all objects get a flaw of kind FORM.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from resnets.detect.data.masks import outline_box
from resnets.detect.data.transforms import box_iou
from resnets.detect.data.values import Box
from resnets.detect.formats.records import Flaw, Problem, RawImage, RawImageSet, RawObject

FORM = "box form"
MAX_BEYOND = 0.2  # fraction of boxes that may pass the edge
NEARLY_ALL = 0.9
MIN_BOXES, MIN_IMAGES = 10, 3  # needed for a warning on the extent of boxes
PERCENT_RANGE = (90.0, 100.5)  # px, range of the largest coordinate if boxes are in percent
EDGE_TOLERANCE = 0.005  # of the longer side: normalized boxes of few digits may pass the edge


def flag_wrong_box_form(image_set: RawImageSet) -> RawImageSet:
    """Add a flaw to every object of the image set if over a fifth of the boxes exceed the image."""
    images_with_size = [each for each in image_set.images if each.width > 0 and each.height > 0]
    boxes = [(o.box, each) for each in images_with_size for o in each.objects if _finite(o.box)]
    beyond = sum(_passes_edge(box, image) for box, image in boxes)
    if beyond < 2 or beyond <= MAX_BEYOND * len(boxes):
        return image_set
    message = (
        f"{beyond:,} of the set's {len(boxes):,} boxes pass the edge of their image;"
        f" {_describe_likely_form(boxes)}"
    )
    images = [
        replace(image, objects=tuple(add_form_flaw(image.objects, message)))
        for image in image_set.images
    ]
    return replace(image_set, images=images)


def find_extent_warnings(images: Sequence[RawImage]) -> list[str]:
    """Return a warning if all boxes are in the upper left part of larger images.

    This happens with boxes in percent of the sides, and with images that were enlarged afterwards.
    Boxes within one pixel are found by `problems.flag_normalized_boxes`.
    """
    images_with_size = [each for each in images if each.width > 0 and each.height > 0]
    boxes = [(o.box, each) for each in images_with_size for o in each.objects if _finite(o.box)]
    images_with_boxes = {id(each) for _, each in boxes}
    if len(boxes) < MIN_BOXES or len(images_with_boxes) < MIN_IMAGES:
        return []
    right, bottom = (max(box[edge] for box, _ in boxes) for edge in (2, 3))
    low, high = PERCENT_RANGE
    shortest_side = min(min(each.width, each.height) for _, each in boxes)
    if low <= min(right, bottom) <= max(right, bottom) <= high and shortest_side > 1.2 * high:
        return [
            f"none of the {len(boxes):,} boxes passes {high:.0f} px in images of {shortest_side:,}"
            " px and more: they seem to be in percent of the sides; write them in pixels if so"
        ]
    x_extent = max(box[2] / each.width for box, each in boxes)
    y_extent = max(box[3] / each.height for box, each in boxes)
    if max(x_extent, y_extent) > 0.5 or right <= 1 or bottom <= 1:
        return []
    return [
        f"all {len(boxes):,} boxes lie in the upper left quarter of their images (up to"
        f" {x_extent:.0%} of the width, {y_extent:.0%} of the height): they seem to be for images"
        " of another size, or in other units than pixels"
    ]


def add_form_flaw(objects: Iterable[RawObject], message: str) -> Iterator[RawObject]:
    """Yield the objects, each with a flaw `message` that its box is in another form, unless ""."""
    for each in objects:
        unchanged = not message or any(flaw.kind == FORM for flaw in each.flaws)
        yield each if unchanged else replace(each, flaws=(*each.flaws, Flaw(FORM, message)))


def explain_swapped_corners(corners: Sequence[Box], sizes: Sequence[tuple[int, int]]) -> str:
    """Return why boxes (x1, y1, x2, y2) are not two corners, "" if they are.

    They are not if some are in reverse order, and either most are, or nearly all fit in their image
    (width, height; 0 = unknown) as x, y, width, height. Otherwise a few were drawn from the lower
    right corner.
    """
    pairs = zip(corners, sizes, strict=True)
    finite = [(box, size) for box, size in pairs if _finite(box)]
    num_swapped = sum(box[2] < box[0] or box[3] < box[1] for box, _ in finite)
    fits = sum(
        min(x, y) >= 0 < min(w, h) and x + w <= width + 1 and y + h <= height + 1
        for (x, y, w, h), (width, height) in finite
        if min(width, height) > 0
    )
    fit_as_sides = fits >= NEARLY_ALL * len(finite)
    if not num_swapped or (2 * num_swapped <= len(finite) and not fit_as_sides):
        return ""
    likely = "x, y, width, height fit" if fit_as_sides else "x, y, width, height may be meant"
    return (
        f"{num_swapped:,} of the set's {len(finite):,} boxes have their corners swapped; {likely}"
    )


def list_form_problems(images: Iterable[RawImage]) -> list[Problem]:
    """Return one problem per kind of wrong form, with the number of its objects."""
    where_of: dict[str, str] = {}
    counts: dict[str, int] = {}
    for image in images:
        for each in image.objects:
            for flaw in each.flaws:
                if flaw.kind == FORM:
                    where_of.setdefault(flaw.message, image.where)
                    counts[flaw.message] = counts.get(flaw.message, 0) + 1
    return [
        Problem(where, "", FORM, f"{message}; {counts[message]:,} objects are excluded")
        for message, where in where_of.items()
    ]


def _finite(box: Box) -> bool:
    return all(map(math.isfinite, box))


def _passes_edge(box: Box, image: RawImage) -> bool:
    left, top, right, bottom = box
    slack = max(1.0, EDGE_TOLERANCE * max(image.width, image.height))
    return max(-left, -top, right - image.width, bottom - image.height) > slack


def _describe_likely_form(boxes: Sequence[tuple[Box, RawImage]]) -> str:
    """Return the form in which nearly all boxes would fit, for messages."""
    from_corner = from_center = 0
    for (left, top, right, bottom), image in boxes:
        width, height = right - left, bottom - top
        if width <= image.width + 1 and height <= image.height + 1:
            from_corner += width >= left >= 0 and height >= top >= 0
            from_center += width >= (left + right) / 2 >= 0 and height >= (top + bottom) / 2 >= 0
    if max(from_corner, from_center) >= NEARLY_ALL * len(boxes):
        return "their numbers fit as two corners (x1, y1, x2, y2)"
    return "they are in another form than it is read in, or for images of another size"


# Of a box and the bounding box of its outline; small objects lose some by rounding.
MIN_OUTLINE_IOU = 0.7


def find_outline_warnings(images: Sequence[RawImage]) -> list[str]:
    """Return a warning that counts the objects whose segmentation does not agree with their box.

    images: checked ones, whose segmentations can be drawn. Crowds are excluded.
    """
    outlined, wrong, first = 0, 0, ""
    for image in images:
        for each in image.objects:
            if each.segmentation is None or each.crowd:
                continue
            outlined += 1
            outline = outline_box(each.segmentation, (image.height, image.width))
            if box_iou(np.array([each.box]), np.array([outline]))[0, 0] < MIN_OUTLINE_IOU:
                wrong += 1
                first = first or f"{image.name}, {each.item}"
    if not wrong:
        return []
    return [
        f"{wrong:,} of {outlined:,} segmentations do not agree with the boxes of their objects, the"
        f" first is {first}: one of the two is wrong (another scale, or rows and columns exchanged)"
    ]
