"""Device, precision and progress bar for evaluation and prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import nn

from resnets.utils.errors import within_memory
from resnets.utils.machine import environment
from resnets.utils.machine.precision import pick_precision
from resnets.utils.printable import Console

T = TypeVar("T")


def to_device(
    model: nn.Module, device: str, precision: str, *, keep_bits: bool = False
) -> tuple[torch.device, str]:
    """Move `model` to a device ("auto", "cuda:1"), channels last.

    Returns the device and the precision, resolved if it is "auto" as `pick_precision` does.
    """
    chosen = environment.pick_device(device)
    if chosen.type == "cpu":
        environment.tune_malloc()
    with within_memory(f"the model does not fit on {chosen}", "use --device cpu", chosen):
        model.to(chosen).to(memory_format=torch.channels_last)
    return chosen, pick_precision(precision, chosen, keep_bits=keep_bits)


def with_progress(
    items: Iterable[T],
    total: int,
    images: Callable[[T], int] = lambda _: 1,
    *,
    description: str = "images",
    hidden: bool = False,
) -> Iterator[T]:
    """Iterate over `items` with a progress bar (images/s, time left) on stderr if it is a terminal.

    images: returns the number of images of an item, out of `total`. stdout is not redirected.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        disable=hidden or not console.is_terminal,
    )
    with bar:
        task = bar.add_task(description, total=total)
        for item in items:
            yield item
            bar.advance(task, images(item))


class _Rate(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        """Return the rate as text; empty until it is known."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} images/s" if speed else "")
