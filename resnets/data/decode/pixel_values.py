"""Convert stored pixel values to 8-bit gray or RGB, following the file's tags.

Transparency is composed over white; palettes and CMYK become RGB. Values of more than 8 bits are
scaled by the range of the set's training images (`data.value_range`), else by that of 16 bits; if a
TIFF says that zero is white, they are inverted, as Pillow does for 8 bits and fewer. A fourth band
of a TIFF is transparency only if the file says so (ExtraSamples). Unusual cases are logged once per
process.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops

log = logging.getLogger("resnets")

Levels = tuple[float, float]  # the values that become 0 and 255
RANGE_16_BIT: Levels = (0.0, 65535.0)

MIN_LEVELS = 16  # of one image, below which a warning is given

PHOTOMETRIC, SAMPLES, EXTRA_SAMPLES = 262, 277, 338  # tags of a TIFF
WHITE_IS_ZERO = 0
RGB, ALPHA = 2, (1, 2)  # their values: associated and unassociated alpha

NOTES = {
    "white": "a TIFF of more than 8 bits specifies that zero is white (PhotometricInterpretation 0)"
    ": it is inverted, and so are all others",
    "bands": "a TIFF has a fourth band that its tags do not mark as alpha (near infrared?): the"
    " first three are read as RGB, here and in all others",
}
WARNED: set[str] = set()  # keys of NOTES, and "levels"


def is_deep(image: Image.Image) -> bool:
    """Return whether an image has one band of more than 8 bits or of floating-point numbers."""
    return image.mode == "F" or image.mode.startswith("I")


def raw_mode(image: Image.Image) -> str:
    """Return Pillow's name for the stored pixel format: RGB of 16 bits is opened as RGB of 8."""
    tiles = getattr(image, "tile", None)
    return str(tiles[0][3]) if tiles else ""


def is_inverted(image: Image.Image) -> bool:
    """Return whether zero is white in an image of more than 8 bits, which Pillow does not handle.

    Pillow inverts images of 8 bits and fewer.
    """
    tags = getattr(image, "tag_v2", None)
    return tags is not None and is_deep(image) and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def to_8_bit(
    image: Image.Image, levels: Levels | None = None, *, takes_range: bool = True
) -> Image.Image:
    """Convert a decoded image to 8-bit L or RGB; ValueError for values without a known scale.

    takes_range: messages may name `data.value_range`, which detection does not read.
    """
    if image.mode in ("L", "RGB"):
        return image
    if is_deep(image):
        scaled = _scale_values(image, levels, takes_range)
        if not is_inverted(image):
            return scaled
        _warn_once("white", NOTES["white"])
        return ImageChops.invert(scaled)
    if has_fourth_band(image):
        _warn_once("bands", NOTES["bands"])
        return Image.merge("RGB", image.split()[:3])
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(white, opaque).convert("RGB")
    return image.convert("L" if image.mode == "1" else "RGB")


def take_note(kind: str) -> str:
    """Return a text of NOTES for a summary; decoding does not log it again."""
    WARNED.add(kind)
    return NOTES[kind]


def describe_levels(levels: Levels | None) -> tuple[str, ...]:
    """Return a note for summaries on a range of values; nothing for that of 16 bits."""
    if levels is None or tuple(levels) == RANGE_16_BIT:
        return ()
    low, high = levels
    return (f"more than 8 bits: {low:g} to {high:g} become 0 to 255 (data.value_range)",)


def _scale_values(image: Image.Image, levels: Levels | None, takes_range: bool) -> Image.Image:
    choose = "say which become 0 and 255 (data.value_range), or " if takes_range else ""
    values = np.asarray(image)
    if levels is None and image.mode == "F":
        raise ValueError(
            f"its pixels are floating-point numbers; {choose}save it with 8"
            f"{' or 16' if takes_range else ''} bits"
        )
    if levels is None or tuple(levels) == RANGE_16_BIT:
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if low < 0 or high > RANGE_16_BIT[1]:
            raise ValueError(
                f"its values go from {low:,} to {high:,}, beyond 16 bits; {choose}convert it to 8"
                " bits"
            )
        if levels is None and 0 < high < 4096 and (high - low) / 257 < MIN_LEVELS:
            _warn_once(
                "levels",
                f"a 16-bit image has values from {low:,} to {high:,} only: {high // 257 + 1} of 256"
                f" levels are left of them; {choose}convert the files to 8 bits",
            )
        return Image.fromarray(((values.astype(np.int64) + 128) // 257).astype(np.uint8))
    low_, high_ = levels
    nan = high_ if is_inverted(image) else low_  # black
    with np.errstate(all="ignore"):  # damaged files may contain any number
        share = (np.nan_to_num(values.astype(np.float64), nan=nan) - low_) / (high_ - low_)
    return Image.fromarray((np.clip(share, 0, 1) * 255 + 0.5).astype(np.uint8))


def has_fourth_band(image: Image.Image) -> bool:
    """Return whether Pillow reads a band of a TIFF as transparency that is not marked as such."""
    tags = getattr(image, "tag_v2", None)
    if tags is None or image.mode != "RGBA" or tags.get(SAMPLES) != 4:
        return False
    extra: Sequence[int] = tags.get(EXTRA_SAMPLES) or ()
    return tags.get(PHOTOMETRIC) == RGB and not any(each in ALPHA for each in extra)


def _warn_once(kind: str, message: str) -> None:
    if kind not in WARNED:
        WARNED.add(kind)
        log.warning("%s", message)
