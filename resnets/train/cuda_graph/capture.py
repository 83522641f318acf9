"""Capture a function as a CUDA graph, and compile the blocks of a network one by one."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from resnets.models import ImageClassifier
from resnets.utils.errors import OutOfMemory

Body = Callable[[], None]
Capture = Callable[[Body, torch.device], Body]

WARM_UP = 3  # steps before the capture, in which libraries choose algorithms and allocate
MAX_KINDS_OF_BLOCKS = 64  # of one class: each size, stride and shortcut is compiled once

failed: list[torch.cuda.CUDAGraph] = []  # torch's allocators still point to these


def capture(body: Body, device: torch.device) -> Body:
    """Return a function that replays `body` as a CUDA graph on the current stream.

    The graph is captured on the current stream, or on a new one if that is the default stream, on
    which torch cannot capture. `body` first runs `WARM_UP` times, so the caller must be able to
    undo its effects. Raises RuntimeError if `body` does what a graph cannot contain, such as
    synchronizing with the device.
    """
    current = torch.cuda.current_stream(device)
    is_default = current == torch.cuda.default_stream(device)
    # Not always a new stream: torch cycles through 32 streams, which other threads may be using.
    stream = torch.cuda.Stream(device) if is_default else current
    stream.wait_stream(current)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*capturable=True")  # from Adam, of eager steps
            for _ in range(WARM_UP):
                body()
            _record(graph, body, stream)
    finally:  # also after an error: the caller undoes the warm-up's effects
        current.wait_stream(stream)
    return graph.replay


def _record(graph: torch.cuda.CUDAGraph, body: Body, stream: torch.cuda.Stream) -> None:
    """Capture `body` on `stream`; raises the error of `body`, if any, else that of the capture."""
    reason: Exception | None = None
    pool = torch.cuda.graph_pool_handle()
    try:
        with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
            try:
                body()
            except Exception as error:
                reason = error
                raise
    except RuntimeError:
        failed.append(graph)
        with contextlib.suppress(RuntimeError):  # torch may have ended it already
            # Before 2.14, torch's allocator treats the failed capture as still underway, and fails
            # an assertion when it releases memory.
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        if reason is None:
            raise
        # After an error of `body`, ending the capture also fails, without naming the cause.
        if isinstance(reason, RuntimeError | OutOfMemory):
            raise reason from None
        raise RuntimeError(str(reason)) from reason


def plain(body: Body, device: torch.device) -> Body:
    """Return `body` itself instead of its graph, for tests without a CUDA device."""
    return body


@contextlib.contextmanager
def compiled_blocks(model: nn.Module, enabled: bool = True) -> Iterator[list[Any]]:
    """Context that compiles each block of the network's stages; yields the compiled code.

    Equal blocks share one compiled graph. On exit the original blocks are restored: a captured step
    does not call the compiled code again, and evaluation, at other batch sizes, would recompile it.
    Keep a reference to the yielded code as long as the captured graph, which executes it.
    """
    blocks: list[nn.Module] = []
    if enabled and isinstance(model, ImageClassifier):
        stages = [model.get_submodule(name) for name in model.stage_names if name != "stem"]
        blocks = [block for stage in stages for block in stage.children()]
    if not blocks:
        yield []
        return
    import torch._dynamo as dynamo  # deferred: takes a second

    with dynamo.config.patch(recompile_limit=MAX_KINDS_OF_BLOCKS):
        for block in blocks:
            block.compile(dynamic=False)
        try:
            yield [block._compiled_call_impl for block in blocks]
        finally:
            for block in blocks:
                block._compiled_call_impl = None
