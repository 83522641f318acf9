"""EXIF orientation: what turns an image as stored into the upright one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Turn:
    """Rows and columns change places where `swap`; then each axis is mirrored where `flip_` says.

    orientation: as EXIF numbers it, 1..8.
    """

    orientation: int
    swap: bool
    flip_x: bool
    flip_y: bool

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height upright of an image stored as `width` x `height`, or the reverse."""
        return (height, width) if self.swap else (width, height)

    def as_stored(self, box: Box, width: int, height: int) -> Box:
        """Where `box` of the upright `width` x `height` image lies in the stored one."""
        left, top, right, bottom = box
        if self.flip_x:
            left, right = width - right, width - left
        if self.flip_y:
            top, bottom = height - bottom, height - top
        return (top, left, bottom, right) if self.swap else (left, top, right, bottom)

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pixels (H, W, C) as stored, upright."""
        pixels = pixels.swapaxes(0, 1) if self.swap else pixels
        pixels = pixels[:, ::-1] if self.flip_x else pixels
        return np.ascontiguousarray(pixels[::-1] if self.flip_y else pixels)


TURNS = {
    orientation: Turn(orientation, *turn)
    for orientation, turn in {
        1: (False, False, False),
        2: (False, True, False),
        3: (False, True, True),
        4: (False, False, True),
        5: (True, False, False),
        6: (True, True, False),
        7: (True, True, True),
        8: (True, False, True),
    }.items()
}
UPRIGHT = TURNS[1]


def turn_of(exif: bytes | None) -> Turn:
    """The turn that EXIF data asks for; none where there is no such data or it is damaged."""
    if not exif:
        return UPRIGHT
    found = Image.Exif()
    try:
        found.load(exif)
        return TURNS.get(found.get(ExifTags.Base.Orientation, 1), UPRIGHT)
    except Exception:  # damaged EXIF says nothing of the image, which may be whole
        return UPRIGHT
