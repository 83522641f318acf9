"""One file looked at: can it be read, what is odd about it, and how would one know it again."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from resnets.data.dataset.pack import SUFFIX
from resnets.data.decode.decode import decode_whole, naming
from resnets.data.decode.exif import turn_of
from resnets.data.decode.open_image import MAX_PIXELS, open_image
from resnets.data.decode.pixel_values import Levels, is_inverted
from resnets.data.errors import DataError
from resnets.data.finding_kinds import (
    ANIMATED,
    BOMB,
    CMYK,
    DEEP,
    PALETTE,
    ROTATED,
    TINY,
    TRUNCATED,
    UNREADABLE,
    WRONG_SUFFIX,
    Kind,
)

THUMB = 32  # px, what images are compared at
CUT_SHORT = ("truncated", "unexpected end", "end of file", "premature end", "not enough data")
SAME_FORMAT = {"MPO": "JPEG"}  # a phone's JPEG with a second image behind the first


@dataclass(frozen=True, slots=True)
class Look:
    """What one file is.

    problems: kind and detail of each. content: 64 bits that differ between files of different
    bytes. shape: 64 bits that few images share unless they look alike, None where unreadable.
    tone: mean red, green and blue, a byte each.
    """

    problems: tuple[tuple[Kind, str], ...]
    content: int
    shape: int | None = None
    tone: int = 0


def look(data: bytes | memoryview, name: str, tiny: int, levels: Levels | None = None) -> Look:
    """Decode a file as training does, whole. `tiny`: px below which a shorter side is too small.

    levels: see `decode.View`.
    """
    content = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
    if len(data) == 0:
        return Look(((UNREADABLE, "an empty file"),), content)
    known = False
    try:
        with naming(name), open_image(data, max_pixels=None) as image:
            known = True
            if image.width * image.height > MAX_PIXELS:
                return Look(((BOMB, f"{image.width:,}x{image.height:,} px"),), content)
            problems = tuple(_oddities(image, name, tiny))
        pixels = comparable(data, name, levels)
    except DataError as error:
        return Look((_reason(error, name, known),), content)
    with open_image(data) as image:
        problems += tuple(_frames(image))
    thumb = thumbnail(pixels)
    return Look(problems, content, shape_of(thumb), tone_of(thumb))


def comparable(
    data: bytes | memoryview, name: str, levels: Levels | None = None
) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) that an image is compared by: as they are decoded for training.

    Those of more than 8 bits are stretched to the range of the image, so that images that differ
    within a few of 256 levels are not taken for copies.
    """
    pixels = decode_whole(data, name, levels)
    with naming(name), open_image(data) as image:
        if not image.mode.startswith(("I", "F")):
            return pixels
        deep = np.asarray(image, np.float64)
        inverted = is_inverted(image)
    finite = deep[np.isfinite(deep)]
    if not finite.size:
        return pixels
    least, most = float(finite.min()), float(finite.max())
    deep = np.nan_to_num(deep, nan=most if inverted else least, posinf=most, neginf=least)
    stretched = ((deep - least) * (255 / ((most - least) or 1))).round().astype(np.uint8)
    stretched = 255 - stretched if inverted else stretched
    return np.repeat(stretched[:, :, None], 3, axis=2)


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(32, 32, 3) of an image (H, W, 3), its sides scaled apart."""
    return np.asarray(Image.fromarray(pixels).resize((THUMB, THUMB), Image.Resampling.BOX))


def shape_of(thumb: NDArray[np.uint8]) -> int:
    """64 bits: which of the 63 lowest frequencies of a grey thumbnail exceed their median.

    The perceptual hash of Zauner 2010 ("Implementation and benchmarking of perceptual image hash
    functions"), whose Hamming distance is small between images saved or scaled again.
    """
    gray = thumb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    low = np.round(dctn(gray, norm="ortho")[:8, :8], 1)  # rounded: a flat image has none
    low[0, 0] = -np.inf  # the mean is no shape
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def tone_of(thumb: NDArray[np.uint8]) -> int:
    """Mean red, green and blue of a thumbnail, a byte each."""
    red, green, blue = thumb.mean((0, 1)).round().astype(int).tolist()
    return red << 16 | green << 8 | blue


def reason(error: DataError, name: str) -> str:
    """What a message says of an image that cannot be read, without its name and advice."""
    said = str(error).removeprefix(f"{name}: ").partition("; re")[0]  # pair, store
    start, _, inside = said.partition(" (")
    return inside.removesuffix(")") if start.startswith("cannot be read") and inside else said


def _reason(error: DataError, name: str, known: bool) -> tuple[Kind, str]:
    """Whether an image is cut short, a bomb or anything else, from what its decoder says."""
    said = reason(error, name)
    if "pixels" in said and "limit" in said:
        return BOMB, said.partition(", could be")[0]
    if known and any(words in said.lower() for words in CUT_SHORT):
        return TRUNCATED, said
    return UNREADABLE, said


def _oddities(image: Image.Image, name: str, tiny: int) -> Iterator[tuple[Kind, str]]:
    """What the header says of an image."""
    found = SAME_FORMAT.get(image.format or "", image.format)
    wanted = _formats().get(posixpath.splitext(name)[1].lower())
    packed = f"{SUFFIX}:" in name  # whose images keep the names they had
    if wanted is not None and found != wanted and not packed:
        yield WRONG_SUFFIX, f"holds {found}"
    if min(image.size) < tiny:
        yield TINY, f"{image.width}x{image.height} px"
    if (turn := turn_of(image.info.get("exif")).orientation) != 1:
        yield ROTATED, f"EXIF orientation {turn}"
    if image.mode == "CMYK":
        yield CMYK, "CMYK"
    if image.mode.startswith("I") or "16" in _raw_mode(image):
        yield DEEP, f"{found} of 16 bits"
    if image.mode in ("P", "PA"):
        yield PALETTE, f"{found} with a palette"


def _frames(image: Image.Image) -> Iterator[tuple[Kind, str]]:
    """How many images a file holds; a phone's JPEG with a depth map does not count."""
    try:
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Exception:  # damage behind the first frame, which is all that is read
        return
    if frames > 1:
        yield ANIMATED, f"{frames:,} frames"


def _raw_mode(image: Image.Image) -> str:
    """How Pillow calls the stored pixels: RGB of 16 bits looks like RGB of 8."""
    tiles = getattr(image, "tile", None)
    return str(tiles[0][3]) if tiles else ""


@cache
def _formats() -> dict[str, str]:
    return Image.registered_extensions()
