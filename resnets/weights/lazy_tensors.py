"""Tensors that a file holds: their shapes are known, their values are read when they are chosen."""

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


def naming(path: Path | str) -> AbstractContextManager[None]:
    """Whatever a reader raises over the file `path` becomes one line that names it."""
    return reading(path, WeightsError, "as weights")
