"""Headers of NumPy's files, read before memory is allocated for their values."""

from __future__ import annotations

import math
import zipfile
from typing import IO, Any

import numpy as np

SUFFIX = ".npy"  # of the members of an .npz


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of a .npy file; ValueError if it is damaged or of Python objects."""
    if np.lib.format.read_magic(stream) == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.hasobject:
        raise ValueError("arrays of Python objects are not supported")
    return shape, dtype


def read_member_header(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of an array of an .npz.

    Raises ValueError if it is damaged, of Python objects, or shorter than its shape.
    """
    with archive.open(member) as stream:
        shape, dtype = read_header(stream)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > member.file_size:
        name = member.filename.removesuffix(SUFFIX)
        raise ValueError(f"{name} is shorter than its shape {shape}")
    return shape, dtype
