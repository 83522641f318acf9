"""Cases of benchmarks/gpu.py, and the device, folders and limits that they run with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from pathlib import Path

import torch

from resnets import recipes
from resnets.config import Recipe, replace_fields

Row = dict[str, str | float | None]

# Prefix of a cell whose row is not a result: its case has failed, and is not done.
WRONG, FAILED = "**wrong**", "**failed**"


# In messages of errors after which a process is unusable, or cannot capture graphs anymore.
FATAL = (
    "CUDA error",
    "device-side assert",
    "illegal memory access",
    "CUBLAS_STATUS",
    "cuDNN error",
    "captures_underway",  # of the allocator, after a capture that failed
    "could not be captured",
)


class Skipped(Exception):  # noqa: N818  (not an error)
    """A case that cannot run here: without the data, CUDA or a library."""


def is_right(rows: list[Row]) -> bool:
    """Whether no cell of the rows begins with WRONG or FAILED."""
    return not any(
        isinstance(value, str) and value.startswith((WRONG, FAILED))
        for row in rows
        for value in row.values()
    )


def is_fatal(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is of CUDA and makes the process unusable."""
    if error is None:
        return False
    return any(word in str(error) for word in FATAL) or is_fatal(
        error.__cause__ or error.__context__
    )


@dataclass(frozen=True)
class Case:
    """One measurement. seconds: estimate for one H200; it does not start with less time left.

    late: runs after the cases of all sections that are not. any_commit: rows of another commit
    count, for trainings that take minutes.
    """

    name: str
    seconds: float
    run: Callable[[], list[Row]]
    late: bool = False
    any_commit: bool = False


@dataclass(frozen=True)
class Setting:
    """Where and how the cases run.

    data: folder with cifar10.tar.xz and others. out: folder for the output of commands. deadline:
    time.monotonic() when the limit is reached. tiny: smallest sizes, to test the script. failed:
    "section/case" of those that have failed in this run so far.
    """

    device: torch.device
    data: Path
    out: Path
    deadline: float
    tiny: bool
    failed: Set[str] = frozenset()
    missing_files: set[str] = field(default_factory=set)  # that `file` was asked for

    @property
    def cuda(self) -> bool:
        """Whether the cases run on a GPU."""
        return self.device.type == "cuda"

    @property
    def seconds_left(self) -> float:
        """Seconds until the limit."""
        return self.deadline - time.monotonic()

    def require_cuda(self) -> None:
        """Raise Skipped on a CPU."""
        if not self.cuda:
            raise Skipped("needs a CUDA device")

    def file(self, name: str) -> Path:
        """Return a file of the data folder; raises Skipped if it is missing."""
        path = self.data / name
        if not path.exists():
            self.missing_files.add(str(path))
            raise Skipped(f"{path} is missing")
        return path

    def synchronize(self) -> None:
        """Wait until the device has finished all work."""
        if self.cuda:
            torch.cuda.synchronize(self.device)


def time_rounds(
    setting: Setting, steps: dict[str, Callable[[], object]], rounds: int, count: int, warm_up: int
) -> dict[str, list[float]]:
    """Return seconds per step, by contender and round of `count` steps; contenders take turns."""
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


def cifar_recipe(setting: Setting, model: str, fields: dict[str, str] | None = None) -> Recipe:
    """Return the paper's recipe for a CIFAR model, of tiny size if `setting.tiny`."""
    recipe = recipes.recipe("cifar10-paper", model)
    tiny = {"model.depths": "[1,1,1]", "batch_size": "16"} if setting.tiny else {}
    return replace_fields(recipe, {"model.num_classes": "10"} | tiny | (fields or {}))


def rounded(value: float, digits: int = 4) -> float:
    """Round to `digits` significant digits; an int if it is whole and at least 10."""
    short = float(f"{value:.{digits}g}")
    if not math.isfinite(short):
        return short
    return int(short) if short == int(short) and abs(short) >= 10 else short
