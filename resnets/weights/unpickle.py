"""Pickles of arrays, read without running anything that they ask for.

detectron2's model zoo is made of pickles. A pickle is a program; this reader gives it a vocabulary
of numpy arrays, numbers, strings and containers, and stands in for every callable with one of its
own that checks its arguments.
"""

from __future__ import annotations

import collections
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from resnets.weights.errors import WeightsError

NUMBERS = re.compile(r"[<>=|]?[biuf][1248]")  # dtypes of plain numbers
NUMPY = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
FROM_BUFFER = ("numpy.core.numeric", "numpy._core.numeric")


def read_pickle(path: Path) -> Any:
    """What the pickle at `path` holds.

    Python 2's are read too (strings as latin-1). WeightsError where it asks for anything but
    arrays, numbers, strings, lists, tuples and dicts, or is damaged.
    """
    try:
        return _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle makes the reader raise errors of any kind
        kind = type(error).__name__
        raise WeightsError(f"{path}: not a whole pickle ({kind}: {error})") from None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for what the pickle calls `module.name`."""
        allowed: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("_codecs", "encode"): _Call(_encode),
            ("__builtin__", "bytes"): _Call(_no_bytes),
            ("numpy", "ndarray"): _Call(_uncalled),
            ("numpy", "dtype"): _Call(_dtype),
            **{(home, "_reconstruct"): _Call(_empty_array) for home in NUMPY},
            **{(home, "scalar"): _Call(_scalar) for home in NUMPY},
            **{(home, "_frombuffer"): _Call(_from_buffer) for home in FROM_BUFFER},
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(
                f"holds {module}.{name}, which is no array, number or text; not loaded, since "
                "reading such a pickle can run any code"
            )
        return allowed[module, name]


class _Call:
    """A function without attributes that a pickle could set."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError("sets attributes of functions; not loaded")


def _encode(text: str, encoding: str = "utf-8") -> bytes:
    """Bytes as Python 3 writes them in the protocol of Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"asks for the codec {encoding!r}; not loaded")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How Python 3 writes b"" in the protocol of Python 2."""
    return b""


def _dtype(code: str, *_flags: Any) -> np.dtype[Any]:
    """A dtype of numbers; a copy, since the pickle then sets its byte order."""
    if not isinstance(code, str) or not NUMBERS.fullmatch(code):
        raise pickle.UnpicklingError(f"holds an array of {code!r}, which are no numbers")
    return np.dtype(code, False, True)


def _uncalled(*_arguments: Any) -> None:
    """The class of arrays, which a pickle only names."""
    raise pickle.UnpicklingError("makes arrays in an unusual way; not loaded")


def _empty_array(_kind: Any, _shape: Any, _code: Any) -> np.ndarray:
    """What the pickle then fills; numpy checks its shape against its bytes."""
    return np.empty(0, np.int8)


def _scalar(dtype: np.dtype[Any], data: bytes | str) -> Any:
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype, 1)[0].item()


def _from_buffer(data: bytes, dtype: np.dtype[Any], shape: Any, order: str) -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape, order=order)  # type: ignore[call-overload]
