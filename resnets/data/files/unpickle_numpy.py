"""Vocabulary for pickles of NumPy arrays and plain containers, for `resnets.data.files.unpickle`.

Arrays are created here from bytes, shape and a numeric dtype; NumPy's own functions and its
`__setstate__` are never called.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.data.files.pickle_machine import Known, PickleError, Unbuilt

NUMBERS = re.compile(r"[<>=|]?[biuf][1248]")  # dtypes of plain numbers
ORDERS = ("<", ">", "=", "|")
MAX_DIMENSIONS = 8
NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy")
NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")


def _make_dtype(code: Any, *_flags: Any) -> Unbuilt:
    """Return a numeric dtype, whose byte order follows as state."""
    if type(code) is not str or not NUMBERS.fullmatch(code):
        raise PickleError(f"contains an array of {str(code)[:40]!r}, which is not numeric")
    dtype = np.dtype(code)

    def build(state: Any) -> np.dtype[Any]:
        plain = type(state) is tuple and len(state) in (8, 9) and state[2:5] == (None,) * 3
        if not plain or state[1] not in ORDERS or (len(state) == 9 and state[8]):
            raise PickleError("contains an array whose dtype is not numeric; not loaded")
        return dtype if dtype.itemsize == 1 else dtype.newbyteorder(state[1])

    return Unbuilt(build)


def _reconstruct(*_arguments: Any) -> Unbuilt:
    """Return an array, whose contents follow as state."""

    def build(state: Any) -> NDArray[Any]:
        if type(state) is not tuple or len(state) != 5:
            raise PickleError("damaged: an array without data")
        _, shape, dtype, fortran, data = state
        return _make_array(data, dtype, shape, "F" if fortran else "C")

    return Unbuilt(build)


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    if order not in ("C", "F"):
        raise PickleError("damaged: an array without a memory order")
    return _make_array(data, dtype, shape, order)


def _make_array(data: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    """Return a read-only view of `data`, whose length must match shape and dtype."""
    if not isinstance(dtype, np.dtype) or type(shape) is not tuple:
        raise PickleError("damaged: an array without dtype or shape")
    if len(shape) > MAX_DIMENSIONS or not all(type(size) is int and size >= 0 for size in shape):
        raise PickleError("damaged: an array of an impossible shape")
    data = _to_bytes(data)
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise PickleError(f"damaged: {len(data):,} bytes for an array of {shape} {dtype}")
    flat = np.frombuffer(data, dtype)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _make_scalar(dtype: Any, data: Any) -> Any:
    """Return a NumPy number as a Python number."""
    if not isinstance(dtype, np.dtype):
        raise PickleError("damaged: a number without dtype")
    data = _to_bytes(data)
    if len(data) != dtype.itemsize:
        raise PickleError("damaged: a number whose size differs from that of its dtype")
    return np.frombuffer(data, dtype)[0].item()


def _to_bytes(data: Any) -> bytes:
    if type(data) is bytes:
        return data
    if type(data) is str:  # Python 2
        return data.encode("latin1")
    raise PickleError("damaged: an array without data")


def _encode(text: Any, encoding: Any = "utf-8") -> bytes:
    """Return bytes as Python 3 writes them in protocol 2."""
    if encoding != "latin1" or type(text) is not str:
        raise PickleError(f"it needs the codec {str(encoding)[:40]!r}; not loaded")
    return text.encode("latin1")


def _make_ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    """Return an OrderedDict as a dict, which is ordered too."""
    if type(pairs) is not list and pairs != ():
        raise PickleError("damaged: an OrderedDict of items that are not pairs")
    made: dict[Any, Any] = {}
    for pair in pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2 or type(pair[0]) not in (str, int):
            raise PickleError("damaged: an OrderedDict of items that are not pairs")
        made[pair[0]] = pair[1]
    return made


def _empty_bytes() -> bytes:
    """Return b"" as Python 3 writes it in protocol 2."""
    return b""


CONTAINERS: Mapping[str, Known] = {
    "collections.OrderedDict": Known("OrderedDict", _make_ordered_dict),
    "_codecs.encode": Known("_codecs.encode", _encode),
    "__builtin__.bytes": Known("bytes", _empty_bytes),
}
ARRAYS: Mapping[str, Known] = {
    **CONTAINERS,
    "numpy.ndarray": Known("numpy.ndarray"),
    "numpy.dtype": Known("numpy.dtype", _make_dtype),
    **{f"{home}._reconstruct": Known("numpy array", _reconstruct) for home in NUMPY},
    **{f"{home}.scalar": Known("numpy number", _make_scalar) for home in NUMPY},
    **{f"{home}._frombuffer": Known("numpy array", _frombuffer) for home in NUMERIC},
}
