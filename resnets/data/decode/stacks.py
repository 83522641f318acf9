"""Images with any number of channels and more than 8 bits: NumPy arrays (.npy) and TIFF stacks.

They are read if `data.channels` or `data.keep_bits` is set. Values become 0 to 255, with the file's
precision if bits are kept (float32), else with 8 bits. TIFF is read by tifffile (extra `tiff`), all
other formats by NumPy or Pillow.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.data.decode.exif import Box
from resnets.data.decode.open_image import MAX_PIXELS, TIFF_STARTS, open_image
from resnets.data.decode.pixel_values import RANGE_16_BIT, Levels
from resnets.utils.files.numpy import read_header

NPY_START = b"\x93NUMPY"
NPY_SUFFIX = ".npy"
RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def is_stack(data: bytes | memoryview) -> bool:
    """Return whether only this module can read an encoded image."""
    return bytes(data[: len(NPY_START)]) == NPY_START


def read_stack(data: bytes | memoryview, channels: int, levels: Levels | None) -> NDArray[Any]:
    """Read (H, W, channels) float32, values scaled to 0..255; ValueError for anything else.

    The channel axis is the last or the first, whichever has this length. Values of 8 bits are
    unchanged, those of 16 are scaled by `levels` (None: 0 to 65,535), floating-point ones by
    `levels`, or from 0 to 1.
    """
    values = _read_values(data)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim == 3 and values.shape[2] != channels and values.shape[0] == channels:
        values = np.moveaxis(values, 0, 2)
    if values.ndim != 3 or values.shape[2] != channels:
        raise ValueError(f"an array of shape {values.shape}, not of {channels} channels")
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values, np.float32)
    low, high = levels or _find_range(values)
    scaled = (values.astype(np.float32) - low) * (255 / (high - low))
    return np.ascontiguousarray(np.clip(scaled, 0, 255))


def resize_stack(
    pixels: NDArray[np.float32], box: Box, size: int, interpolation: str
) -> NDArray[np.float32]:
    """Resize `box` of (H, W, C) to (size, size, C), antialiased, one channel at a time."""
    method = RESAMPLE[interpolation]
    planes = [
        np.asarray(Image.fromarray(pixels[:, :, channel]).resize((size, size), method, box))
        for channel in range(pixels.shape[2])
    ]
    return np.clip(np.stack(planes, 2), 0, 255)  # bicubic overshoots


def to_bytes(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round values 0..255 to 8 bits."""
    return np.rint(pixels).astype(np.uint8)


def _find_range(values: NDArray[Any]) -> Levels:
    if values.dtype == np.uint16:
        return RANGE_16_BIT
    if values.dtype == np.bool_:
        return 0.0, 1.0
    if np.issubdtype(values.dtype, np.floating) and values.size:
        low, high = float(values.min()), float(values.max())
        if 0 <= low <= high <= 1:
            return 0.0, 1.0
    raise ValueError(
        f"its values are {values.dtype}, from {values.min()} to {values.max()}; say which become 0"
        " and 255 (data.value_range)"
    )


def _read_values(data: bytes | memoryview) -> NDArray[Any]:
    start = bytes(data[:8])
    if start.startswith(NPY_START):
        values = _read_npy(data)
    elif start[:4] in TIFF_STARTS or start[:4] in (b"II+\0", b"MM\0+"):
        values = _read_tiff(data)
    else:
        with open_image(data) as image:
            values = np.asarray(image if image.mode in ("L", "RGB", "I;16") else image.convert())
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        raise ValueError("has values that are not finite")
    return values


def _read_npy(data: bytes | memoryview) -> NDArray[Any]:
    """Read the array of a .npy file; nothing pickled is read."""
    stream = io.BytesIO(data)
    shape, _ = read_header(stream)
    _check_size(shape)
    stream.seek(0)
    return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _read_tiff(data: bytes | memoryview) -> NDArray[Any]:
    try:
        import tifffile
    except ImportError:
        raise ValueError(
            "a TIFF of channels or bits beyond RGB is read by tifffile: pip install 'resnets[tiff]'"
        ) from None
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series = file.series[0]
        _check_size(series.shape)
        return np.asarray(series.asarray())


def _check_size(shape: tuple[int, ...]) -> None:
    """Raise ValueError for more values than the largest RGB image has, to protect the memory."""
    if int(np.prod(shape, dtype=np.float64)) > 3 * MAX_PIXELS:
        raise ValueError(f"an array of shape {shape}: more than {3 * MAX_PIXELS:,} values")
