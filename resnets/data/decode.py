"""Encoded picture -> uint8 pixels of one view. All decoding and resizing goes through here.

A `View` names the part of a picture that is wanted and its size in pixels; the decoder may use
that to read a JPEG at reduced resolution. Pictures are turned upright by their EXIF orientation;
transparency is laid over white; 16-bit values are scaled to 8 bits; CMYK and palettes become RGB.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from resnets.data.errors import DataError

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the upright picture
GREY_MODES = frozenset({"1", "L", "I", "I;16", "I;16L", "I;16B", "I;16N"})
RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
TURNS = dict(  # EXIF orientations 2..8, undone
    enumerate(
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        start=2,
    )
)

# A JPEG is read at 1/2, 1/4 or 1/8 only while at least this many pixels are left for each one
# asked for: the antialiased resize that follows then hides the cruder DCT scaling (measured on
# COCO: 0.6 of 255 on average).
REDUCED_MARGIN = 3.0


@dataclass(frozen=True)
class View:
    """What to see of a picture: the part `box(width, height)`, as `size` x `size` x `channels`."""

    size: int
    channels: int
    box: Callable[[int, int], Box]
    interpolation: str = "bilinear"


def decode(data: bytes, view: View, name: str) -> NDArray[np.uint8]:
    """Pixels (size, size, channels) of one view of an encoded picture.

    DataError names the picture `name` when it is unreadable, truncated or absurdly large.
    """
    with naming(name), Image.open(io.BytesIO(data)) as image:
        return render(image, view)


def decode_whole(data: bytes, name: str) -> NDArray[np.uint8]:
    """The whole upright picture (H, W, 3) at its stored size; DataError as `decode`."""
    with naming(name), Image.open(io.BytesIO(data)) as image:
        return np.array(_upright(image).convert("RGB"))


def picture_header(data: bytes, name: str) -> tuple[int, int, bool]:
    """Width and height of the upright picture, and whether it is grey, without decoding it."""
    with naming(name), Image.open(io.BytesIO(data)) as image:
        return *_upright_size(image), image.mode in GREY_MODES


def render(image: Image.Image, view: View) -> NDArray[np.uint8]:
    """Pixels (size, size, channels) of one view of an open picture, antialiased."""
    width, height = _upright_size(image)
    box = view.box(width, height)
    _read_reduced(image, box, view.size)
    image = _upright(image)
    if image.size != (width, height):
        across, down = image.width / width, image.height / height
        box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    inside = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))
    image = image.resize((view.size, view.size), RESAMPLE[view.interpolation], inside)
    image = image.convert("L" if view.channels == 1 else "RGB")
    return np.array(image).reshape(view.size, view.size, view.channels)


def centre_box(size: int, resize: int) -> Callable[[int, int], Box]:
    """The centre `size` x `size` of a picture scaled to shorter side `resize`."""

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
    """Where `crop` (left, top, right, bottom) of the picture scaled to `side` lies in the stored.

    Resizing this box alone gives the pixels that scaling the whole picture and cropping would.
    """
    wide, high = scaled_size(width, height, side)
    x, y = width / wide, height / high
    return crop[0] * x, crop[1] * y, crop[2] * x, crop[3] * y


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a DataError that names the picture."""
    try:
        yield
    except Exception as error:  # decoders raise anything on damaged bytes, up to struct.error
        unknown = isinstance(error, UnidentifiedImageError)
        said = " ".join(str(error).split()) or type(error).__name__
        reason = "no picture format known here" if unknown else said
        raise DataError(
            f"{name}: cannot be read as a picture ({reason}); repair or remove it"
        ) from error


def _upright_size(image: Image.Image) -> tuple[int, int]:
    return image.size[::-1] if _orientation(image) >= 5 else image.size  # 5..8 swap the sides


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 = upright. (Pillow turns TIFF files upright itself.)"""
    if "exif" not in image.info:
        return 1
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF says nothing of the picture, which may be whole
        return 1


def _read_reduced(image: Image.Image, box: Box, size: int) -> None:
    """Let the JPEG decoder scale down in the DCT domain where that keeps quality."""
    shrink = min(box[2] - box[0], box[3] - box[1]) / (size * REDUCED_MARGIN)
    if shrink >= 2:
        image.draft(None, (int(image.width / shrink), int(image.height / shrink)))


def _upright(image: Image.Image) -> Image.Image:
    """The decoded picture, turned by its EXIF orientation, as 8-bit L or RGB."""
    turn = TURNS.get(_orientation(image))
    image.load()
    if turn is not None:
        image = image.transpose(turn)
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return image.convert("L" if image.mode == "1" else "RGB")
