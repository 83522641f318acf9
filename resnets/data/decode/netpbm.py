"""Uncompressed pictures: binary PGM (grey) and PPM (RGB), which need no decoding."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

HEADER = re.compile(rb"P([56])\n(\d{1,9}) (\d{1,9})\n255\n")


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """A picture (H, W, 1) or (H, W, 3) as a file that any reader of PGM and PPM opens."""
    height, width, planes = pixels.shape
    header = f"P{5 if planes == 1 else 6}\n{width} {height}\n255\n"
    return header.encode() + pixels.tobytes()


def pixels_of(data: bytes | memoryview) -> NDArray[np.uint8] | None:
    """The pixels (H, W, C) where they lie, uncopied; None for files other than `encode` makes."""
    found = HEADER.match(data)
    if found is None:
        return None
    width, height, planes = int(found[2]), int(found[3]), 1 if found[1] == b"5" else 3
    if min(width, height) < 1 or len(data) - found.end() != width * height * planes:
        return None
    return np.frombuffer(data, np.uint8, offset=found.end()).reshape(height, width, planes)
