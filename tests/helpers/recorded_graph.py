"""A stand-in for a CUDA graph: the operators of a step with its tensors, run again without Python.

Numbers of the host, new tensors and branches are those of the recorded step, as in a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result


def record(body: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Return a function that runs the operators of `body` again, into the same tensors."""
    body()  # as before a capture: makes the tensors that later steps update
    with _Recorder() as recorder:
        body()

    @torch.no_grad()
    def replay() -> None:
        for func, args, kwargs, result in recorder.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.detach().copy_(new)

    return replay
