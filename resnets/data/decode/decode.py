"""Decode an encoded image to uint8 pixels of one view. All decoding and resizing is done here.

A `Crop` is the part of an image to read and its size in pixels, so that the decoder can read a JPEG
at reduced resolution. Images are turned upright by their EXIF orientation; `pixel_values` converts
their values to 8-bit gray or RGB.
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
from resnets.data.decode.exif import Box, read_orientation
from resnets.data.decode.open_image import BUDGET, MAX_PIXELS, max_scans, open_image
from resnets.data.decode.pixel_values import Levels, to_8_bit
from resnets.data.decode.stacks import is_stack, read_stack, resize_stack, to_bytes
from resnets.data.errors import DataError
from resnets.ops.resize import kernel, resize_box

GRAY_MODES = frozenset({"1", "L", "F", "I", "I;16", "I;16L", "I;16B", "I;16N"})
RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
TRANSPOSE = {  # Pillow's names of the operations that undo EXIF orientations 2..8
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A JPEG is read at 1/2, 1/4 or 1/8 only if at least this many pixels per output pixel are left:
# the antialiased resize that follows then hides the coarser DCT scaling (measured on COCO: 0.6 of
# 255 on average).
REDUCED_MARGIN = 3.0
# Whole images of more pixels are read at a lower resolution, to save memory.
LARGE_IMAGE, LARGE_MARGIN = 1 << 24, 1.5
BAND_ROWS = 64  # of a large image, copied at once


@dataclass(frozen=True)
class Crop:
    """A view of an image: the part `box(width, height)`, as `size` x `size` x `channels`.

    levels: values of images of more than 8 bits that become 0 and 255; None for the range of 16
    bits. keep_bits: pixels are float32 in 0..255, with all stored bits.
    """

    size: int
    channels: int
    box: Callable[[int, int], Box]
    interpolation: str = "bilinear"
    levels: Levels | None = None
    keep_bits: bool = False


def decode(data: bytes | memoryview, view: Crop, name: str) -> NDArray[Any]:
    """Decode pixels (size, size, channels) of a view: uint8, or float32 in 0..255 if it keeps bits.

    A plain JPEG is decoded in part, by `data/decode/jpeg.py`; pixels of a PPM are used in place;
    Pillow reads everything else. Raises DataError, which names the image, if it is unreadable,
    truncated or has more than 89 million pixels. Parts of a JPEG outside the view are not decoded:
    damage there is not noticed, but a missing end is.
    """
    with reading_image(name):
        if view.keep_bits or view.channels not in (1, 3) or is_stack(data):
            return _decode_stack(data, view)
        pixels = read_pnm(data)
        if pixels is not None:
            return render_pixels(pixels, view)
        part = _decode_jpeg(data, view)
        if part is not None:
            return part
        with open_image(data) as image:
            return render(image, view)


def decode_whole(
    data: bytes | memoryview, name: str, levels: Levels | None = None
) -> NDArray[np.uint8]:
    """Decode the whole upright image (H, W, 3) at its stored size; raises as `decode`.

    levels: see `Crop`. Plain JPEGs are decoded by `data/decode/jpeg.py`, which skips Pillow's
    copies; all others by Pillow.
    """
    with reading_image(name):
        pixels = _decode_whole_jpeg(data)
    if pixels is not None:
        return pixels
    with reading_image(name), open_image(data) as image, BUDGET.reserve(image.width * image.height):
        return _copy_pixels(_to_rgb(_load_upright(image, levels)))


def decode_fitted(
    data: bytes | memoryview, name: str, size_of: Callable[[int, int], tuple[int, int]]
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Decode the whole upright image (H, W, 3), resized to `size_of(width, height)`: (H, W).

    Bilinear and antialiased. Also returns its stored (H, W). A much larger JPEG is read at 1/2, 1/4
    or 1/8 of its size, and only a few large images are decoded at a time (`BUDGET`). Raises as
    `decode`.
    """
    with reading_image(name), open_image(data) as image:
        return render_fitted(image, size_of)


def render_fitted(
    image: Image.Image, size_of: Callable[[int, int], tuple[int, int]]
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return pixels (H, W, 3) of an open image, and its stored (H, W); see `decode_fitted`."""
    width, height = _upright_size(image)
    size = size_of(width, height)
    pixels = width * height
    denominator = _denominator_whole((height, width), size)
    image.draft(None, (image.width // denominator, image.height // denominator))
    if not image.info.get("progressive"):  # all its coefficients are kept in memory
        pixels = image.width * image.height
    with BUDGET.reserve(pixels):
        if pixels > LARGE_IMAGE and image.mode in ("L", "RGB"):  # before a copy is turned
            orientation = read_orientation(image.info.get("exif"))
            image = image.resize(orientation.size(*size[::-1]), RESAMPLE["bilinear"])
        image = _to_rgb(_load_upright(image, None, takes_range=False))
        if image.size != size[::-1]:
            image = image.resize(size[::-1], RESAMPLE["bilinear"])
        return _copy_pixels(image), (height, width)


def image_header(data: bytes | memoryview, name: str) -> tuple[int, int, bool]:
    """Return width and height of the upright image, and whether it is gray, without decoding it."""
    with reading_image(name), open_image(data) as image:
        return *_upright_size(image), image.mode in GRAY_MODES


def render(image: Image.Image, view: Crop) -> NDArray[np.uint8]:
    """Return pixels (size, size, channels) of a view of an open image, antialiased."""
    width, height = _upright_size(image)
    box = _clip_box(view.box(width, height), width, height)
    denominator = _denominator(box, view.size)
    image.draft(None, (image.width // denominator, image.height // denominator))
    image = _load_upright(image, view.levels)
    if image.size != (width, height):
        scale_x, scale_y = image.width / width, image.height / height
        box = (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y)
    box = _clip_box(box, *image.size)
    resized = (
        None
        if kernel() is None
        else resize_box(_to_array(image), box, view.size, view.interpolation)
    )
    if resized is None:
        small = image.resize((view.size, view.size), RESAMPLE[view.interpolation], box)
        return _to_array(small.convert("L" if view.channels == 1 else "RGB")).copy()
    return _convert_channels(resized, view.channels)


def render_pixels(pixels: NDArray[np.uint8], view: Crop) -> NDArray[np.uint8]:
    """Return pixels of a view of a decoded upright image (H, W, 1 or 3), as `render`."""
    height, width, planes = pixels.shape
    box = _clip_box(view.box(width, height), width, height)
    resized = resize_box(pixels, box, view.size, view.interpolation)
    if resized is None:
        return render(Image.fromarray(pixels[:, :, 0] if planes == 1 else pixels), view)
    return _convert_channels(resized, view.channels)


def _decode_stack(data: bytes | memoryview, view: Crop) -> NDArray[Any]:
    pixels = read_stack(data, view.channels, view.levels)
    height, width = pixels.shape[:2]
    box = _clip_box(view.box(width, height), width, height)
    resized = resize_stack(pixels, box, view.size, view.interpolation)
    return resized if view.keep_bits else to_bytes(resized)


def center_box(size: int, resize: int) -> Callable[[int, int], Box]:
    """Return the box of the center `size` x `size` of an image scaled to shorter side `resize`."""

    def box(width: int, height: int) -> Box:
        wide, high = scaled_size(width, height, resize)
        left, top = round((wide - size) / 2), round((high - size) / 2)
        return grid_box(width, height, resize, (left, top, left + size, top + size))

    return box


def scaled_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Return width and height scaled so that the shorter one is `side`."""
    short = min(width, height)
    return side * width // short, side * height // short


def grid_box(width: int, height: int, side: int, crop: tuple[int, int, int, int]) -> Box:
    """Return the box, in the stored image, of a crop of the resized image.

    crop: (left, top, right, bottom) in px after resizing to shorter side `side`.

    Resizing this box gives the same pixels as scaling the whole image and cropping.
    """
    wide, high = scaled_size(width, height, side)
    x, y = width / wide, height / high
    return crop[0] * x, crop[1] * y, crop[2] * x, crop[3] * y


@contextmanager
def reading_image(name: str) -> Iterator[None]:
    """Turn all errors of decoders into a DataError that names the image."""
    try:
        yield
    except Exception as error:  # decoders raise anything on damaged bytes, up to struct.error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{name}: cannot be read as an image ({reason}); repair or remove it"
        ) from error


def _decode_jpeg(data: bytes | memoryview, view: Crop) -> NDArray[np.uint8] | None:
    """Decode a view of a plain JPEG; None if Pillow must read it."""
    header = jpeg.read_header(data)
    if header is None or header.width * header.height > MAX_PIXELS:
        return None
    orientation = read_orientation(header.exif)
    width, height = orientation.size(header.width, header.height)
    box = _clip_box(view.box(width, height), width, height)
    part = jpeg.decode_box(
        data,
        header,
        orientation.to_stored(box, width, height),
        denominator=_denominator(box, view.size),
        shape=(view.size, view.size, view.channels),
        interpolation=view.interpolation,
        max_scans=max_scans(header.width, header.height),
    )
    return None if part is None else orientation.apply(part)


def _decode_whole_jpeg(data: bytes | memoryview) -> NDArray[np.uint8] | None:
    """Decode a plain JPEG to (H, W, 3); None if Pillow must read it."""
    header = jpeg.read_header(data)
    if header is None or header.width * header.height > MAX_PIXELS:
        return None
    width, height = header.width, header.height
    with BUDGET.reserve(width * height):
        pixels = jpeg.decode_box(
            data,
            header,
            (0, 0, width, height),
            denominator=1,
            shape=(height, width, 3),
            interpolation="bilinear",
            max_scans=max_scans(width, height),
        )
        return None if pixels is None else read_orientation(header.exif).apply(pixels)


def _to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Return read-only pixels (H, W, 1 or 3) of an L or RGB image."""
    return np.asarray(image).reshape(image.height, image.width, -1)


def _convert_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Convert (H, W, 1 or 3) to (H, W, channels)."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return _to_array(Image.fromarray(pixels).convert("L")).copy()


def _clip_box(box: Box, width: int, height: int) -> Box:
    """Clip a box to the image, since rounding may exceed it."""
    return max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)


def _denominator(box: Box, size: int) -> int:
    """Return 1, 2, 4 or 8: the factor by which a JPEG may be scaled down in the DCT domain."""
    shrink = min(box[2] - box[0], box[3] - box[1]) / (size * REDUCED_MARGIN)
    return 8 if shrink >= 8 else 4 if shrink >= 4 else 2 if shrink >= 2 else 1


def _denominator_whole(stored: tuple[int, int], size: tuple[int, int]) -> int:
    """Return 1, 2, 4 or 8, as `_denominator`, for a whole image; higher for large ones."""
    margin = REDUCED_MARGIN if stored[0] * stored[1] <= LARGE_IMAGE else LARGE_MARGIN
    shrink = min(
        stored_side / (side * margin) for stored_side, side in zip(stored, size, strict=True)
    )
    return 8 if shrink >= 8 else 4 if shrink >= 4 else 2 if shrink >= 2 else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return the image as RGB; itself if it is, since Pillow would copy it."""
    return image if image.mode == "RGB" else image.convert("RGB")


def _copy_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return pixels (H, W, 3) of an RGB image; large ones in bands, as Pillow makes two copies."""
    if image.width * image.height <= LARGE_IMAGE:
        return np.array(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, BAND_ROWS):
        bottom = min(top + BAND_ROWS, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _upright_size(image: Image.Image) -> tuple[int, int]:
    return read_orientation(image.info.get("exif")).size(*image.size)


def _load_upright(
    image: Image.Image, levels: Levels | None, *, takes_range: bool = True
) -> Image.Image:
    """Decode the image, turn it by its EXIF orientation, and convert it to 8-bit L or RGB."""
    transpose = TRANSPOSE.get(read_orientation(image.info.get("exif")).orientation)
    image.load()
    image = to_8_bit(image, levels, takes_range=takes_range)
    return image if transpose is None else image.transpose(transpose)


HEADER = re.compile(rb"P([56])\n(\d{1,9}) (\d{1,9})\n255\n")


def encode_pnm(pixels: NDArray[np.uint8]) -> bytes:
    """Encode an image (H, W, 1) or (H, W, 3) as PGM or PPM."""
    height, width, planes = pixels.shape
    header = f"P{5 if planes == 1 else 6}\n{width} {height}\n255\n"
    return header.encode() + pixels.tobytes()


def read_pnm(data: bytes | memoryview) -> NDArray[np.uint8] | None:
    """Return the pixels (H, W, C) without a copy; None for files other than of `encode_pnm`."""
    found = HEADER.match(data)
    if found is None:
        return None
    width, height, planes = int(found[2]), int(found[3]), 1 if found[1] == b"5" else 3
    if min(width, height) < 1 or len(data) - found.end() != width * height * planes:
        return None
    return np.frombuffer(data, np.uint8, offset=found.end()).reshape(height, width, planes)
