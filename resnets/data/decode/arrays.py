"""Images in memory as arrays or tensors: which are understood, and their conversion to pixels.

One rule for data sets given as Python objects and for the images of `resnets.predict`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.data.errors import DataError

CHANNELS = (1, 3)
EXPECTED = "an image is (H, W), (H, W, 1 or 3) or (1 or 3, H, W)"


def to_array(value: Any) -> NDArray[Any]:
    """Return a tensor or any other value as an array; bfloat16, which NumPy lacks, as float32."""
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    tensor = value.detach().cpu()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def to_pixels(image: Any, name: str, *, batch: bool = False) -> NDArray[np.uint8]:
    """Return pixels (H, W, 1 or 3) of an array or tensor, or (N, H, W, 1 or 3) of a batch.

    Values are uint8, or floating point from 0 to 1, which become 0 to 255. Raises DataError for
    other values, other shapes, and shapes such as (3, 32, 3), whose first and last dimension can
    both be that of the channels.
    """
    values = to_array(image)
    start = 1 if batch else 0
    values = np.moveaxis(values, start, -1) if _is_channels_first(values, name, start) else values
    values = values[..., None] if values.ndim == start + 2 else values
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if not np.issubdtype(values.dtype, np.floating):
        raise DataError(f"{name}: {values.dtype}; give uint8, or floats from 0 to 1")
    if values.size:
        low, high = float(values.min()), float(values.max())
        if not 0 <= low <= high <= 1:
            raise DataError(
                f"{name}: values from {low:.4g} to {high:.4g}; give uint8, or floats from 0 to 1,"
                " before any normalization (the model's preprocessing does that)"
            )
    return np.ascontiguousarray(np.round(values * 255).astype(np.uint8))


def describe_array(image: Any, name: str, *, batch: bool = False) -> str:
    """Return how `to_pixels` understands an image: "float32 from 0 to 1, (C, H, W)"."""
    values = to_array(image)
    start = 1 if batch else 0
    first = _is_channels_first(values, name, start)
    layout = "(C, H, W)" if first else "(H, W)" if values.ndim == start + 2 else "(H, W, C)"
    scale = " from 0 to 1" if np.issubdtype(values.dtype, np.floating) else ""
    return f"{values.dtype}{scale}, {layout}"


def _is_channels_first(values: NDArray[Any], name: str, start: int) -> bool:
    """Whether an image is (C, H, W); DataError if its shape is not that of an image, or of two."""
    shape = values.shape[start:]
    if len(shape) == 2:
        return False
    first, last = (len(shape) == 3 and shape[end] in CHANNELS for end in (0, 2))
    if first and last:
        raise DataError(
            f"{name}: shape {shape} can be (C, H, W) or (H, W, C); give a PIL image instead"
        )
    if not first and not last:
        raise DataError(f"{name}: shape {shape}; {EXPECTED}")
    return first
