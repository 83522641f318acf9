"""Encoded image -> uint8 pixels of one view. All decoding and resizing goes through here.

A `Crop` names the part of an image that is wanted and its size in pixels; the decoder may use
that to read a JPEG at reduced resolution. Images are turned upright by their EXIF orientation;
`pixel_values` makes 8-bit grey or RGB of whatever they hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.data.decode import jpeg
from resnets.data.decode.exif import Box, turn_of
from resnets.data.decode.open_image import BUDGET, MAX_PIXELS, max_scans, open_image
from resnets.data.decode.pixel_values import Levels, as_bytes
from resnets.data.decode.stacks import is_stack, read_stack, resize_stack, to_bytes
from resnets.data.errors import DataError
from resnets.ops.resize import kernel, resize_box

GRAY_MODES = frozenset({"1", "L", "F", "I", "I;16", "I;16L", "I;16B", "I;16N"})
RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
TRANSPOSE = {  # what Pillow calls the turns that undo EXIF orientations 2..8
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A JPEG is read at 1/2, 1/4 or 1/8 only while at least this many pixels are left for each one
# asked for: the antialiased resize that follows then hides the cruder DCT scaling (measured on
# COCO: 0.6 of 255 on average).
REDUCED_MARGIN = 3.0
# Whole images of more pixels than this are read at fewer: memory counts more than the last level.
LARGE, LARGE_MARGIN = 1 << 24, 1.5
BAND = 64  # rows of a large image that are copied at once


@dataclass(frozen=True)
class Crop:
    """What to see of an image: the part `box(width, height)`, as `size` x `size` x `channels`.

    levels: values of images with more than 8 bits that become 0 and 255; None = those of 16 bits.
    keep_bits: pixels are float32 in 0..255, with all the bits that are stored.
    """

    size: int
    channels: int
    box: Callable[[int, int], Box]
    interpolation: str = "bilinear"
    levels: Levels | None = None
    keep_bits: bool = False

    @property
    def scaling(self) -> tuple[int, str]:
        """What a resize has to know beside the box."""
        return self.size, self.interpolation


def decode(data: bytes | memoryview, view: Crop, name: str) -> NDArray[Any]:
    """Pixels (size, size, channels) of one view of an encoded image: uint8, or float32 in 0..255
    where the view keeps bits.

    A clean JPEG is decoded in part, by `data/decode/jpeg.py`; pixels of a PPM are taken from where
    they lie; Pillow reads all else. DataError names the image `name` when it is unreadable,
    truncated or has more than 89 million pixels. What a view does not show of a JPEG is not
    decoded: damage there is not noticed, but a missing end is.
    """
    with naming(name):
        if view.keep_bits or view.channels not in (1, 3) or is_stack(data):
            return _decode_stack(data, view)
        pixels = pixels_of(data)
        if pixels is not None:
            return render_pixels(pixels, view)
        seen = _decode_jpeg(bytes(data), view)
        if seen is not None:
            return seen
        with open_image(data) as image:
            return render(image, view)


def decode_whole(
    data: bytes | memoryview, name: str, levels: Levels | None = None
) -> NDArray[np.uint8]:
    """The whole upright image (H, W, 3) at its stored size, by Pillow; DataError as `decode`.

    levels: see `Crop`.
    """
    with naming(name), open_image(data) as image, BUDGET.room(image.width * image.height):
        return _pixels(_in_rgb(_upright(image, levels)))


def decode_fitted(
    data: bytes | memoryview, name: str, size_of: Callable[[int, int], tuple[int, int]]
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The whole upright image at the size (H, W) that `size_of(width, height)` wants: (H, W, 3).

    Bilinear and antialiased. Also its stored (H, W). A JPEG that is much larger is read at 1/2, 1/4
    or 1/8 of it, and large images are decoded few at a time (`BUDGET`). DataError as `decode`.
    """
    with naming(name), open_image(data) as image:
        width, height = _upright_size(image)
        size = size_of(width, height)
        pixels = width * height
        denominator = _denominator_whole((height, width), size)
        image.draft(None, (image.width // denominator, image.height // denominator))
        if not image.info.get("progressive"):  # whose coefficients are all held
            pixels = image.width * image.height
        with BUDGET.room(pixels):
            if pixels > LARGE and image.mode in ("L", "RGB"):  # turning needs a copy: of the small
                turn = turn_of(image.info.get("exif"))
                image = image.resize(turn.size(*size[::-1]), RESAMPLE["bilinear"])
            image = _in_rgb(_upright(image, None, takes_range=False))
            if image.size != size[::-1]:
                image = image.resize(size[::-1], RESAMPLE["bilinear"])
            return _pixels(image), (height, width)


def image_header(data: bytes | memoryview, name: str) -> tuple[int, int, bool]:
    """Width and height of the upright image, and whether it is grey, without decoding it."""
    with naming(name), open_image(data) as image:
        return *_upright_size(image), image.mode in GRAY_MODES


def render(image: Image.Image, view: Crop) -> NDArray[np.uint8]:
    """Pixels (size, size, channels) of one view of an open image, antialiased."""
    width, height = _upright_size(image)
    box = _inside(view.box(width, height), width, height)
    denominator = _denominator(box, view.size)
    image.draft(None, (image.width // denominator, image.height // denominator))
    image = _upright(image, view.levels)
    if image.size != (width, height):
        across, down = image.width / width, image.height / height
        box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    box = _inside(box, *image.size)
    cut = None if kernel() is None else resize_box(_planes(image), box, *view.scaling)
    if cut is None:
        small = image.resize((view.size, view.size), RESAMPLE[view.interpolation], box)
        return _planes(small.convert("L" if view.channels == 1 else "RGB")).copy()
    return _with_channels(cut, view.channels)


def render_pixels(pixels: NDArray[np.uint8], view: Crop) -> NDArray[np.uint8]:
    """The same of an upright image (H, W, 1 or 3) that is decoded already."""
    height, width, planes = pixels.shape
    box = _inside(view.box(width, height), width, height)
    cut = resize_box(pixels, box, *view.scaling)
    if cut is None:
        return render(Image.fromarray(pixels[:, :, 0] if planes == 1 else pixels), view)
    return _with_channels(cut, view.channels)


def _decode_stack(data: bytes | memoryview, view: Crop) -> NDArray[Any]:
    pixels = read_stack(data, view.channels, view.levels)
    height, width = pixels.shape[:2]
    box = _inside(view.box(width, height), width, height)
    seen = resize_stack(pixels, box, *view.scaling)
    return seen if view.keep_bits else to_bytes(seen)


def center_box(size: int, resize: int) -> Callable[[int, int], Box]:
    """The centre `size` x `size` of an image scaled to shorter side `resize`."""

    def box(width: int, height: int) -> Box:
        wide, high = scaled_size(width, height, resize)
        left, top = round((wide - size) / 2), round((high - size) / 2)
        return grid_box(width, height, resize, (left, top, left + size, top + size))

    return box


def scaled_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height once the shorter of them is `side`."""
    short = min(width, height)
    return side * width // short, side * height // short


def grid_box(width: int, height: int, side: int, crop: tuple[int, int, int, int]) -> Box:
    """Where `crop` (left, top, right, bottom) of the image scaled to `side` lies in the stored.

    Resizing this box alone gives the pixels that scaling the whole image and cropping would.
    """
    wide, high = scaled_size(width, height, side)
    x, y = width / wide, height / high
    return crop[0] * x, crop[1] * y, crop[2] * x, crop[3] * y


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a DataError that names the image."""
    try:
        yield
    except Exception as error:  # decoders raise anything on damaged bytes, up to struct.error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{name}: cannot be read as an image ({reason}); repair or remove it"
        ) from error


def _decode_jpeg(data: bytes, view: Crop) -> NDArray[np.uint8] | None:
    """One view of a clean JPEG; None where Pillow has to look at it."""
    header = jpeg.read_header(data)
    if header is None or header.width * header.height > MAX_PIXELS:
        return None
    turn = turn_of(header.exif)
    width, height = turn.size(header.width, header.height)
    box = _inside(view.box(width, height), width, height)
    seen = jpeg.decode_box(
        data,
        header,
        turn.as_stored(box, width, height),
        denominator=_denominator(box, view.size),
        shape=(view.size, view.size, view.channels),
        interpolation=view.interpolation,
        max_scans=max_scans(header.width, header.height),
    )
    return None if seen is None else turn.apply(seen)


def _planes(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels (H, W, 1 or 3) of an L or RGB image, not to be written to."""
    return np.asarray(image).reshape(image.height, image.width, -1)


def _with_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """(H, W, 1 or 3) as (H, W, channels)."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return _planes(Image.fromarray(pixels).convert("L")).copy()


def _inside(box: Box, width: int, height: int) -> Box:
    """`box` without what rounding puts outside the image."""
    return max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)


def _denominator(box: Box, size: int) -> int:
    """1, 2, 4 or 8: by how much a JPEG may be scaled down in the DCT domain."""
    shrink = min(box[2] - box[0], box[3] - box[1]) / (size * REDUCED_MARGIN)
    return 8 if shrink >= 8 else 4 if shrink >= 4 else 2 if shrink >= 2 else 1


def _denominator_whole(stored: tuple[int, int], size: tuple[int, int]) -> int:
    """1, 2, 4 or 8, as `_denominator`, of a whole image; more for large ones."""
    margin = REDUCED_MARGIN if stored[0] * stored[1] <= LARGE else LARGE_MARGIN
    shrink = min(have / (want * margin) for have, want in zip(stored, size, strict=True))
    return 8 if shrink >= 8 else 4 if shrink >= 4 else 2 if shrink >= 2 else 1


def _in_rgb(image: Image.Image) -> Image.Image:
    """The image as RGB; itself where it is, of which Pillow would make a copy."""
    return image if image.mode == "RGB" else image.convert("RGB")


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) of an RGB image; of large ones by bands, since Pillow makes two copies."""
    if image.width * image.height <= LARGE:
        return np.array(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, BAND):
        bottom = min(top + BAND, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _upright_size(image: Image.Image) -> tuple[int, int]:
    return turn_of(image.info.get("exif")).size(*image.size)


def _upright(image: Image.Image, levels: Levels | None, *, takes_range: bool = True) -> Image.Image:
    """The decoded image, turned by its EXIF orientation, as 8-bit L or RGB."""
    turn = TRANSPOSE.get(turn_of(image.info.get("exif")).orientation)
    image.load()
    image = as_bytes(image, levels, takes_range=takes_range)
    return image if turn is None else image.transpose(turn)


HEADER = re.compile(rb"P([56])\n(\d{1,9}) (\d{1,9})\n255\n")


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """An image (H, W, 1) or (H, W, 3) as a file that any reader of PGM and PPM opens."""
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
