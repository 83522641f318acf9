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

failed: list[torch.cuda.CUDAGraph] = []  # torch's allocators still have pointers to these


def capture(body: Body, device: torch.device) -> Body:
    """Return a function that replays `body` as a CUDA graph on the current stream.

    It is captured on the current stream, or on a new one if that is the default stream, which torch
    does not capture. `body` runs `WARM_UP` times before, so it must be possible to undo what it
    does. Raises RuntimeError if it does what a graph cannot hold, such as waiting for the device.
    """
    current = torch.cuda.current_stream(device)
    is_default = current == torch.cuda.default_stream(device)
    # Not always a new one: torch has 32 streams in turn, and others may belong to running threads.
    stream = torch.cuda.Stream(device) if is_default else current
    stream.wait_stream(current)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*capturable=True")  # Adam's, of steps outside it
            for _ in range(WARM_UP):
                body()
            _record(graph, body, stream)
    finally:  # after an error, too: the caller then undoes what the warm-up is still doing
        current.wait_stream(stream)
    return graph.replay


def _record(graph: torch.cuda.CUDAGraph, body: Body, stream: torch.cuda.Stream) -> None:
    """Capture `body` on `stream`; raises its error if it has one, else that of the capture."""
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
        with contextlib.suppress(RuntimeError):  # where torch has done it
            # Before 2.14 torch's allocator takes the capture for one that is still underway, and
            # fails an assertion when it is to release memory.
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
        if reason is None:
            raise
        # After an error of `body` the end of the capture fails, too, without saying why.
        if isinstance(reason, RuntimeError | OutOfMemory):
            raise reason from None
        raise RuntimeError(str(reason)) from reason


def plain(body: Body, device: torch.device) -> Body:
    """Return `body` itself in place of its graph, for tests without a CUDA device."""
    return body


@contextlib.contextmanager
def compiled_blocks(model: nn.Module, enabled: bool = True) -> Iterator[list[Any]]:
    """Context in which each block of the network's stages is compiled; yields the compiled code.

    Equal blocks share one compiled graph. The blocks are restored at the end: once a step is
    captured, compiled code is not called again, and evaluation, at other batch sizes, would compile
    anew. Keep a reference to the yielded code as long as the captured graph, which runs it.
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
