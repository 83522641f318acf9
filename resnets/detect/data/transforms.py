"""Resizing, mirroring and cutting a image together with its boxes, masks and class map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image

from resnets.detect.data.masks import render_masks
from resnets.detect.data.types import IGNORE, Floats, Ints, Pixels, Target


@dataclass(frozen=True)
class Change:
    """What is done to one image: brought to `size` (H, W), then mirrored."""

    size: tuple[int, int]
    flip: bool = False
    flip_vertical: bool = False


def fitted_size(width: int, height: int, shorter: float, longer: float) -> tuple[int, int]:
    """(H, W) at which the shorter side is `shorter` px, or less where the longer would pass."""
    scale = min(shorter / min(width, height), longer / max(width, height))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """A image (H, W, 3) at `size` (H, W), bilinear and antialiased."""
    if pixels.shape[:2] == size:
        return pixels
    image = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.array(image)


def change_image(pixels: Pixels, change: Change) -> Pixels:
    """The image (H, W, 3) after `change`."""
    return np.ascontiguousarray(_mirrored(resized(pixels, change.size), change, 0))


def change_boxes(boxes: Floats, stored: tuple[int, int], change: Change) -> Floats:
    """Boxes (M, 4) of a image of `stored` (H, W) px, after `change`."""
    height, width = change.size
    across, down = width / stored[1], height / stored[0]
    moved = boxes * np.array([across, down, across, down], np.float32)
    if change.flip:
        moved[:, [0, 2]] = width - moved[:, [2, 0]]
    if change.flip_vertical:
        moved[:, [1, 3]] = height - moved[:, [3, 1]]
    return moved.astype(np.float32)


def change_masks(target: Target, change: Change) -> Pixels:
    """The masks (M, H, W) uint8 of 0 and 1 after `change`."""
    assert target.masks is not None
    masks = render_masks(target.masks, change.size, (target.height, target.width))
    return np.ascontiguousarray(_mirrored(masks, change, 1))


def change_classes(classes: Pixels, change: Change) -> Pixels:
    """A class map (H, W) after `change`; no class is made up between two others."""
    if classes.shape != change.size:
        image = Image.fromarray(classes).resize(change.size[::-1], Image.Resampling.NEAREST)
        classes = np.asarray(image)
    return np.ascontiguousarray(_mirrored(classes, change, 0))


def cut(
    pixels: Pixels, classes: Pixels, side: int, place: tuple[float, float], fill: Sequence[int]
) -> tuple[Pixels, Pixels]:
    """A `side` x `side` part of a image and of its class map.

    place: (down, across) in [0, 1) of where it may lie. Where the image is smaller, it lies at
    random in a square of the colour `fill`, whose class is IGNORE.
    """
    height, width = classes.shape
    image = np.empty((side, side, 3), np.uint8)
    image[:] = fill
    labels = np.full((side, side), IGNORE, np.uint8)
    top, to_top, high = _span(height, side, place[0])
    left, to_left, wide = _span(width, side, place[1])
    inside = np.s_[top : top + high, left : left + wide]
    there = np.s_[to_top : to_top + high, to_left : to_left + wide]
    image[there], labels[there] = pixels[inside], classes[inside]
    return image, labels


def crop_object(
    boxes: Floats, size: tuple[int, int], side: int, places: Sequence[tuple[float, float]]
) -> tuple[tuple[slice, slice], Floats, Ints]:
    """A square of `side` px of an image of `size` (H, W) with an object in it.

    The first of `places` ((down, across) in [0, 1)) where half of the area of some object is
    inside; if none is, the square around the center of the first object. Returns rows and columns
    of the square (all of them where the image is smaller), the boxes that are inside by half or
    more, or the first one, clipped and in its pixels, and their numbers.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    center = (boxes[0, :2] + boxes[0, 2:]) / 2
    free = [max(0, length - side) for length in size]
    middle = [
        int(min(max(at - side / 2, 0), most)) for at, most in zip(center[::-1], free, strict=True)
    ]
    corners = [
        [int(at * (most + 1)) for at, most in zip(place, free, strict=True)] for place in places
    ]
    for top, left in [*corners, middle]:
        bottom, right = min(size[0], top + side), min(size[1], left + side)
        clipped = np.clip(boxes, [left, top] * 2, [right, bottom] * 2)
        inside = (clipped[:, 2:] - clipped[:, :2]).prod(1) >= areas / 2
        if inside.any():
            break
    rows = np.flatnonzero(inside) if inside.any() else np.zeros(1, np.int64)
    found = (clipped[rows] - np.array([left, top] * 2, np.float32)).astype(np.float32)
    return (slice(top, bottom), slice(left, right)), found, rows


def _span(length: int, side: int, where: float) -> tuple[int, int, int]:
    """First pixel read, first pixel written, and how many."""
    free = int(where * (abs(length - side) + 1))
    return (free, 0, side) if length >= side else (0, free, length)


def _mirrored(values: Pixels, change: Change, first: int) -> Pixels:
    """Mirror the axes `first` (rows) and `first + 1` (columns)."""
    values = np.flip(values, first) if change.flip_vertical else values
    return np.flip(values, first + 1) if change.flip else values


def box_iou(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """torchvision's intersection over union (N, M) of arrays (N, 4) and (M, 4).

    0 where neither box has an area.
    """
    a, b = (torch.from_numpy(np.asarray(each, np.float64).reshape(-1, 4)) for each in (one, other))
    return torchvision.ops.box_iou(a, b).nan_to_num().numpy()
