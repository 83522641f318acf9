"""Worker processes of a grid: how many, on which devices, and how each trains a cell."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch

from resnets.config import ConfigError, Recipe, dump_json
from resnets.config.ranges import check_range
from resnets.models import build
from resnets.models.cost import count_cost, shapes_only
from resnets.study.grid.cells import FAILED, Grid, cell_recipe
from resnets.train.cuda_graph.start import recipe_obstacles
from resnets.train.guards.divergence import Diverged
from resnets.train.guards.interrupt import Interrupted
from resnets.train.run import run_training
from resnets.train.tasks.custom_parts import CustomParts
from resnets.train.write_results import RESULT
from resnets.utils.errors import BusyError, OutOfMemory
from resnets.utils.files.locks import lock_file
from resnets.utils.machine.cpu_count import cores
from resnets.utils.machine.environment import pick_device
from resnets.weights.checkpoint.format import RECIPE
from resnets.weights.checkpoint.manager import CheckpointManager

# On a CPU, processes of one thread each are faster than one process of several. cifar-resnet20,
# batch size 128, 32 px, bfloat16, two cores shared with other work, runs interleaved: 2 x 1 thread
# gave 160 to 730 images/s, 1 x 2 threads 9 to 165 (ratio 3 to 31), since the threads of one step
# wait for each other. Limited because each process has its own data and activations.
MAX_JOBS = 8

# Estimate of a cell's memory on a GPU: the CUDA context, libraries and data; copies of the weights
# (gradients, momentum, averages); float32 maps that a layer stores (its own output, that of its
# norm, and the gradient).
CONTEXT_BYTES, WEIGHT_COPIES, MAPS = 2 << 30, 4, 3
USED_SHARE = 0.8  # of a GPU's memory


@dataclass(frozen=True)
class Slot:
    """A device and number of threads for training one cell at a time.

    shared: in the process of all shared slots of the device (`shared_process`).
    """

    device: str
    threads: int
    shared: bool = False


def choose_slots(grid: Grid, jobs: int | None, device: str, cells: int) -> list[Slot]:
    """Return slots for `jobs` workers at a time, at most `cells`.

    "auto" and "cuda" are all CUDA devices in turn. By default there are as many workers as cores,
    at most `MAX_JOBS` on a CPU or GPU, and on a GPU no more than fit into its memory
    (`estimate_cell_bytes`); workers share the cores as threads. Cells on one CUDA device that
    `can_share` a process do. Raises ConfigError for `jobs` < 1.
    """
    check_range("--jobs", jobs, "[1, inf)")
    if device in ("auto", "cuda") and torch.cuda.is_available():
        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    else:
        devices = [str(pick_device(device))]
    if jobs is None:
        jobs = _default_jobs(grid, devices)
    jobs = min(jobs, cells)
    threads = max(1, torch.get_num_threads() // jobs)
    several = devices[0].startswith("cuda") and jobs > len(devices)
    shared = several and can_share(grid)
    return [Slot(devices[index % len(devices)], threads, shared) for index in range(jobs)]


def can_share(grid: Grid) -> bool:
    """Whether cells of the grid can train in threads of one process.

    Their steps must be CUDA graphs, or they would wait for each other in Python, and their
    precision, which is a setting of the process, the same. Trackers log one run of a process.
    """
    cells = [cell_recipe(grid, model, 0) for model in grid.models]
    graphs = all(cell.cuda_graph and not any(recipe_obstacles(cell)) for cell in cells)
    uniform = len({cell.precision for cell in cells}) == 1
    return graphs and uniform and not any(cell.trackers for cell in cells)


def _default_jobs(grid: Grid, devices: list[str]) -> int:
    """Return the number of workers on all `devices`; one on each unless they are CPU or CUDA."""
    if devices == ["cpu"]:
        return min(cores(), MAX_JOBS)
    if not devices[0].startswith("cuda"):
        return len(devices)
    smallest = min(torch.cuda.get_device_properties(each).total_memory for each in devices)
    memory, cell = int(USED_SHARE * smallest), estimate_cell_bytes(grid)
    if can_share(grid):  # one context, and threads that wait for the device
        fitting = (memory - CONTEXT_BYTES) // (cell - CONTEXT_BYTES)
        return len(devices) * max(1, min(fitting, MAX_JOBS))
    return len(devices) * max(1, min(memory // cell, cores() // len(devices), MAX_JOBS))


def estimate_cell_bytes(grid: Grid) -> int:
    """Return an upper estimate of the device memory of the grid's largest cell, in bytes."""
    largest = 0
    for name in grid.models:
        recipe = cell_recipe(grid, name, 0)
        with shapes_only():
            counted = count_cost(build(recipe.model))
        images = recipe.micro_batch or recipe.batch_size
        maps = MAPS * images * sum(math.prod(layer.output) for layer in counted.layers)
        largest = max(largest, 4 * (WEIGHT_COPIES * counted.parameters + maps))
    return CONTEXT_BYTES + largest


def worker_context() -> ForkServerContext:
    """Return the context that forks workers from a process that has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def train_cell(
    recipe: Recipe,
    folder: Path,
    device: str,
    parts: CustomParts = CustomParts(),  # noqa: B008 (frozen)
) -> None:
    """Train the cell in `folder`, resuming it if it was started; does nothing if it has ended.

    If a run cannot be trained (it diverged, it does not fit into memory), failed.json gets the
    reason in one line. Raises Interrupted, and errors that are not the cell's own: BusyError (a
    process that is ending still locks the folder), OSError and CheckpointError (a full disk, a URL
    that does not answer), DataError (a disk that is not mounted).
    """
    if (folder / RESULT).exists() or (folder / FAILED).exists():
        return
    try:
        if (folder / RECIPE).exists() and CheckpointManager(folder, recipe).exists():
            run_training(None, folder, device=device, quiet=True, parts=parts)
        else:
            shutil.rmtree(folder, ignore_errors=True)  # was started, but has no checkpoint
            run_training(recipe, folder, device=device, quiet=True, parts=parts)
    except BusyError:  # is a ConfigError, but not the cell's own
        raise
    except (Diverged, OutOfMemory, ConfigError) as error:
        folder.mkdir(parents=True, exist_ok=True)
        reason = " ".join(str(error).split())
        dump_json({"error": reason}, folder / FAILED)


def run_worker(
    recipe: Recipe,
    folder: Path,
    device: str,
    threads: int,
    reason: Connection,
    parts: CustomParts,
) -> None:
    """Run a worker process: `train_cell` with `threads` threads, until its parent ends.

    On an error that is not the cell's own (such as a full disk), sends its text to `reason` and
    exits with 1; the cell is resumed with the study.
    """
    init_worker(threads)
    error = train_locked(recipe, folder, device, parts)
    if error is not None:
        reason.send(error)
        raise SystemExit(1)


def train_locked(recipe: Recipe, folder: Path, device: str, parts: CustomParts) -> str | None:
    """Run `train_cell` while no other process does; returns an error that is not the cell's own.

    Returns None if the cell has ended, or was interrupted and has saved.
    """
    # A worker of a killed study may still be saving this cell.
    with lock_file(folder.with_name(f".{folder.name}.lock"), None):
        try:
            train_cell(recipe, folder, device, parts)
        except Interrupted:
            return None  # the parent requested it
        except (OSError, ValueError) as error:
            return str(error)
    return None


def init_worker(threads: int) -> None:
    """Set the number of threads, and stop this process when its parent ends.

    Ctrl-C reaches the whole process group: the training loop handles it and saves, and outside the
    loop the parent decides. A killed parent cannot, so a thread waits for its end and stops this
    process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
