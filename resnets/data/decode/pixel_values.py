"""Stored pixel values -> 8-bit grey or RGB, as the file's own tags say what they are.

Transparency is laid over white; palettes and CMYK become RGB. Values of more than 8 bits are scaled
by the range that the set's training images have (`value_range`), else by that of 16 bits; where a
TIFF says that zero is white, they are inverted within it, as Pillow does for 8 bits and fewer. A
fourth band of a TIFF is transparency only where the file says so (ExtraSamples). What is not plain
is said once a process.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from resnets.data.decode.open_image import open_image

log = logging.getLogger("resnets")

Levels = tuple[float, float]  # the values that become 0 and 255
FULL: Levels = (0.0, 65535.0)

SAMPLE = 64  # training images that are looked at
PIXELS = 1 << 16  # of each at most, evenly spaced
TAILS = (0.05, 99.95)  # percentiles of their values: a few hot pixels do not decide
ENOUGH = 128  # levels of 256: values that keep as many are scaled as 16 bits
BULK = (5, 95)  # percentiles between which most values lie
FEW = 16  # levels of one image below which its scale is questioned

PHOTOMETRIC, SAMPLES, EXTRA_SAMPLES = 262, 277, 338  # tags of a TIFF
WHITE_IS_ZERO = 0
RGB, ALPHA = 2, (1, 2)  # their values: associated and unassociated alpha

SAID: set[str] = set()


def is_deep(image: Image.Image) -> bool:
    """Whether an image has one band of more than 8 bits or of floating-point numbers."""
    return image.mode == "F" or image.mode.startswith("I")


def is_inverted(image: Image.Image) -> bool:
    """Whether an image of more than 8 bits says that zero is white, which Pillow leaves as it is.

    Those of 8 bits and fewer are turned by Pillow.
    """
    tags = getattr(image, "tag_v2", None)
    return tags is not None and is_deep(image) and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def as_bytes(
    image: Image.Image, levels: Levels | None = None, *, takes_range: bool = True
) -> Image.Image:
    """A decoded image as 8-bit L or RGB; ValueError for values that have no known scale.

    takes_range: whether messages may name `data.value_range`, which detection does not read.
    """
    if image.mode in ("L", "RGB"):
        return image
    if is_deep(image):
        scaled = _scaled(image, levels, takes_range)
        if not is_inverted(image):
            return scaled
        _say(
            "white",
            "a TIFF of more than 8 bits says that zero is white (PhotometricInterpretation 0): it"
            " is inverted, and so are all others",
        )
        return ImageChops.invert(scaled)
    if _has_fourth_band(image):
        _say(
            "bands",
            "a TIFF has a fourth band that its tags do not call transparency (near infrared?):"
            " the first three are taken as RGB, here and in all others",
        )
        return Image.merge("RGB", image.split()[:3])
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return image.convert("L" if image.mode == "1" else "RGB")


class Readable(Protocol):
    """Encoded images by number."""

    def read(self, index: int, /) -> bytes | memoryview:
        """The bytes of one."""


def measure_levels(files: Readable, rows: NDArray[np.int64]) -> Levels | None:
    """The range of the values of the images `rows`, by a sample that follows from them alone.

    None where they have 8 bits, or fill so much of 16 that 128 levels or more are kept. Logs a
    warning where images of 16-bit color keep few levels, which cannot be mended here, or where deep
    and 8-bit images are mixed.
    """
    places = np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64))
    values: list[NDArray[np.float64]] = []
    seen, highest, deep_color = 0, 0, False
    for row in rows[places].tolist():
        try:
            with open_image(files.read(row)) as image:
                seen += 1
                color = not is_deep(image) and "16" in _raw_mode(image)
                if not color and not is_deep(image):
                    continue
                image.load()
                if color:
                    deep_color, highest = True, max(highest, int(np.asarray(image).max()))
                else:
                    values.append(_some(np.asarray(image)))
        except Exception:  # named when its turn comes
            continue
    if deep_color and highest < 64:
        log.warning(
            "color images of 16 bits whose values end at %s of 65,535 keep %s of 256 levels:"
            " Pillow reads their upper 8 bits; convert them to 8 bits before",
            *(f"{highest * 257:,}", highest + 1),
        )
    if not values:
        return None
    if len(values) < seen:
        log.warning(
            "%s of %s sampled images have more than 8 bits, the others 8: they are scaled apart",
            *(len(values), seen),
        )
    every = np.concatenate(values)
    low, high = (float(each) for each in np.percentile(every, TAILS))
    _warn_of_outliers(every, low, high)
    if low >= 0 and high <= FULL[1] and (high - low) / 257 >= ENOUGH:
        return None
    return low, max(high, low + 1e-6)


def _warn_of_outliers(values: NDArray[np.float64], low: float, high: float) -> None:
    """Warn where a few values, such as those that mean "no data", leave the others no contrast.

    One value may be that of most pixels, a background; the others are to spread over the levels.
    """
    distinct, counts = np.unique(values, return_counts=True)
    others = values[values != distinct[counts.argmax()]]
    if not len(others) or high <= low:
        return
    least, most = np.percentile(others, BULK)
    if (most - least) / (high - low) * 256 < FEW < len(distinct):
        log.warning(
            "values go from %g to %g, but most of them from %g to %g, which is less than %s of 256"
            " levels; if the others mean that there is no data, set data.value_range to the range"
            " of those that count",
            *(low, high, least, most, FEW),
        )


def said_of(levels: Levels | None) -> tuple[str, ...]:
    """What a summary says of a range; nothing where it is that of 16 bits."""
    if levels is None or tuple(levels) == FULL:
        return ()
    low, high = levels
    return (f"more than 8 bits: {low:g} to {high:g} become 0 to 255 (data.value_range)",)


def _scaled(image: Image.Image, levels: Levels | None, takes_range: bool) -> Image.Image:
    choose = "say which become 0 and 255 (data.value_range), or " if takes_range else ""
    values = np.asarray(image)
    if levels is None and image.mode == "F":
        raise ValueError(
            f"its pixels are floating-point numbers; {choose}save it with 8"
            f"{' or 16' if takes_range else ''} bits"
        )
    if levels is None or tuple(levels) == FULL:
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if low < 0 or high > FULL[1]:
            raise ValueError(
                f"its values go from {low:,} to {high:,}, beyond 16 bits; {choose}convert it to 8"
                " bits"
            )
        if levels is None and 0 < high < 4096 and (high - low) / 257 < FEW:
            _say(
                "levels",
                f"a 16-bit image has values from {low:,} to {high:,} only: {high // 257 + 1} of 256"
                f" levels are left of them; {choose}convert the files to 8 bits",
            )
        return Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))
    low_, high_ = levels
    nan = high_ if is_inverted(image) else low_  # black
    with np.errstate(all="ignore"):  # damaged files hold any number
        share = (np.nan_to_num(values.astype(np.float64), nan=nan) - low_) / (high_ - low_)
    return Image.fromarray((np.clip(share, 0, 1) * 255 + 0.5).astype(np.uint8))


def _some(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Up to PIXELS of the finite values of an image."""
    flat = values.reshape(-1)
    flat = flat[:: max(1, len(flat) // PIXELS)].astype(np.float64)
    return flat[np.isfinite(flat)]


def _has_fourth_band(image: Image.Image) -> bool:
    """Whether Pillow takes a band of a TIFF for transparency that the file does not call so."""
    tags = getattr(image, "tag_v2", None)
    if tags is None or image.mode != "RGBA" or tags.get(SAMPLES) != 4:
        return False
    extra: Sequence[int] = tags.get(EXTRA_SAMPLES) or ()
    return tags.get(PHOTOMETRIC) == RGB and not any(each in ALPHA for each in extra)


def _raw_mode(image: Image.Image) -> str:
    """How Pillow calls the stored pixels."""
    tiles = getattr(image, "tile", None)
    return str(tiles[0][3]) if tiles else ""


def _say(kind: str, message: str) -> None:
    if kind not in SAID:
        SAID.add(kind)
        log.warning("%s", message)
