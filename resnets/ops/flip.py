"""Mirroring and normalising of large pictures on a CPU, by a C kernel where one can be compiled."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.ops import compiler


@lru_cache
def _kernel() -> ctypes._NamedFuncPointer | None:
    """`flip_pictures` of native/flip.c, or None where there is no compiler."""
    library = compiler.load("flip")
    if library is None:
        return None
    where, whole = ctypes.c_void_p, ctypes.c_int
    library.flip_pictures.argtypes = [
        *(where, where, where, ctypes.c_int64, whole, whole, whole),
        *(where, where, where, whole),
    ]
    return library.flip_pictures


def flip_pictures(
    pictures: Tensor,
    rows: Tensor,
    turned: NDArray[np.bool_],
    means: Tensor,
    scale: Tensor,
    out: Tensor,
) -> bool:
    """Fill `out` (B, H, W, C) float32 with (x - mean) * scale of `pictures` (N, H, W, C) uint8.

    rows (B,) int64 says which; means (2, H, W, C) are those of a picture as it is, and of one that
    is mirrored because `turned` (B,) says so; scale (W, C). The numbers are those of the same steps
    in torch. False, and nothing is done, where there is no kernel for it.
    """
    kernel = _kernel()
    dense = (pictures, rows, means, scale, out)
    if kernel is None or not all(each.is_contiguous() for each in dense):
        return False
    assert 0 <= int(rows.min()) <= int(rows.max()) < len(pictures)
    flags = np.ascontiguousarray(turned, np.uint8)
    done = kernel(
        *(pictures.data_ptr(), rows.data_ptr(), flags.ctypes.data, *out.shape),
        *(means.data_ptr(), scale.data_ptr(), out.data_ptr(), torch.get_num_threads()),
    )
    return bool(done)
