"""Tensors in a file whose shapes are known and whose values are read on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnets.utils.errors import reading
from resnets.weights.errors import WeightsError

MAX_DEPTH = 8  # nested containers that are searched for tensors


@dataclass(frozen=True, eq=False)
class LazyTensor:
    """A tensor in a file.

    read: returns it, on the CPU; an error there means that the file is damaged.
    """

    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def to_lazy(value: Tensor | np.ndarray[Any, Any]) -> LazyTensor:
    """Wrap a tensor or array that is already in memory."""
    if isinstance(value, Tensor):
        return LazyTensor(tuple(value.shape), lambda: value)

    def read() -> Tensor:
        return torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))

    return LazyTensor(value.shape, read)


def flatten_tensors(table: Mapping[Any, Any]) -> dict[str, LazyTensor]:
    """Return all tensors in nested dicts as "key.key.name"; each dict is visited once."""
    return dict(_iter_tensors(table, "", set(), 0))


def _iter_tensors(
    table: Mapping[Any, Any], prefix: str, visited: set[int], depth: int
) -> Iterator[tuple[str, LazyTensor]]:
    if id(table) in visited or depth > MAX_DEPTH:
        return
    visited.add(id(table))
    for key, value in table.items():
        if isinstance(value, LazyTensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Tensor | np.ndarray):
            yield f"{prefix}{key}", to_lazy(value)
        elif isinstance(value, dict):
            yield from _iter_tensors(value, f"{prefix}{key}.", visited, depth + 1)


def reading_weights(path: Path | str) -> AbstractContextManager[None]:
    """Context in which any error about the file `path` becomes a WeightsError that names it."""
    return reading(path, WeightsError, "as weights")
