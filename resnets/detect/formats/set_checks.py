"""Whether the boxes and outlines of a whole set are read in the form that they were written in.

One box beyond the edge is a slip of hand; many of them are boxes in another form (two corners for
sides, corners for a center), or for images of another size. Nothing that is then read is right, not
even the boxes that happen to fit, so that all objects of the set get a flaw of one kind, FORM.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from resnets.detect.data.masks import bounds_of
from resnets.detect.data.transforms import box_iou
from resnets.detect.data.values import Box
from resnets.detect.formats.records import Flaw, Problem, RawImage, RawImageSet, RawObject

FORM = "box form"
MOST_BEYOND = 0.2  # share of boxes that may pass the edge
NEARLY_ALL = 0.9
FEWEST_BOXES, FEWEST_IMAGES = 10, 3  # that tell where the boxes of a set lie
PERCENT = (90.0, 100.5)  # px, the farthest box of a set that is in percent
ROUNDED = 0.005  # share of the longer side by which shares of few digits may pass the edge


def mark_form(part: RawImageSet) -> RawImageSet:
    """The part, with a flaw for each object where more than a fifth of the boxes pass the edge."""
    sized = [each for each in part.images if each.width > 0 and each.height > 0]
    boxes = [(o.box, each) for each in sized for o in each.objects if _finite(o.box)]
    beyond = sum(_passes(box, image) for box, image in boxes)
    if beyond < 2 or beyond <= MOST_BEYOND * len(boxes):
        return part
    message = (
        f"{beyond:,} of the set's {len(boxes):,} boxes pass the edge of their image;"
        f" {_likely(boxes)}"
    )
    images = [replace(p, objects=tuple(with_form(p.objects, message))) for p in part.images]
    return replace(part, images=images)


def extent_warnings(records: Sequence[RawImage]) -> list[str]:
    """A warning where all boxes lie in the upper left of larger images, or none.

    Boxes in percent of the sides do, and those of images that were enlarged afterwards. Boxes
    within one pixel are `problems.mark_shares`' part.
    """
    sized = [each for each in records if each.width > 0 and each.height > 0]
    boxes = [(o.box, each) for each in sized for o in each.objects if _finite(o.box)]
    images = {id(each) for _, each in boxes}
    if len(boxes) < FEWEST_BOXES or len(images) < FEWEST_IMAGES:
        return []
    right, bottom = (max(box[edge] for box, _ in boxes) for edge in (2, 3))
    low, high = PERCENT
    smallest = min(min(each.width, each.height) for _, each in boxes)
    if low <= min(right, bottom) <= max(right, bottom) <= high and smallest > 1.2 * high:
        return [
            f"none of the {len(boxes):,} boxes passes {high:.0f} px in images of {smallest:,} px"
            " and more: they seem to be in percent of the sides; write them in pixels if so"
        ]
    across = max(box[2] / each.width for box, each in boxes)
    down = max(box[3] / each.height for box, each in boxes)
    if max(across, down) > 0.5 or right <= 1 or bottom <= 1:
        return []
    return [
        f"all {len(boxes):,} boxes lie in the upper left quarter of their images (up to"
        f" {across:.0%} of the width, {down:.0%} of the height): they seem to be for images of"
        " another size, or in other units than pixels"
    ]


def with_form(objects: Iterable[RawObject], message: str) -> Iterator[RawObject]:
    """The objects, each with the flaw that its box is written in another form, if `said`."""
    for each in objects:
        known = not message or any(flaw.kind == FORM for flaw in each.flaws)
        yield each if known else replace(each, flaws=(*each.flaws, Flaw(FORM, message)))


def swapped(corners: Sequence[Box], sizes: Sequence[tuple[int, int]]) -> str:
    """Why two corners of each box (x1, y1, x2, y2) are none, "" where they are.

    Some are in reverse order, and that of most, or all would fit in their image (width, height;
    0 = not known) as x, y, width and height. Else a few were drawn from the lower right.
    """
    stated = zip(corners, sizes, strict=True)
    finite = [(box, size) for box, size in stated if _finite(box)]
    turned = sum(box[2] < box[0] or box[3] < box[1] for box, _ in finite)
    fits = sum(
        min(x, y) >= 0 < min(w, h) and x + w <= width + 1 and y + h <= height + 1
        for (x, y, w, h), (width, height) in finite
        if min(width, height) > 0
    )
    as_sides = fits >= NEARLY_ALL * len(finite)
    if not turned or (2 * turned <= len(finite) and not as_sides):
        return ""
    likely = "x, y, width, height fit" if as_sides else "x, y, width, height may be meant"
    return f"{turned:,} of the set's {len(finite):,} boxes have their corners swapped; {likely}"


def form_problems(images: Iterable[RawImage]) -> list[Problem]:
    """One problem for each kind of wrong form, with the number of its objects."""
    first: dict[str, str] = {}
    count: dict[str, int] = {}
    for image in images:
        for each in image.objects:
            for flaw in each.flaws:
                if flaw.kind == FORM:
                    first.setdefault(flaw.message, image.where)
                    count[flaw.message] = count.get(flaw.message, 0) + 1
    return [
        Problem(where, "", FORM, f"{message}; {count[message]:,} objects are left out")
        for message, where in first.items()
    ]


def _finite(box: Box) -> bool:
    return all(map(math.isfinite, box))


def _passes(box: Box, image: RawImage) -> bool:
    left, top, right, bottom = box
    slack = max(1.0, ROUNDED * max(image.width, image.height))
    return max(-left, -top, right - image.width, bottom - image.height) > slack


def _likely(boxes: Sequence[tuple[Box, RawImage]]) -> str:
    """The form in which nearly all would fit, where there is one."""
    from_corner = from_center = 0
    for (left, top, right, bottom), image in boxes:
        wide, high = right - left, bottom - top
        if wide <= image.width + 1 and high <= image.height + 1:
            from_corner += wide >= left >= 0 and high >= top >= 0
            from_center += wide >= (left + right) / 2 >= 0 and high >= (top + bottom) / 2 >= 0
    if max(from_corner, from_center) >= NEARLY_ALL * len(boxes):
        return "their numbers fit as two corners (x1, y1, x2, y2)"
    return "they are in another form than it is read in, or for images of another size"


LEAST_IOU = 0.7  # of a box and the one around its outline; rounding costs small objects some


def outline_warnings(images: Sequence[RawImage]) -> list[str]:
    """A warning that counts the objects whose outline is elsewhere than their box, if any.

    The objects of `images` are good ones: their outlines can be drawn. Crowds are left out.
    """
    outlined, wrong, first = 0, 0, ""
    for image in images:
        for each in image.objects:
            if each.segmentation is None or each.crowd:
                continue
            outlined += 1
            around = bounds_of(each.segmentation, (image.height, image.width))
            if box_iou(np.array([each.box]), np.array([around]))[0, 0] < LEAST_IOU:
                wrong += 1
                first = first or f"{image.called}, {each.item}"
    if not wrong:
        return []
    return [
        f"{wrong:,} of {outlined:,} outlines do not agree with the boxes of their objects, the"
        f" first is {first}: one of the two is wrong (another scale, or rows and columns exchanged)"
    ]
