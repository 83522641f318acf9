"""Pixels of the views of one picture: read once, then cut and rescaled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.config import Preprocess
from resnets.data import DataError, FileSplit, Split, TensorSplit
from resnets.data.decode.decode import Box, Crop, center_box, decode_whole, grid_box, scaled_size
from resnets.evaluate.views.views import LONGEST, Views

Pixels = NDArray[np.uint8]


def cut(split: Split, index: int, views: Views, preprocess: Preprocess) -> list[Pixels]:
    """The views of picture `index`, unflipped, each (H, W, C): side by side, then crop by crop.

    Crops are (size, size, C); ten-crop gives five a side: top left, top right, bottom left, bottom
    right, centre. A dense view is the whole picture. DataError names a picture that cannot be read.
    """
    sides, spec = views.sides(preprocess), preprocess
    if views.kind == "center":  # the very road of prediction
        return [
            split.read(index, Crop(spec.size, spec.channels, box, spec.interpolation))
            for box in (center_box(spec.size, side) for side in sides)
        ]
    picture = stored(split, index).convert("L" if spec.channels == 1 else "RGB")
    if views.kind == "dense":
        picture = picture.crop(_middle(*picture.size))
        whole: Box = (0, 0, *picture.size)
        wanted = [(scaled_size(*picture.size, side), whole) for side in sides]
    else:
        square = (spec.size, spec.size)
        wanted = [
            (square, box)
            for side in sides
            for box in _corners_and_center(*picture.size, side, spec.size)
        ]
    method = Image.Resampling[spec.interpolation.upper()]
    return [
        np.array(picture.resize(size, method, box)).reshape(*size[::-1], spec.channels)
        for size, box in wanted
    ]


def stored(split: Split, index: int) -> Image.Image:
    """The whole upright picture at its stored size; DataError names one that cannot be read."""
    if isinstance(split, TensorSplit):
        pixels = split.images[index].numpy()
        return Image.fromarray(pixels[:, :, 0] if split.channels == 1 else pixels)
    if isinstance(split, FileSplit):
        data, name = split.files.read(index), split.files.name(index)
        return Image.fromarray(decode_whole(data, name, split.value_range))
    raise DataError(
        f"{split.description}: its whole pictures are not stored; evaluate the set it was made of"
    )


def picture_name(split: Split, index: int) -> str:
    """What messages call a picture: its path, or its number where it has none."""
    if isinstance(split, FileSplit):
        return split.files.name(index)
    return f"picture {index}"


def _corners_and_center(width: int, height: int, side: int, size: int) -> Iterator[Box]:
    """Where the five crops of the picture at shorter side `side` lie in the stored one."""
    wide, high = scaled_size(width, height, side)
    right, bottom = wide - size, high - size
    middle = (round(right / 2), round(bottom / 2))
    for left, top in ((0, 0), (right, 0), (0, bottom), (right, bottom), middle):
        box = grid_box(width, height, side, (left, top, left + size, top + size))
        yield box[0], box[1], min(box[2], width), min(box[3], height)  # rounding may pass the edge


def _middle(width: int, height: int) -> tuple[int, int, int, int]:
    """The centre of a picture longer than 4:1, and all of any other."""
    wide, high = min(width, LONGEST * height), min(height, LONGEST * width)
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high
