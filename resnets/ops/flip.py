"""Flipping and normalization of batches of images on a CPU, by a C kernel."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.ops import compiler


def flip_and_normalize(
    images: Tensor,
    rows: Tensor,
    flipped: NDArray[np.bool_],
    means: Tensor,
    scale: Tensor,
    out: Tensor,
) -> bool:
    """Fill `out` (B, H, W, C) float32 with (x - mean) * scale of `images` (N, H, W, C) uint8.

    rows: (B,) int64, which images. flipped: (B,), which of them are mirrored. means: (2, H, W, C),
    for images as stored and for mirrored ones, or (2, 1, W, C) for all rows. scale: (W, C). The
    result equals torch's bit for bit. Returns False, and leaves `out` unchanged, if the kernel is
    not available.
    """
    kernel = _kernel()
    if kernel is None or not all(x.is_contiguous() for x in (images, rows, means, scale, out)):
        return False
    assert 0 <= int(rows.min()) <= int(rows.max()) < len(images)
    flags = np.ascontiguousarray(flipped, np.uint8)
    done = kernel.flip_and_normalize(
        images.data_ptr(),
        rows.data_ptr(),
        flags.ctypes.data,
        *out.shape,
        means.data_ptr(),
        means.shape[1],
        scale.data_ptr(),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return bool(done)


@lru_cache
def _kernel() -> ctypes.CDLL | None:
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    arguments = [pointer] * 3 + [size] + [number] * 3 + [pointer, number, pointer, pointer, number]
    return compiler.load_library("flip", flip_and_normalize=(arguments, ctypes.c_int))
