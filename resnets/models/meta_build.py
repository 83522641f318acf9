"""Nets without weights, for when only their shapes matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode


@contextmanager
def shapes_only() -> Iterator[None]:
    """Within, nets are built and run on the meta device: no memory, no values, only shapes.

    Initialisation and batch norm, which change no shape, are skipped: torch runs both in Python
    on meta tensors, and they would take nine tenths of the time.
    """
    with torch.device("meta"), _Skipping():
        yield


class _Skipping(TorchFunctionMode):
    """Initialisers and batch norms return the tensor they are given."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        if func is functional.batch_norm:
            return args[0]
        return func(*args, **kwargs)
