"""Images read by threads while the model computes, in batches that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from resnets.data import DataError
from resnets.data.prefetch import prefetch
from resnets.utils.errors import OutOfMemory, is_out_of_memory

NOT_FINITE = (
    "the network's outputs for this image are not finite (NaN or Inf): its weights are damaged, or"
    " its preprocessing is another"
)
T = TypeVar("T")
R = TypeVar("R")


def batched_inference(
    read: Callable[[T], R],
    compute: Callable[[Sequence[R]], Tensor],
    items: Iterable[T],
    *,
    group: int,
    workers: int,
    at_once: int = 1,
    finite: bool = False,
) -> Iterator[list[tuple[T, Tensor | str]]]:
    """Read and compute `items` in batches; yields each batch as items with their outputs, in order.

    read: one item, on one of `workers` threads, which read the next batch meanwhile. compute: the
    read items of a batch of up to `group`, to a tensor (B, ...), in inference mode. at_once:
    batches computed at a time, on threads of their own if several, so that cores that finish one
    batch start on the next. An item whose reading raises DataError or OSError has its message in
    place of an output; with `finite`, an output that is not finite is replaced by `NOT_FINITE`.
    """

    def attempt(item: T) -> tuple[R] | str:
        try:
            return (read(item),)
        except (DataError, OSError) as error:
            return str(error)

    def answer(chunk: list[tuple[T, tuple[R] | str]]) -> list[tuple[T, Tensor | str]]:
        readable = [found[0] for _, found in chunk if not isinstance(found, str)]
        rows: Iterator[Tensor | str] = iter(())
        if readable:
            with torch.inference_mode():
                outputs = compute(readable)
                rows = iter(_finite(outputs) if finite else outputs)
        return [(item, found if isinstance(found, str) else next(rows)) for item, found in chunk]

    with closing(prefetch(attempt, items, workers=workers, ahead=group)) as found:
        chunks = iter(lambda: list(islice(found, group)), [])
        if at_once == 1:
            yield from map(answer, chunks)
            return
        with closing(prefetch(answer, chunks, workers=at_once, ahead=at_once)) as answers:
            yield from (done for _, done in answers)


def _finite(rows: Tensor) -> list[Tensor | str]:
    """The rows of a batch; `NOT_FINITE` in place of those that are not finite."""
    fine = rows.flatten(1).isfinite().all(1).tolist()
    return [row if good else NOT_FINITE for row, good in zip(rows, fine, strict=True)]


# Input pixels (images x height x width) computed at once. A CPU takes a megapixel, which costs
# ResNet-50 0.4 GiB and VGG-16 1.5 (measured); a larger image is computed alone. An accelerator
# starts with 256 images of 224 px and halves that when its memory runs out.
CPU_PIXELS = 1 << 20
DEVICE_PIXELS = 256 * 224 * 224


class PixelBudget:
    """Input pixels that fit into device memory; halved whenever it runs out."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pixels = CPU_PIXELS if device.type == "cpu" else DEVICE_PIXELS

    def images(self, pixels: int) -> int:
        """How many images of so many pixels are computed at once; at least 1."""
        return max(1, self.pixels // pixels)

    def run(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """`function` of `images` (B, C, H, W), computed in parts along B that fit.

        Raises OutOfMemory if not even one image fits.
        """
        height, width = images.shape[2:]
        done: list[Tensor] = []
        start = 0
        while start < len(images):
            part = images[start : start + self.images(height * width)]
            try:
                done.append(function(part))
                start += len(part)
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.pixels = len(part) * height * width // 2
            # Outside of `except`, whose traceback still held the tensors that filled the memory.
            torch.accelerator.empty_cache()
            if len(part) == 1:
                raise OutOfMemory(
                    f"{self.device}: out of memory with one image of {width}x{height} px;"
                    " choose smaller scales or --device cpu"
                )
        return torch.cat(done)
