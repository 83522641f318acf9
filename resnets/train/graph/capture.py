"""Capturing a function as a CUDA graph, with its blocks compiled one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from resnets.models import ImageClassifier

Body = Callable[[], None]
Capture = Callable[[Body, torch.device], Body]

WARM_UP = 3  # steps before the capture, in which libraries choose algorithms and allocate
MAX_KINDS_OF_BLOCKS = 64  # of one class: each size, stride and shortcut is compiled once


def capture(body: Body, device: torch.device) -> Body:
    """A function that replays `body` as a CUDA graph on the current stream.

    `body` runs `WARM_UP` times before, so it must be possible to undo what it does. Raises
    RuntimeError if it does what a graph cannot hold, such as waiting for the device.
    """
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            body()
    torch.cuda.current_stream(device).wait_stream(side)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        body()
    return graph.replay


def plain(body: Body, device: torch.device) -> Body:
    """`body` itself in place of its graph, to test it where there is no CUDA device."""
    return body


@contextmanager
def compiled_blocks(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Context in which each block of the network's stages is compiled by itself.

    Blocks alike share one compiled graph, whatever the depth. Once a step is captured, compiled
    code is not called again, and evaluation, at other batch sizes, would compile anew: afterwards
    the blocks are as before.
    """
    blocks: list[nn.Module] = []
    if enabled and isinstance(model, ImageClassifier):
        stages = [model.get_submodule(name) for name in model.stage_names if name != "stem"]
        blocks = [block for stage in stages for block in stage.children()]
    if not blocks:
        yield
        return
    import torch._dynamo as dynamo  # deferred: takes a second

    with dynamo.config.patch(recompile_limit=MAX_KINDS_OF_BLOCKS):
        for block in blocks:
            block.compile(dynamic=False)
        try:
            yield
        finally:
            for block in blocks:
                block._compiled_call_impl = None
