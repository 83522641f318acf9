"""What a section is made of, and where it runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

Row = dict[str, str | float | None]


class LeftOut(Exception):  # noqa: N818  (a state, not an error)
    """A case that is of no use here, with the reason: no data, no CUDA, no such library."""


@dataclass(frozen=True)
class Case:
    """One measurement. seconds: about what it takes on one H200; none starts with less left."""

    name: str
    seconds: float
    run: Callable[[], list[Row]]


@dataclass(frozen=True)
class Setting:
    """Where and how the cases run.

    data: folder with cifar10.tar.xz and others; out: folder for what the commands write. ends:
    time.monotonic() when the limit is reached. tiny: the smallest sizes, to test the script.
    """

    device: torch.device
    data: Path
    out: Path
    ends: float
    tiny: bool

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU; else the CPU stands in for it."""
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return self.ends - time.monotonic()

    def require_cuda(self) -> None:
        """Raise LeftOut on a CPU."""
        if not self.cuda:
            raise LeftOut("needs a CUDA device")

    def file(self, name: str) -> Path:
        """A file of the data folder; raises LeftOut where it is not there."""
        path = self.data / name
        if not path.exists():
            raise LeftOut(f"{path} is not there")
        return path

    def synchronize(self) -> None:
        """Wait until the device has done what was asked of it."""
        if self.cuda:
            torch.cuda.synchronize(self.device)


def time_rounds(
    setting: Setting, steps: dict[str, Callable[[], object]], rounds: int, count: int, warm_up: int
) -> dict[str, list[float]]:
    """Seconds a step of each contender in each round of `count` steps; contenders take turns."""
    for step in steps.values():
        for _ in range(warm_up):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            setting.synchronize()
            start = time.perf_counter()
            for _ in range(count):
                step()
            setting.synchronize()
            seconds[name].append((time.perf_counter() - start) / count)
    return seconds


def spread(values: list[float], digits: int = 3) -> str:
    """Median, minimum and maximum as "1.52 (1.50 to 1.61)"."""
    middle, low, high = (
        f"{each:.{digits}g}" for each in (median(values), min(values), max(values))
    )
    return f"{middle} ({low} to {high})"


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def rounded(value: float, digits: int = 4) -> float:
    """To `digits` significant digits, whole numbers above them."""
    short = float(f"{value:.{digits}g}")
    return int(short) if short == int(short) and abs(short) >= 10 else short
