"""JPEG decoding by libjpeg-turbo in part: only the rows and columns that a view needs.

Of rows above the view only the entropy code is read, and of rows below it nothing but the end
marker. The library is the one inside Pillow's wheel (or the system's), called by the C kernel
native/jpeg.c, which is compiled on first use. If either is missing, or an image is not plain
(damaged, CMYK, 12 bits ...), functions return None, and Pillow is used.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from resnets.data.decode.exif import Box
from resnets.ops import compiler
from resnets.ops.resize import FILTERS, Doubles4, kernel

FUNCTIONS = (
    "std_error",
    "CreateDecompress",
    "mem_src",
    "read_header",
    "start_decompress",
    "crop_scanline",
    "skip_scanlines",
    "read_scanlines",
    "has_multiple_scans",
    "destroy_decompress",
)
HeaderFields = ctypes.c_int64 * 5
LOAD_LOCK = threading.Lock()  # for compiling, when many decode threads start at once


@dataclass(frozen=True)
class Header:
    """Stored size, channels (1 or 3), and the EXIF data, which may be empty."""

    width: int
    height: int
    planes: int
    exif: bytes


def available() -> bool:
    """Return whether JPEGs can be decoded in part here."""
    return _library() is not None


def read_header(data: bytes | memoryview) -> Header | None:
    """Read the header; None if it is not a JPEG that can be decoded here."""
    library = _library()
    if library is None:
        return None
    fields = HeaderFields()
    if not library.header(_address(data), len(data), fields):
        return None
    width, height, planes, start, count = fields
    return Header(width, height, planes, bytes(data[start : start + count]))


def decode_box(
    data: bytes | memoryview,
    header: Header,
    box: Box,
    denominator: int,
    shape: tuple[int, int, int],
    interpolation: str,
    max_scans: int,
) -> NDArray[np.uint8] | None:
    """Decode the part `box` of an image as stored, antialiased to `shape` (height, width, planes).

    It is read at 1 / `denominator` (1, 2, 4 or 8) of its size. None if it is not plain, or has more
    than `max_scans` scans.
    """
    library = _library()
    assert library is not None, "there is a header"
    out = np.empty(shape, np.uint8)
    height, width, planes = shape
    done = library.view(
        _address(data),
        len(data),
        header.width,
        header.height,
        Doubles4(*box),
        denominator,
        planes,
        FILTERS[interpolation],
        out.ctypes.data,
        width,
        height,
        max_scans,
    )
    return out if done else None


def _address(data: bytes | memoryview) -> int:
    """Return where the bytes are, also those of a read-only memoryview, without copying them."""
    return np.frombuffer(data, np.uint8).ctypes.data


@dataclass(frozen=True)
class _Library:
    header: ctypes._NamedFuncPointer
    view: ctypes._NamedFuncPointer


def _library() -> _Library | None:
    with LOAD_LOCK:
        return _load_library()


@lru_cache
def _load_library() -> _Library | None:
    """Bind the kernel to a libjpeg of the right layout that has all functions."""
    code = compiler.load_library("jpeg")
    if code is None or kernel() is None:
        return None
    for path in _iter_libjpegs():
        try:
            functions = find_functions(ctypes.CDLL(path))
        except (OSError, AttributeError):
            continue
        if code.jpeg_bind(functions):
            return _Library(_bind_header(code), _bind_view(code))
    return None


def find_functions(libjpeg: ctypes.CDLL) -> ctypes.Array[ctypes.c_void_p]:
    """Return the functions that native/jpeg.c calls; raises AttributeError if one is missing."""
    functions = [getattr(libjpeg, f"jpeg_{name}") for name in FUNCTIONS]
    addresses = [ctypes.cast(each, ctypes.c_void_p) for each in (*functions, kernel())]
    return (ctypes.c_void_p * len(addresses))(*addresses)


def _iter_libjpegs() -> Iterator[str]:
    folder = Path(PIL.__file__).parent
    yield from map(str, sorted(folder.parent.glob("pillow.libs/libjpeg-*.so*")))
    yield "libjpeg.so.62"  # Debian's Pillow uses the system's


def _bind_header(code: ctypes.CDLL) -> ctypes._NamedFuncPointer:
    """Bind jpeg_header, which is fast enough to keep the GIL."""
    header = ctypes.PyDLL(code._name, handle=code._handle).jpeg_header
    header.argtypes = [ctypes.c_void_p, ctypes.c_int64, HeaderFields]
    return header


def _bind_view(code: ctypes.CDLL) -> ctypes._NamedFuncPointer:
    view = code.jpeg_view
    integer = ctypes.c_int
    view.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int64,
        integer,
        integer,
        ctypes.POINTER(ctypes.c_double),
        integer,
        integer,
        integer,
        ctypes.c_void_p,
        integer,
        integer,
        integer,
    ]
    return view
