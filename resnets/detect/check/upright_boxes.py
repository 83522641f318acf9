"""Transform boxes and polygons from the pixels they were drawn on to those of the upright image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.detect.data.masks import (
    MaskError,
    check_segmentation,
    decode_mask,
    encode_masks,
    encode_outline,
)
from resnets.detect.data.values import Box
from resnets.detect.formats.records import RawImage
from resnets.detect.images.sizes import StoredSize


@dataclass(frozen=True)
class ToUpright:
    """Scaling from `stated` (width, height) by `scale`, then the rotation of `turned`, if any."""

    stated: tuple[int, int] = (0, 0)
    scale: tuple[float, float] = (1.0, 1.0)
    turned: StoredSize | None = None

    @property
    def is_identity(self) -> bool:
        """Whether nothing is changed."""
        return self.scale == (1.0, 1.0) and self.turned is None

    @property
    def is_scaled(self) -> bool:
        """Whether sizes change."""
        return self.scale != (1.0, 1.0)

    @property
    def factor(self) -> float:
        """Factor of areas."""
        return self.scale[0] * self.scale[1]

    @property
    def message(self) -> str:
        """Description for the list of changes."""
        scaled = f"scaled by {self.scale[0]:.4g}" if self.is_scaled else ""
        turned = f"turned by EXIF orientation {self.turned.orientation}" if self.turned else ""
        return " and ".join(filter(None, (scaled, turned)))

    def points(self, corners: NDArray[np.float64]) -> NDArray[np.float64]:
        """Transform corners (N, 2), x and y in px, to the upright image."""
        moved = corners * self.scale
        if self.turned is None:
            return moved
        turn, (width, height) = self.turned.turn, self.turned.upright
        moved = moved[:, ::-1].copy() if turn.swap else moved
        if turn.flip_x:
            moved[:, 0] = width - moved[:, 0]
        if turn.flip_y:
            moved[:, 1] = height - moved[:, 1]
        return moved

    def box(self, box: Box) -> Box:
        """Transform a box to the upright image."""
        if self.is_identity:
            return box
        corners = self.points(np.array(box, np.float64).reshape(2, 2))
        (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
        return left, top, right, bottom

    def mask(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Transform a mask (H, W) of 0 and 1 to the upright image."""
        width, height = (round(a * b) for a, b in zip(self.stated, self.scale, strict=True))
        if (height, width) != mask.shape:
            resized = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
            mask = np.asarray(resized)
        return mask if self.turned is None else self.turned.turn.apply(mask[:, :, None])[:, :, 0]


IDENTITY = ToUpright()


def transform_outline(
    outline: Any, image: RawImage, transform: ToUpright, upright: RawImage
) -> tuple[Any, str]:
    """Return the outline on the upright image, None if nothing is left, and what was done to it."""
    if outline is None:
        return None, ""
    size = (image.height, image.width)
    if isinstance(outline, dict):
        try:
            check_segmentation(outline, *size, 0)
        except MaskError as error:
            return None, f"segmentation dropped: it {error}"
        if transform.is_identity:
            return outline, ""
        return encode_masks([transform.mask(decode_mask(encode_outline(outline, size)))])[0], ""  # type: ignore[arg-type]
    polygons, message = [], ""
    for points in outline if isinstance(outline, Sequence) else ():
        try:
            check_segmentation([points], *size, float("inf"))
        except MaskError as error:
            message = f"segmentation dropped, or a part of it: it {error}"
            continue
        corners = transform.points(np.asarray(points, np.float64).reshape(-1, 2))
        clipped = np.clip(corners, 0, (upright.width, upright.height))
        if np.abs(clipped - corners).max() > 1:
            message = message or "segmentation clipped at the edge"
        if (np.ptp(clipped, axis=0) > 0).all():
            polygons.append(clipped.reshape(-1))
        else:
            dropped = "segmentation dropped, or a part of it: it has no area inside the image"
            message = message or dropped
    return polygons or None, message


Size = tuple[int, int]  # width, height in px
MAX_DIFFERENCE = 0.01  # factors and aspects that differ by less are the same
NOT_VERIFIED = "scaled, not verified: its image may have been cropped to the same shape"


@dataclass(frozen=True)
class Rescaled:
    """An image of the same aspect as annotated: both sizes, and its boxes at the annotated one."""

    stated: Size
    actual: Size
    boxes: Sequence[Box] = ()


def explain_not_scalable(images: Sequence[Rescaled], other_shapes: int) -> str:
    """Return why boxes of the set's rescaled `images` must not be scaled, "" if they may be.

    other_shapes: number of the set's images with another aspect than annotated.
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
            " whether they are for it is unknown"
        )
    return ""


def are_verified_scaled(images: Sequence[Rescaled]) -> bool:
    """Return whether the sizes show that images were resized to one long or short side, or height.

    Then the factors and the aspects differ, and one side is the same for all.
    """
    factors = [each.actual[0] / each.stated[0] for each in images]
    aspects = [each.actual[0] / each.actual[1] for each in images]
    if not images or any(max(v) <= min(v) * (1 + MAX_DIFFERENCE) for v in (factors, aspects)):
        return False
    sides = [(w, h, max(w, h), min(w, h)) for w, h in (each.actual for each in images)]
    return any(max(side) - min(side) <= 1 for side in zip(*sides, strict=True))
