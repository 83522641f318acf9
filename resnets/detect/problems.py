"""What is wrong with annotations, found without opening a picture, and how each is repaired."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from resnets.data.errors import DataError
from resnets.detect.masks import MaskError, check_segmentation
from resnets.detect.records import Box, Problem, RawObject, RawPart, RawPicture

# Boxes may pass the picture's edge by this many pixels: sources round, or count from 1.
TOLERANCE = 1.0
LARGEST = 65_535  # px, the longest side that a JPEG can have


@dataclass(frozen=True)
class Checked:
    """A part's good pictures and objects, and what was wrong with the others."""

    pictures: Sequence[RawPicture]
    problems: Sequence[Problem]


def check_part(
    part: RawPart, classes: Sequence[str], *, masks: bool = False, repair: bool = False
) -> Checked:
    """Leave out bad pictures and objects and say what is wrong with each.

    `masks`: every object needs an outline. With `repair`, boxes and polygons that pass the
    picture's edge are cut there and kept; whatever cannot be mended goes.
    """
    pictures, problems = [], list(part.problems)
    for picture in part.pictures:
        found = list(_picture_problems(picture))
        problems += found
        if found:
            continue
        kept = []
        for each in picture.objects:
            wrong = list(_object_problems(each, picture, classes, masks))
            problems += wrong
            mended = mend(each, picture) if repair and wrong else each
            if not wrong or not list(_object_problems(mended, picture, classes, masks)):
                kept.append(clipped(mended, picture))
        pictures.append(replace(picture, objects=tuple(kept)))
    return Checked(pictures, problems)


def refuse(problems: Sequence[Problem], hint: str) -> None:
    """Raise DataError that names the first of `problems`, if any, and counts the others."""
    if not problems:
        return
    more = len(problems) - 1
    others = f" (and {more:,} more like it or worse)" if more else ""
    raise DataError(f"{problems[0]}{others}; {hint}")


def mend(each: RawObject, picture: RawPicture) -> RawObject:
    """The object with its box and polygons cut at the picture's edge."""
    outline = each.segmentation
    if isinstance(outline, Sequence):
        outline = [_inside(points, picture) for points in outline]
    return replace(clipped(each, picture), segmentation=outline)


def clipped(each: RawObject, picture: RawPicture) -> RawObject:
    """The object with its box cut at the picture's edge."""
    left, top, right, bottom = each.box
    box = (
        min(max(left, 0.0), picture.width),
        min(max(top, 0.0), picture.height),
        min(max(right, 0.0), picture.width),
        min(max(bottom, 0.0), picture.height),
    )
    return replace(each, box=box)


def _picture_problems(picture: RawPicture) -> Iterator[Problem]:
    item = "" if picture.called in picture.where else picture.called
    if picture.path is None:
        yield Problem(picture.where, item, "no picture", "its picture is missing")
        return
    width, height = picture.width, picture.height
    if not (0 < width <= LARGEST and 0 < height <= LARGEST):
        said = f"gives its picture as {width}x{height}, a size that none has"
        yield Problem(picture.where, item, "picture size", said)


def _object_problems(
    each: RawObject, picture: RawPicture, classes: Sequence[str], masks: bool
) -> Iterator[Problem]:
    item = f"{picture.called}, {each.item}" if picture.where.endswith(".json") else each.item

    def problem(kind: str, said: str) -> Problem:
        return Problem(picture.where, item, kind, said)

    if each.label < 0:
        yield problem("category", f"category {each.category} is none of the {len(classes)} known")
    if not all(map(math.isfinite, each.box)):
        yield problem("no number", f"its box {_shown(each.box)} is not four finite numbers")
        return
    left, top, right, bottom = each.box
    if right <= left or bottom <= top:
        yield problem("no area", f"its box {_shown(each.box)} has no area")
    elif _beyond(each.box, picture) > TOLERANCE:
        size = f"{picture.width}x{picture.height}"
        yield problem("outside", f"its box {_shown(each.box)} passes the edge of {size}")
    elif min(right, picture.width) <= max(left, 0) or min(bottom, picture.height) <= max(top, 0):
        yield problem("no area", f"its box {_shown(each.box)} has no area inside the picture")
    if each.segmentation is None and masks:
        yield problem("mask", "it has no outline")
    if each.segmentation is not None:
        try:
            check_segmentation(each.segmentation, picture.height, picture.width, TOLERANCE)
        except MaskError as error:
            yield problem("mask", f"its outline {error}")


def _beyond(box: Box, picture: RawPicture) -> float:
    """Pixels by which a box passes the picture's edge."""
    left, top, right, bottom = box
    return max(-left, -top, right - picture.width, bottom - picture.height)


def _inside(points: Sequence[float], picture: RawPicture) -> list[float]:
    edges = (picture.width, picture.height)
    return [min(max(value, 0.0), edges[place % 2]) for place, value in enumerate(points)]


def _shown(box: Iterable[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in box)})"
