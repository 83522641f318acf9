"""Antialiased resizing of one box of an image in memory, by a C kernel or by torch.

The kernel works as Pillow does (its filters, rows first and rounded, then columns) with weights of
fewer bits: a pixel differs by 2 of 255 levels at most, on average by less than 0.1. It is three to
four times as fast, and releases the GIL. Without a compiler, torch resizes.
"""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.ops import compiler

FILTERS = {"bilinear": 0, "bicubic": 1}
Doubles4 = ctypes.c_double * 4

# Operator and filter support, pixels. Of aten: torch.nn.functional.interpolate takes a scale or a
# size, and here both are needed.
TORCH_KERNELS = {
    "bilinear": (torch.ops.aten._upsample_bilinear2d_aa.default, 1.0),
    "bicubic": (torch.ops.aten._upsample_bicubic2d_aa.default, 2.0),
}
EXACT = 1e-6  # pixels by which a position may miss a whole number

Cut = tuple[int, int, int, int, float]  # first and last + 1 input, outputs, outputs dropped, step


@lru_cache
def kernel() -> ctypes._NamedFuncPointer | None:
    """`resize_box` of native/resize.c, or None if it is not available."""
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    box = ctypes.POINTER(ctypes.c_double)
    arguments = [pointer, size, number, number, number, box, number, pointer, number, number]
    library = compiler.load("resize", resize_box=(arguments, ctypes.c_int))
    return None if library is None else library.resize_box


def resize_box(
    pixels: NDArray[np.uint8],
    box: tuple[float, float, float, float],
    size: int,
    interpolation: str = "bilinear",
) -> NDArray[np.uint8] | None:
    """The part `box` (left, top, right, bottom, pixels) of `pixels` (H, W, C): (size, size, C).

    None if Pillow has to do it: rows are not contiguous, there are not 1 or 3 channels, more than
    about 30 pixels become one, the kernel's part is too narrow, or torch cannot do the box.
    """
    resize = kernel()
    height, width, channels = pixels.shape
    if resize is None:
        return resize_with_torch(pixels, box, size, interpolation)
    if channels not in (1, 3) or pixels.strides[1:] != (channels, 1):
        return None
    out = np.empty((size, size, channels), np.uint8)
    done = resize(
        *(pixels.ctypes.data, pixels.strides[0], width, height, channels),
        *(Doubles4(*box), FILTERS[interpolation], out.ctypes.data, size, size),
    )
    return out if done else None


def resize_with_torch(
    pixels: NDArray[np.uint8],
    box: tuple[float, float, float, float],
    size: int,
    interpolation: str = "bilinear",
) -> NDArray[np.uint8] | None:
    """`resize_box` by torch, which resizes whole images only; None for boxes it cannot do.

    torch's uint8 operators are vectorized and round as Pillow does. Where the box lies on the grid
    of the image scaled as a whole (`decode.grid_box`), it is cut out with so much around it that
    its pixels come out as if the whole image had been resized: within 2 of 255 of Pillow's
    `resize(size, box=box)`. A box of whole pixels off that grid is cut out and resized alone, as
    torchvision's resized_crop does: nothing outside its edge counts. Any other box gives None.
    """
    kernel, support = TORCH_KERNELS[interpolation]
    across = _cut(box[0], box[2], pixels.shape[1], size, support)
    down = _cut(box[1], box[3], pixels.shape[0], size, support)
    if across is None or down is None:
        return None
    left, right, wide, before, x = across
    top, bottom, high, above, y = down
    part = pixels[top:bottom, left:right].copy()  # the operator needs it contiguous
    if part.shape[:2] == (size, size) and (wide, high) == (size, size):
        return part
    channels_first = torch.from_numpy(part)[None].permute(0, 3, 1, 2)
    scaled = kernel(channels_first, [high, wide], False, 1 / y, 1 / x)
    return scaled.permute(0, 2, 3, 1)[0, above : above + size, before : before + size].numpy()


def _cut(start: float, stop: float, length: int, size: int, support: float) -> Cut | None:
    """Which input pixels of one axis to take, and which outputs to drop."""
    step = (stop - start) / size
    skipped = round(start / step)
    if abs(start - skipped * step) < EXACT:
        return _on_grid(skipped, step, stop, length, size, support)
    first, last = round(start), round(stop)
    if max(abs(start - first), abs(stop - last)) < EXACT:
        return first, last, size, 0, step
    return None


def _on_grid(skipped: int, step: float, stop: float, length: int, size: int, support: float) -> Cut:
    """Outputs `skipped` to `skipped + size` of the whole axis: begin at one on a whole pixel."""
    if abs(step - 1) * length < EXACT:
        return skipped, skipped + size, size, 0, 1.0
    reach = support * max(step, 1.0)  # pixels to each side that an output depends on
    edges = np.arange(max(0, skipped - math.ceil(reach / step)) + 1) * step
    begin = int(np.flatnonzero(np.abs(edges - np.rint(edges)) < EXACT)[-1])
    first, last = round(begin * step), min(length, math.ceil(stop + reach))
    outputs = skipped - begin + size
    # The operator takes as many outputs as inputs for "no change", whatever the scale.
    return first, last, outputs + (outputs == last - first), skipped - begin, step
