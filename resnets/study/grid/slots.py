"""How many cells of a study train at a time, and on which devices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from resnets.config import ConfigError
from resnets.models import build
from resnets.models.cost import count_cost, shapes_only
from resnets.study.grid.cells import Grid, cell_recipe
from resnets.utils.cpu_count import cores
from resnets.utils.environment import pick_device

# On a CPU, processes of one thread each are faster than one process of several. cifar-resnet20,
# batch size 128, 32 px, bfloat16, two cores shared with other work, runs interleaved: 2 x 1 thread
# gave 160 to 730 images/s, 1 x 2 threads 9 to 165 (ratio 3 to 31), since the threads of one step
# wait for each other. Limited because each process holds its own data and activations.
MAX_JOBS = 8

# Estimate of a cell's memory on a GPU: the CUDA context, libraries and data; copies of the weights
# (gradients, momentum, averages); float32 maps that a layer stores (its own output, that of its
# norm, and the gradient).
CONTEXT_BYTES, WEIGHT_COPIES, MAPS = 2 << 30, 4, 3
USED_SHARE = 0.8  # of a GPU's memory


@dataclass(frozen=True)
class Slot:
    """A device and number of threads for training one cell at a time."""

    device: str
    threads: int


def choose_slots(grid: Grid, jobs: int | None, device: str, cells: int) -> list[Slot]:
    """Slots for `jobs` workers at a time, at most `cells`.

    "auto" and "cuda" are all CUDA devices in turn. By default there are as many workers as cores,
    at most `MAX_JOBS` on a CPU or GPU, and on a GPU no more than its memory holds
    (`cell_bytes`); workers share the cores as threads.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs: {jobs} must be at least 1")
    if device in ("auto", "cuda") and torch.cuda.is_available():
        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    else:
        devices = [str(pick_device(device))]
    if jobs is None:
        jobs = _default_jobs(grid, devices)
    jobs = min(jobs, cells)
    threads = max(1, torch.get_num_threads() // jobs)
    return [Slot(devices[index % len(devices)], threads) for index in range(jobs)]


def _default_jobs(grid: Grid, devices: list[str]) -> int:
    """Workers at a time on all `devices`; one on each where they are no CPU or CUDA devices."""
    if devices == ["cpu"]:
        return min(cores(), MAX_JOBS)
    if not devices[0].startswith("cuda"):
        return len(devices)
    smallest = min(torch.cuda.get_device_properties(each).total_memory for each in devices)
    fitting = int(USED_SHARE * smallest) // cell_bytes(grid)
    return len(devices) * max(1, min(fitting, cores() // len(devices), MAX_JOBS))


def cell_bytes(grid: Grid) -> int:
    """Device memory that the grid's largest cell needs, estimated generously."""
    largest = 0
    for name in grid.models:
        recipe = cell_recipe(grid, name, 0)
        with shapes_only():
            counted = count_cost(build(recipe.model))
        images = recipe.micro_batch or recipe.batch_size
        maps = MAPS * images * sum(math.prod(layer.output) for layer in counted.layers)
        largest = max(largest, 4 * (WEIGHT_COPIES * counted.parameters + maps))
    return CONTEXT_BYTES + largest
