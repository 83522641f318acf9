"""What evaluating and predicting share before they start: where to compute, and how far along."""

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

from resnets.utils import environment
from resnets.utils.terminal import Console

T = TypeVar("T")


def to_device(net: nn.Module, device: str, precision: str) -> tuple[torch.device, str]:
    """Move `net` to the device that `device` ("auto", "cuda:1") means, channels last.

    Returns it with the precision that "auto" becomes there.
    """
    chosen = environment.pick_device(device)
    if chosen.type == "cpu":
        environment.tune_malloc()
    net.to(chosen).to(memory_format=torch.channels_last)
    return chosen, environment.pick_precision(precision, chosen)


def with_progress(
    items: Iterable[T],
    total: int,
    pictures: Callable[[T], int] = lambda _: 1,
    *,
    doing: str = "pictures",
    hidden: bool = False,
) -> Iterator[T]:
    """Hand on `items` under a bar with images/s and time left, on stderr where that is a terminal.

    `pictures` says how many of the `total` pictures an item stands for. What is printed to stdout
    meanwhile stays there.
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
        task = bar.add_task(doing, total=total)
        for item in items:
            yield item
            bar.advance(task, pictures(item))


class _Rate(ProgressColumn):
    """Pictures a second."""

    def render(self, task: Task) -> Text:
        """The rate as text; empty until it is known."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} images/s" if speed else "")
