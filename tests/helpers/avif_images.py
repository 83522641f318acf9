"""AVIF images of one color: a few kB for any size."""

import io

from PIL import Image


def avif(width: int, height: int, frames: int = 1) -> bytes:
    """One color: a few kB for any size."""
    out = io.BytesIO()
    image = Image.new("RGB", (width, height), (90, 120, 30))
    more = {"save_all": True, "append_images": [image] * (frames - 1)} if frames > 1 else {}
    image.save(out, "AVIF", speed=10, **more)
    return out.getvalue()
