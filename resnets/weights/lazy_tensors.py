"""Tensors that a file holds: their shapes are known, their values are read when they are chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnets.config import ConfigError
from resnets.weights.errors import CheckpointError, WeightsError

DEEPEST = 8  # containers inside each other in which tensors are looked for


@dataclass(frozen=True, eq=False)
class LazyTensor:
    """A tensor in a file: `read` gives it, on the CPU; any error there says the file is damaged."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @property
    def size(self) -> int:
        """Number of its elements."""
        return math.prod(self.shape)


def stored(value: Tensor | np.ndarray[Any, Any]) -> LazyTensor:
    """A tensor or array that is in memory already."""
    if isinstance(value, Tensor):
        return LazyTensor(tuple(value.shape), lambda: value)

    def read() -> Tensor:
        return torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))

    return LazyTensor(value.shape, read)


def flatten(found: Mapping[Any, Any]) -> dict[str, LazyTensor]:
    """Every tensor in nested dicts, as "key.key.name"; each dict is entered once."""
    return dict(_leaves(found, "", set(), 0))


def _leaves(
    found: Mapping[Any, Any], before: str, seen: set[int], depth: int
) -> Iterator[tuple[str, LazyTensor]]:
    if id(found) in seen or depth > DEEPEST:
        return
    seen.add(id(found))
    for key, value in found.items():
        if isinstance(value, LazyTensor):
            yield f"{before}{key}", value
        elif isinstance(value, Tensor | np.ndarray):
            yield f"{before}{key}", stored(value)
        elif isinstance(value, dict):
            yield from _leaves(value, f"{before}{key}.", seen, depth + 1)


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Whatever a reader raises over the file `path` becomes one line that names it.

    The list of exceptions that damaged bytes can cause is never complete, so all of them are taken
    but our own, which say it already, and those of a program that is asked to stop.
    """
    try:
        yield
    except (ConfigError, WeightsError, CheckpointError):
        raise
    except MemoryError:
        raise WeightsError(f"{path}: needs more memory than there is") from None
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
        raise WeightsError(f"{path}: cannot be read as weights: {reason(error)}") from None


def reason(error: BaseException) -> str:
    """The first line of what a library said, printable."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    if isinstance(error, TypeError | AttributeError | LookupError | RecursionError):
        line = f"damaged ({type(error).__name__}: {line})"  # says nothing by itself
    return "".join(char if char.isprintable() else "?" for char in line[:300])
