"""EXIF orientation: converts a stored image to the upright one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Orientation:
    """Swaps rows and columns if `swap`, then flips the axes of `flip_x` and `flip_y`.

    orientation: its EXIF number, 1..8.
    """

    orientation: int
    swap: bool
    flip_x: bool
    flip_y: bool

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the upright size of an image stored as `width` x `height`, or the reverse."""
        return (height, width) if self.swap else (width, height)

    def to_stored(self, box: Box, width: int, height: int) -> Box:
        """Convert `box` of the upright `width` x `height` image to the stored image."""
        left, top, right, bottom = box
        if self.flip_x:
            left, right = width - right, width - left
        if self.flip_y:
            top, bottom = height - bottom, height - top
        return (top, left, bottom, right) if self.swap else (left, top, right, bottom)

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn stored pixels (H, W, C) upright."""
        pixels = pixels.swapaxes(0, 1) if self.swap else pixels
        pixels = pixels[:, ::-1] if self.flip_x else pixels
        return np.ascontiguousarray(pixels[::-1] if self.flip_y else pixels)


ORIENTATIONS = {
    orientation: Orientation(orientation, *turn)
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
UPRIGHT = ORIENTATIONS[1]


def read_orientation(exif: bytes | None) -> Orientation:
    """Return the orientation in EXIF data; upright if there are no data or they are damaged."""
    if not exif:
        return UPRIGHT
    parsed = Image.Exif()
    try:
        parsed.load(exif)
        return ORIENTATIONS.get(parsed.get(ExifTags.Base.Orientation, 1), UPRIGHT)
    except Exception:  # damaged EXIF does not mean a damaged image
        return UPRIGHT
