"""Training a grid: cells in worker processes, resumable at any point, one failure at a time."""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from resnets.config import ConfigError, from_toml, hold_folder, to_dict
from resnets.study.grid.budget import settle
from resnets.study.grid.cells import (
    RECIPE,
    STUDY,
    Cell,
    Grid,
    cell_recipe,
    read_cells,
    read_grid,
    reread,
    training_order,
    write_grid,
)
from resnets.study.grid.progress import StudyProgress
from resnets.study.grid.worker import work, worker_context
from resnets.train.guards.interrupt import Interrupted, StopSignals
from resnets.utils.cpu_count import cores
from resnets.utils.environment import pick_device
from resnets.utils.files import LOCK
from resnets.weights.checkpoint.format import LAST

log = logging.getLogger("resnets")

POLL_SECONDS = 1.0
# On a CPU, processes with one thread each beat one process with several. cifar-resnet20, batch 128,
# 32 px, bfloat16, two cores shared with other work, runs interleaved: 2 x 1 thread gave 160 to 730
# images/s, 1 x 2 threads 9 to 165 (ratio 3 to 31): the threads of one step wait for each other, and
# so for whatever else holds a core. No more than this many: each holds its own data and maps.
JOBS_AT_MOST = 8
OVER = ("done", "failed")


@dataclass(frozen=True)
class Slot:
    """A place where one cell trains at a time."""

    device: str
    threads: int


def run_grid(
    grid: Grid, folder: Path, *, jobs: int | None = None, device: str = "auto"
) -> list[Cell]:
    """Train every cell of `grid` in `folder`, or what is left of them; returns the cells.

    `jobs` cells train at a time, one process each; None picks a number (`slots`). Nothing finished
    is repeated, a killed cell goes on at its last checkpoint, and a failed one is left as it is.
    Raises ConfigError where `folder` holds something else, a study of another grid, or is being
    worked on, and Stopped when a signal asked for it and every cell at work has saved.
    """
    with hold_folder(folder):
        return train_grid(grid, folder, jobs=jobs, device=device)


def train_grid(
    grid: Grid, folder: Path, *, jobs: int | None = None, device: str = "auto"
) -> list[Cell]:
    """`run_grid` in a folder that the caller holds."""
    if not (folder / STUDY).is_file():
        _begin(grid, folder, slots(jobs, device, sum(grid.seeds)))
    kept = read_grid(folder)
    _refuse_other(kept, grid, folder)
    cells = read_cells(folder)
    left = sum(cell.status not in OVER for cell in cells)
    if mixed := _mixed(kept, cells):
        if left:
            raise ConfigError(f"{mixed}; move the folder away to train it anew")
        log.warning("%s", mixed)
    if left:
        _Crew(kept, cells, slots(jobs, device, left)).train()
    return read_cells(folder)


def slots(jobs: int | None, device: str, cells: int) -> list[Slot]:
    """Places for `jobs` workers at a time, never more than `cells`.

    "auto" and "cuda" are all CUDA devices in turn. By default there is one worker for each of
    them, and on a CPU one for each core, at most JOBS_AT_MOST; workers share the cores as threads.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs: {jobs} must be at least 1")
    if device in ("auto", "cuda") and torch.cuda.is_available():
        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    else:
        devices = [str(pick_device(device))]
    if jobs is None:
        jobs = min(cores(), JOBS_AT_MOST) if devices == ["cpu"] else len(devices)
    jobs = min(jobs, cells)
    threads = max(1, torch.get_num_threads() // jobs)
    return [Slot(devices[index % len(devices)], threads) for index in range(jobs)]


def _begin(grid: Grid, folder: Path, places: Sequence[Slot]) -> None:
    """Check the grid against recipe and data, settle its budget, then write study.toml."""
    if any(each.name != LOCK for each in folder.iterdir()):
        raise ConfigError(f"{folder}: exists and holds no study; give another --out")
    for net in grid.nets:
        cell_recipe(grid, net, seed=0)  # raises where a setting does not fit
    write_grid(settle(grid, len(places), places[0].device, places[0].threads), folder)


def _refuse_other(kept: Grid, asked: Grid, folder: Path) -> None:
    """Raise where the study in `folder` is not the one asked for."""
    if found := _difference(to_dict(kept.asked), to_dict(asked.asked)):
        path, theirs, ours = found
        raise ConfigError(
            f"{folder}: holds a study with {path} = {theirs!r}, not {ours!r}; go on with it as it "
            f"is (--resume {folder}) or give another --out"
        )


def _mixed(grid: Grid, cells: Sequence[Cell]) -> str | None:
    """Which cell was trained by another recipe than the grid gives it; None where none was."""
    for cell in cells:
        if cell.status != "done" and not (cell.folder / "checkpoints" / LAST).exists():
            continue
        theirs = from_toml(cell.folder / RECIPE, stored=True)
        ours = cell_recipe(grid, cell.net, cell.seed)
        # A run fits these two to its data before it writes its recipe.
        fitted = dataclasses.replace(
            ours.model,
            num_classes=theirs.model.num_classes,
            input_size=theirs.model.input_size,
        )
        ours = dataclasses.replace(ours, model=fitted)
        if found := _difference(to_dict(theirs), to_dict(ours)):
            path, there, here = found
            return (
                f"{cell.folder}: mixed grid: it was trained with {path} = {there!r}, the study has "
                f"{here!r}"
            )
    return None


def _difference(
    first: dict[str, Any], second: dict[str, Any], prefix: str = ""
) -> tuple[str, Any, Any] | None:
    """The first field in which two nested dicts differ: its path and both values."""
    for key in first | second:
        one, other = first.get(key), second.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            if found := _difference(one, other, f"{prefix}{key}."):
                return found
        elif one != other:
            return f"{prefix}{key}", one, other
    return None


class _Crew:
    """Worker processes at work, and the cells still waiting for one; both by cell folder."""

    def __init__(self, grid: Grid, cells: Sequence[Cell], places: Sequence[Slot]) -> None:
        self.grid, self.free = grid, deque(places)
        self.cells = {cell.folder: cell for cell in cells}
        self.waiting = deque(
            cell.folder for cell in training_order(cells, len(places)) if cell.status not in OVER
        )
        self.workers: dict[Path, tuple[BaseProcess, Slot]] = {}
        self.stopping = False

    def train(self) -> None:
        """Train all; raises Stopped when asked to stop, once the workers have saved and ended."""
        progress = StudyProgress(self.grid, list(self.cells.values()))
        try:
            with StopSignals() as signals:
                while self.workers or self.waiting:
                    if signals.received and not self.stopping:
                        self._stop(progress)
                    while self.waiting and self.free:
                        self._start(self.waiting.popleft(), self.free.popleft(), progress)
                    wait([process.sentinel for process, _ in self.workers.values()], POLL_SECONDS)
                    self._look(progress)
                if self.stopping:
                    raise Interrupted("stopped; what was at work has saved", signals.exit_code)
        finally:
            for process, _ in self.workers.values():
                process.kill()
            progress.close()

    def _start(self, folder: Path, place: Slot, progress: StudyProgress) -> None:
        cell = self.cells[folder]
        recipe = cell_recipe(self.grid, cell.net, cell.seed)
        process = worker_context().Process(
            target=work, args=(recipe, folder, place.device, place.threads), name=folder.name
        )
        process.start()
        self.workers[folder] = process, place
        progress.begins(cell)

    def _look(self, progress: StudyProgress) -> None:
        """See how far the workers are, and free the slots of those that have ended."""
        for folder, (process, place) in list(self.workers.items()):
            ended = process.exitcode is not None  # before reading what it has written
            self.cells[folder] = reread(self.cells[folder])
            if ended:
                process.join()
                del self.workers[folder]
                self.free.append(place)
                progress.ends(self.cells[folder], process.exitcode)
        progress.show(list(self.cells.values()), [self.cells[each] for each in self.workers])

    def _stop(self, progress: StudyProgress) -> None:
        """Have the workers save and end, and start no more."""
        self.stopping = True
        self.waiting.clear()
        for process, _ in self.workers.values():
            process.terminate()
        progress.say(f"stopping: {len(self.workers)} at work will save (Ctrl-C again: at once)")
