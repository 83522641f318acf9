"""Small images within a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from PIL import Image

SIDE = 160  # px of a thumbnail's longer side


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail as a data URI, empty where there is none, and its width and height."""

    source: str = ""
    width: int = 0
    height: int = 0

    @classmethod
    def of(cls, pixels: NDArray[Any]) -> Thumbnail:
        """Of an image (H, W, 3), or (H, W) gray, uint8."""
        image = Image.fromarray(pixels)
        image.thumbnail((SIDE, SIDE))
        data = io.BytesIO()
        image.save(data, "JPEG", quality=80)
        text = base64.b64encode(data.getvalue()).decode()
        return cls(f"data:image/jpeg;base64,{text}", *image.size)
