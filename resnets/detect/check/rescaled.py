"""Whether images that are smaller or larger than annotated were resized, or cut to the same shape.

A cut that keeps the aspect leaves no trace in the sizes of one image. Those of a set can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resnets.detect.data.values import Box

Size = tuple[int, int]  # width, height in px
SAME = 0.01  # factors and aspects that differ by less are the same
NOT_PROVED = "scaled, not proved: its image may have been cut to the same shape"


@dataclass(frozen=True)
class Rescaled:
    """An image of the same aspect as annotated: both sizes and its boxes for the annotated one."""

    stated: Size
    actual: Size
    boxes: Sequence[Box] = ()


def why_not_scaled(images: Sequence[Rescaled], other_shapes: int) -> str:
    """Why boxes of the set's rescaled `images` must not be scaled, "" where they may be.

    other_shapes: number of the set's images that have another aspect than annotated.
    """
    if other_shapes > (len(images) + other_shapes) / 5:
        return (
            f"is of another size than annotated, as are {other_shapes:,} of the set of another"
            " shape; images were cut, so that its boxes cannot be scaled"
        )
    smaller = [each for each in images if each.actual[0] < each.stated[0]]
    boxes = [(box, each.actual) for each in smaller for box in each.boxes]
    fits = [max(box[0::2]) <= size[0] + 1 and max(box[1::2]) <= size[1] + 1 for box, size in boxes]
    if len(boxes) > 2 and all(fits):
        return (
            "is smaller than annotated, but all boxes of such images lie within the smaller size;"
            " whether they are for it cannot be told"
        )
    return ""


def are_proved_scaled(images: Sequence[Rescaled]) -> bool:
    """Whether sizes show that images were resized to one longer or shorter side, or one height ...

    Then factors differ, and so do aspects, and one side is the same for all.
    """
    factors = [each.actual[0] / each.stated[0] for each in images]
    aspects = [each.actual[0] / each.actual[1] for each in images]
    if not images or any(max(v) <= min(v) * (1 + SAME) for v in (factors, aspects)):
        return False
    sides = [(w, h, max(w, h), min(w, h)) for w, h in (each.actual for each in images)]
    return any(max(side) - min(side) <= 1 for side in zip(*sides, strict=True))
