"""Images read by threads while the model computes, in batches that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from resnets.data import DataError
from resnets.data.prefetch import prefetch
from resnets.utils.errors import OutOfMemory, is_out_of_memory
from resnets.utils.machine.environment import release_cached_memory

NOT_FINITE = (
    "the network's outputs for this image are not finite (NaN or Inf): its weights are damaged, or"
    " its preprocessing differs"
)
T = TypeVar("T")
R = TypeVar("R")
Out = TypeVar("Out")


def batched_inference(
    read: Callable[[T], R],
    compute: Callable[[Sequence[R]], Iterable[Out]],
    items: Iterable[T],
    *,
    group: int,
    workers: int,
    at_once: int = 1,
    finite: bool = False,
) -> Iterator[list[tuple[T, Out | str]]]:
    """Read and compute `items` in batches; yields each batch as items with their outputs, in order.

    read: reads one item, on one of `workers` threads, while the batch before is computed. compute:
    maps the read items of a batch of up to `group` to their outputs, such as a tensor (B, ...), in
    inference mode.
    at_once: batches computed at a time, on threads of their own if several, so that cores that
    finish one batch start on the next. If reading an item raises DataError or OSError, the message
    replaces its output; with `finite`, `NOT_FINITE` replaces an output that is not finite.
    """

    def try_read(item: T) -> tuple[R] | str:
        try:
            return (read(item),)
        except (DataError, OSError) as error:
            return str(error)

    def compute_batch(chunk: list[tuple[T, tuple[R] | str]]) -> list[tuple[T, Out | str]]:
        readable = [content[0] for _, content in chunk if not isinstance(content, str)]
        rows: Iterator[Out | str] = iter(())
        if readable:
            with torch.inference_mode():
                outputs = compute(readable)
                rows = iter(_check_rows(outputs) if finite else outputs)
        return [
            (item, content if isinstance(content, str) else next(rows)) for item, content in chunk
        ]

    with closing(prefetch(try_read, items, workers=workers, ahead=group)) as contents:
        chunks = iter(lambda: list(islice(contents, group)), [])
        if at_once == 1:
            yield from map(compute_batch, chunks)
            return
        with closing(prefetch(compute_batch, chunks, workers=at_once, ahead=at_once)) as batches:
            yield from (batch for _, batch in batches)


def _check_rows(rows: Any) -> list[Any]:
    """Replace the rows of a tensor that are not finite by `NOT_FINITE`."""
    finite = rows.flatten(1).isfinite().all(1).tolist()
    return [row if good else NOT_FINITE for row, good in zip(rows, finite, strict=True)]


# Input pixels (images x height x width) computed at once. A CPU takes a megapixel, which costs
# ResNet-50 0.5 GiB and VGG-16 0.7 (measured); a larger image is computed alone. An accelerator
# starts with 256 images of 224 px and halves that when its memory runs out.
CPU_PIXELS = 1 << 20
DEVICE_PIXELS = 256 * 224 * 224


class PixelBudget:
    """Input pixels that fit into device memory; halved whenever it runs out."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pixels = CPU_PIXELS if device.type == "cpu" else DEVICE_PIXELS

    def images(self, pixels: int) -> int:
        """Return how many images of `pixels` pixels are computed at once; at least 1."""
        return max(1, self.pixels // pixels)

    def run(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Apply `function` to `images` (B, C, H, W) in parts along B that fit into memory.

        Raises OutOfMemory if not even one image fits.
        """
        height, width = images.shape[2:]
        outputs: list[Tensor] = []
        start = 0
        while start < len(images):
            part = images[start : start + self.images(height * width)]
            try:
                outputs.append(function(part))
                start += len(part)
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error, self.device):
                    raise
                self.pixels = len(part) * height * width // 2
            # Outside of `except`, whose traceback still held the tensors that filled the memory.
            release_cached_memory()
            if len(part) == 1:
                raise OutOfMemory(
                    f"{self.device}: out of memory with one image of {width}x{height} px;"
                    " choose smaller scales or --device cpu"
                )
        return torch.cat(outputs)
