"""Resize, flip and crop an image together with its boxes, masks and class map.

`FittedPreprocessor` converts images to the input of a model in evaluation and prediction.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from resnets.data.decode.decode import decode_fitted, render_fitted
from resnets.data.files.folder import read_file
from resnets.data.transforms.preprocess import ImageInput, Preprocessor, open_given
from resnets.detect.data.class_maps import IGNORE
from resnets.detect.data.masks import render_masks
from resnets.detect.data.types import Floats, Ints, Pixels, Target


@dataclass(frozen=True)
class ResizeFlip:
    """Resize an image to `size` (H, W), then flip it."""

    size: tuple[int, int]
    flip: bool = False
    flip_vertical: bool = False


def fit_size(width: int, height: int, shorter: float, longer: float) -> tuple[int, int]:
    """Return (H, W) with a shorter side of `shorter` px, or less if the longer exceeds `longer`."""
    scale = min(shorter / min(width, height), longer / max(width, height))
    return max(1, round(height * scale)), max(1, round(width * scale))


def read_fitted(
    image: ImageInput | bytes | memoryview,
    name: str,
    size_of: Callable[[int, int], tuple[int, int]],
) -> tuple[Pixels, tuple[int, int]]:
    """Return an image (encoded, a path or in memory) at the size of `size_of`; see `decode_fitted`.

    Raises DataError, whose message refers to the image as `name`.
    """
    if isinstance(image, str | os.PathLike):
        image = read_file(Path(image))
    if isinstance(image, bytes | memoryview):
        return decode_fitted(image, name, size_of)
    with open_given(image, name) as opened:
        return render_fitted(opened, size_of)


@dataclass(frozen=True, eq=False)
class FittedPreprocessor(Preprocessor):
    """Applies a `Preprocess` to whole images, resized by `fit_size` to `shorter` and `longer` px.

    Inputs vary in size, (3, h, w) each, so a sequence of images is converted to a list of inputs.
    """

    shorter: float = 0
    longer: float = 0

    def to_tensor(self, image: ImageInput) -> Tensor:
        """Convert an image (a path, PIL image, array or tensor) to uint8 (3, h, w)."""
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else "the image given"
        pixels, _ = read_fitted(image, name, self._fit)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _fit(self, width: int, height: int) -> tuple[int, int]:
        return fit_size(width, height, self.shorter, self.longer)

    def __call__(self, image: ImageInput | Sequence[ImageInput]) -> Any:
        """Return the model's input: float32 (3, h, w) for an image; a list for a sequence."""
        if isinstance(image, Sequence) and not isinstance(image, str):
            return [self(each) for each in image]
        return super().__call__(image)


def resize_image(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize an image (H, W, 3) to `size` (H, W), bilinear and antialiased."""
    if pixels.shape[:2] == size:
        return pixels
    image = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.array(image)


def transform_image(pixels: Pixels, transform: ResizeFlip) -> Pixels:
    """Apply `transform` to an image (H, W, 3)."""
    return np.ascontiguousarray(_flip(resize_image(pixels, transform.size), transform, 0))


def transform_boxes(boxes: Floats, stored: tuple[int, int], transform: ResizeFlip) -> Floats:
    """Apply `transform` to boxes (M, 4) of an image of `stored` (H, W) px."""
    height, width = transform.size
    x_scale, y_scale = width / stored[1], height / stored[0]
    scaled = boxes * np.array([x_scale, y_scale, x_scale, y_scale], np.float32)
    if transform.flip:
        scaled[:, [0, 2]] = width - scaled[:, [2, 0]]
    if transform.flip_vertical:
        scaled[:, [1, 3]] = height - scaled[:, [3, 1]]
    return scaled.astype(np.float32)


def transform_masks(target: Target, transform: ResizeFlip) -> Pixels:
    """Return the masks (M, H, W) uint8 of 0 and 1 after `transform`."""
    assert target.masks is not None
    masks = render_masks(target.masks, transform.size, (target.height, target.width))
    return np.ascontiguousarray(_flip(masks, transform, 1))


def transform_class_map(classes: Pixels, transform: ResizeFlip) -> Pixels:
    """Apply `transform` to a class map (H, W), by nearest neighbor."""
    if classes.shape != transform.size:
        image = Image.fromarray(classes).resize(transform.size[::-1], Image.Resampling.NEAREST)
        classes = np.asarray(image)
    return np.ascontiguousarray(_flip(classes, transform, 0))


def crop_square(
    pixels: Pixels, classes: Pixels, side: int, position: tuple[float, float], fill: Sequence[int]
) -> tuple[Pixels, Pixels]:
    """Crop a `side` x `side` square of an image and of its class map.

    position: (y, x) in [0, 1) of the crop within its range. A smaller image is padded to a square
    with the color `fill`, whose class is IGNORE.
    """
    height, width = classes.shape
    image = np.empty((side, side, 3), np.uint8)
    image[:] = fill
    labels = np.full((side, side), IGNORE, np.uint8)
    top, top_out, rows = _span(height, side, position[0])
    left, left_out, columns = _span(width, side, position[1])
    source = np.s_[top : top + rows, left : left + columns]
    destination = np.s_[top_out : top_out + rows, left_out : left_out + columns]
    image[destination], labels[destination] = pixels[source], classes[source]
    return image, labels


def crop_object(
    boxes: Floats, size: tuple[int, int], side: int, positions: Sequence[tuple[float, float]]
) -> tuple[tuple[slice, slice], Floats, Ints]:
    """Choose a square crop of `side` px that contains an object of an image of `size` (H, W).

    boxes: (N, 4) corners in px. The first of `positions` ((y, x) in [0, 1)) is used at which at
    least half of the area of an object is in the crop; if there is none, the crop is centered at
    the first object. Returns the rows and columns of the crop (the whole image if it is smaller),
    the boxes (M, 4) with at least half of their area in the crop (else the first box), clipped and
    relative to the crop, and the indices (M,) of these boxes.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    center = (boxes[0, :2] + boxes[0, 2:]) / 2
    free = [max(0, length - side) for length in size]
    centered = [
        int(min(max(value - side / 2, 0), most))
        for value, most in zip(center[::-1], free, strict=True)
    ]
    corners = [
        [int(value * (most + 1)) for value, most in zip(position, free, strict=True)]
        for position in positions
    ]
    for top, left in [*corners, centered]:
        bottom, right = min(size[0], top + side), min(size[1], left + side)
        clipped = np.clip(boxes, [left, top] * 2, [right, bottom] * 2)
        inside = (clipped[:, 2:] - clipped[:, :2]).prod(1) >= areas / 2
        if inside.any():
            break
    rows = np.flatnonzero(inside) if inside.any() else np.zeros(1, np.int64)
    cropped = (clipped[rows] - np.array([left, top] * 2, np.float32)).astype(np.float32)
    return (slice(top, bottom), slice(left, right)), cropped, rows


def _span(length: int, side: int, position: float) -> tuple[int, int, int]:
    """Return the first pixel read, the first pixel written, and their number."""
    free = int(position * (abs(length - side) + 1))
    return (free, 0, side) if length >= side else (0, free, length)


def _flip(values: Pixels, transform: ResizeFlip, axis: int) -> Pixels:
    """Flip `axis` (rows) and `axis + 1` (columns)."""
    values = np.flip(values, axis) if transform.flip_vertical else values
    return np.flip(values, axis + 1) if transform.flip else values


def box_iou(boxes: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Return torchvision's intersection over union (N, M) of arrays (N, 4) and (M, 4).

    0 if neither box has an area.
    """
    a, b = (
        torch.from_numpy(np.asarray(each, np.float64).reshape(-1, 4)) for each in (boxes, others)
    )
    return torchvision.ops.box_iou(a, b).nan_to_num().numpy()
