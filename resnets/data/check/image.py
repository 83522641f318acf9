"""Check one file: whether it can be read, what is unusual about it, and its hashes."""

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
from resnets.data.decode.decode import decode_whole, reading_image
from resnets.data.decode.exif import read_orientation
from resnets.data.decode.open_image import MAX_PIXELS, open_image
from resnets.data.decode.pixel_values import Levels, is_inverted, raw_mode
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
    FindingKind,
)

THUMBNAIL_SIZE = 32  # px
TRUNCATION_WORDS = (
    "truncated",
    "unexpected end",
    "end of file",
    "premature end",
    "not enough data",
)
SAME_FORMAT = {"MPO": "JPEG"}  # a phone's JPEG with a second image after the first


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """The result for one file.

    problems: kind and detail of each. content: 64 bits that differ between files of different
    bytes. phash: 64 bits that are similar for similar images, None if unreadable. color: mean red,
    green and blue, a byte each.
    """

    problems: tuple[tuple[FindingKind, str], ...]
    content: int
    phash: int | None = None
    color: int = 0


def check_image(
    data: bytes | memoryview, name: str, tiny: int, levels: Levels | None = None
) -> ImageCheck:
    """Decode a whole file as training does. tiny: px below which a shorter side is too small.

    levels: see `decode.Crop`.
    """
    content = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
    if len(data) == 0:
        return ImageCheck(((UNREADABLE, "an empty file"),), content)
    is_opened = False
    try:
        with reading_image(name), open_image(data, max_pixels=None) as image:
            is_opened = True
            if image.width * image.height > MAX_PIXELS:
                return ImageCheck(((BOMB, f"{image.width:,}x{image.height:,} px"),), content)
            problems = tuple(_header_problems(image, name, tiny))
        pixels = decode_for_comparison(data, name, levels)
    except DataError as error:
        return ImageCheck((_classify_error(error, name, is_opened),), content)
    with open_image(data) as image:
        problems += tuple(_frame_problems(image))
    thumb = make_thumbnail(pixels)
    return ImageCheck(problems, content, perceptual_hash(thumb), mean_color(thumb))


def decode_for_comparison(
    data: bytes | memoryview, name: str, levels: Levels | None = None
) -> NDArray[np.uint8]:
    """Return the pixels (H, W, 3) by which an image is compared: as decoded for training.

    Images of more than 8 bits are stretched to their own range, so that images that differ within a
    few of 256 levels do not count as copies.
    """
    pixels = decode_whole(data, name, levels)
    with reading_image(name), open_image(data) as image:
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


def make_thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize an image (H, W, 3) to (32, 32, 3), ignoring its aspect ratio."""
    return np.asarray(
        Image.fromarray(pixels).resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BOX)
    )


def perceptual_hash(thumb: NDArray[np.uint8]) -> int:
    """Return 64 bits: which of the 63 lowest frequencies of a gray thumbnail exceed their median.

    The perceptual hash of Zauner 2010 ("Implementation and benchmarking of perceptual image hash
    functions"), whose Hamming distance is small between images that were saved or resized again.
    """
    gray = thumb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    low = np.round(dctn(gray, norm="ortho")[:8, :8], 1)  # rounded, so that a flat image has none
    low[0, 0] = -np.inf  # the mean is not used
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def mean_color(thumb: NDArray[np.uint8]) -> int:
    """Return mean red, green and blue of a thumbnail, a byte each."""
    red, green, blue = thumb.mean((0, 1)).round().astype(int).tolist()
    return red << 16 | green << 8 | blue


def extract_reason(error: DataError, name: str) -> str:
    """Return the reason in a message about an unreadable image, without name and advice."""
    text = str(error).removeprefix(f"{name}: ").partition("; re")[0]  # pair, store
    start, _, details = text.partition(" (")
    return details.removesuffix(")") if start.startswith("cannot be read") and details else text


def _classify_error(error: DataError, name: str, is_opened: bool) -> tuple[FindingKind, str]:
    """True if an image is truncated, too large or otherwise unreadable, from the error message."""
    reason = extract_reason(error, name)
    if "pixels" in reason and "limit" in reason:
        return BOMB, reason.partition(", could be")[0]
    if is_opened and any(words in reason.lower() for words in TRUNCATION_WORDS):
        return TRUNCATED, reason
    return UNREADABLE, reason


def _header_problems(image: Image.Image, name: str, tiny: int) -> Iterator[tuple[FindingKind, str]]:
    """Yield problems that an image's header shows."""
    found = SAME_FORMAT.get(image.format or "", image.format)
    expected = _formats().get(posixpath.splitext(name)[1].lower())
    is_packed = f"{SUFFIX}:" in name  # its images keep their names
    if expected is not None and found != expected and not is_packed:
        yield WRONG_SUFFIX, f"contains {found}"
    if min(image.size) < tiny:
        yield TINY, f"{image.width}x{image.height} px"
    if (orientation := read_orientation(image.info.get("exif")).orientation) != 1:
        yield ROTATED, f"EXIF orientation {orientation}"
    if image.mode == "CMYK":
        yield CMYK, "CMYK"
    if image.mode.startswith("I") or "16" in raw_mode(image):
        yield DEEP, f"{found} of 16 bits"
    if image.mode in ("P", "PA"):
        yield PALETTE, f"{found} with a palette"


def _frame_problems(image: Image.Image) -> Iterator[tuple[FindingKind, str]]:
    """Yield the number of frames of a multi-frame file; depth maps in phone JPEGs do not count."""
    try:
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Exception:  # damage after the first frame, the only one that is read
        return
    if frames > 1:
        yield ANIMATED, f"{frames:,} frames"


@cache
def _formats() -> dict[str, str]:
    return Image.registered_extensions()
