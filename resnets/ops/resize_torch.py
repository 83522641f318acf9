"""Antialiased resizing of a part of a picture by torch, for machines that compile no C kernel.

torch's uint8 kernels are vectorised and count as Pillow counts (fixed-point weights), but resize
whole pictures only. A part is therefore cut out first, with so much around it that its pixels come
out as if the whole picture had been resized.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

# aten, for torch.nn.functional.interpolate takes a scale or a size, and here both are needed.
KERNELS = {
    "bilinear": (torch.ops.aten._upsample_bilinear2d_aa.default, 1.0),
    "bicubic": (torch.ops.aten._upsample_bicubic2d_aa.default, 2.0),
}
EXACT = 1e-6  # pixels by which a place may miss a whole number

Cut = tuple[int, int, int, int, float]  # first and last + 1 input, outputs, outputs dropped, step


def resize_part(
    pixels: NDArray[np.uint8],
    box: tuple[float, float, float, float],
    size: int,
    interpolation: str = "bilinear",
) -> NDArray[np.uint8] | None:
    """The part `box` (left, top, right, bottom in pixels) of (H, W, C) as (size, size, C).

    Within 2 of 255 of Pillow's `resize(size, box=box)` where the box lies on the grid of the
    picture scaled as a whole (`decode.grid_box`). A box of whole pixels off that grid is cut out
    and resized alone, as torchvision's resized_crop does: at its edge nothing outside counts. Any
    other box gives None.
    """
    kernel, support = KERNELS[interpolation]
    across = _cut(box[0], box[2], pixels.shape[1], size, support)
    down = _cut(box[1], box[3], pixels.shape[0], size, support)
    if across is None or down is None:
        return None
    left, right, wide, before, x = across
    top, bottom, high, above, y = down
    part = pixels[top:bottom, left:right].copy()  # the kernel wants it in one piece
    if part.shape[:2] == (size, size) and (wide, high) == (size, size):
        return part
    planes = torch.from_numpy(part)[None].permute(0, 3, 1, 2)
    scaled = kernel(planes, [high, wide], False, 1 / y, 1 / x)
    return scaled.permute(0, 2, 3, 1)[0, above : above + size, before : before + size].numpy()


def _cut(start: float, stop: float, length: int, size: int, support: float) -> Cut | None:
    """What to take of one axis, and what of the outcome to drop; see `resize_part`."""
    step = (stop - start) / size
    skipped = round(start / step)
    if abs(start - skipped * step) < EXACT:
        return _on_grid(skipped, step, stop, length, size, support)
    first, last = round(start), round(stop)
    if max(abs(start - first), abs(stop - last)) < EXACT:
        return first, last, size, 0, step
    return None


def _on_grid(skipped: int, step: float, stop: float, length: int, size: int, support: float) -> Cut:
    """Outputs `skipped` .. `skipped + size` of the whole axis: begin at one on a whole pixel."""
    if abs(step - 1) * length < EXACT:
        return skipped, skipped + size, size, 0, 1.0
    reach = support * max(step, 1.0)  # pixels to each side that an output depends on
    edges = np.arange(max(0, skipped - math.ceil(reach / step)) + 1) * step
    begin = int(np.flatnonzero(np.abs(edges - np.rint(edges)) < EXACT)[-1])
    first, last = round(begin * step), min(length, math.ceil(stop + reach))
    outputs = skipped - begin + size
    # The kernel takes as many outputs as inputs for "no change", whatever the scale.
    return first, last, outputs + (outputs == last - first), skipped - begin, step
