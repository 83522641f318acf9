"""JPEGs by libjpeg-turbo's partial decoding: only the rows and columns that a view needs.

Of the rows above the view only the entropy code is read, of those below nothing but the search for
the end of the file. The library is the one inside Pillow's wheel (or the system's), called by the
C kernel native/jpeg.c, which is compiled on first use. Where either is missing, and for images
that are not clean (damaged, CMYK, 12 bits ...), the answer is None and Pillow is asked.
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
    *("std_error", "CreateDecompress", "mem_src", "read_header", "start_decompress"),
    *("crop_scanline", "skip_scanlines", "read_scanlines", "has_multiple_scans"),
    "destroy_decompress",
)
Facts = ctypes.c_int64 * 5
FIRST = threading.Lock()  # compiling, where many decode threads begin at once


@dataclass(frozen=True)
class Header:
    """Size as stored, planes (1 or 3), and the EXIF data, empty where there is none."""

    width: int
    height: int
    planes: int
    exif: bytes


def available() -> bool:
    """Whether JPEGs can be decoded in part here."""
    return _library() is not None


def read_header(data: bytes) -> Header | None:
    """What the header says; None where this is no JPEG that can be decoded here."""
    library = _library()
    if library is None:
        return None
    facts = Facts()
    if not library.header(data, len(data), facts):
        return None
    width, height, planes, start, count = facts
    return Header(width, height, planes, data[start : start + count])


def decode_box(
    data: bytes,
    header: Header,
    box: Box,
    denominator: int,
    shape: tuple[int, int, int],
    interpolation: str,
    max_scans: int,
) -> NDArray[np.uint8] | None:
    """The part `box` of an image as stored, antialiased to `shape` (height, width, planes).

    It is read at 1 / `denominator` (1, 2, 4 or 8) of its size. None where it is not clean, or has
    more than `max_scans` scans.
    """
    library = _library()
    assert library is not None, "there is a header"
    out = np.empty(shape, np.uint8)
    height, width, planes = shape
    done = library.view(
        *(data, len(data), header.width, header.height, Doubles4(*box), denominator, planes),
        *(FILTERS[interpolation], out.ctypes.data, width, height, max_scans),
    )
    return out if done else None


@dataclass(frozen=True)
class _Library:
    header: ctypes._NamedFuncPointer
    view: ctypes._NamedFuncPointer


def _library() -> _Library | None:
    with FIRST:
        return _bound()


@lru_cache
def _bound() -> _Library | None:
    """The kernel, bound to a libjpeg of the right layout that has all functions."""
    code = compiler.load_library("jpeg")
    if code is None or kernel() is None:
        return None
    for path in _libjpegs():
        try:
            functions = functions_of(ctypes.CDLL(path))
        except (OSError, AttributeError):
            continue
        if code.jpeg_bind(functions):
            return _Library(_header(code), _view(code))
    return None


def functions_of(libjpeg: ctypes.CDLL) -> ctypes.Array[ctypes.c_void_p]:
    """What native/jpeg.c calls, in its order; AttributeError where one is missing."""
    functions = [getattr(libjpeg, f"jpeg_{name}") for name in FUNCTIONS]
    addresses = [ctypes.cast(each, ctypes.c_void_p) for each in (*functions, kernel())]
    return (ctypes.c_void_p * len(addresses))(*addresses)


def _libjpegs() -> Iterator[str]:
    folder = Path(PIL.__file__).parent
    yield from map(str, sorted(folder.parent.glob("pillow.libs/libjpeg-*.so*")))
    yield "libjpeg.so.62"  # Debian's Pillow uses the system's


def _header(code: ctypes.CDLL) -> ctypes._NamedFuncPointer:
    """Fast enough to keep the GIL."""
    header = ctypes.PyDLL(code._name, handle=code._handle).jpeg_header
    header.argtypes = [ctypes.c_char_p, ctypes.c_int64, Facts]
    return header


def _view(code: ctypes.CDLL) -> ctypes._NamedFuncPointer:
    view = code.jpeg_view
    whole = ctypes.c_int
    view.argtypes = [
        *(ctypes.c_char_p, ctypes.c_int64, whole, whole, ctypes.POINTER(ctypes.c_double)),
        *(whole, whole, whole, ctypes.c_void_p, whole, whole, whole),
    ]
    return view
