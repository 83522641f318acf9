"""Train a grid: cells in worker processes, resumable; a failed cell does not stop the others."""

from __future__ import annotations

import dataclasses
import logging
import pickle
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType

from resnets.config import ConfigError, differing_fields, from_toml, to_dict
from resnets.study.grid.budget import Blocks, custom_parts, resolve_budget
from resnets.study.grid.cells import (
    STUDY,
    Cell,
    Grid,
    cell_recipe,
    check_settings,
    read_cell,
    read_cells,
    read_grid,
    sort_cells,
    write_grid,
)
from resnets.study.grid.model_names import custom_block
from resnets.study.grid.progress import StudyProgress
from resnets.study.grid.shared_process import CellJob, SharedProcess
from resnets.study.grid.worker import Slot, choose_slots, run_worker, worker_context
from resnets.train.guards.interrupt import Interrupted, StopSignals
from resnets.utils.files.locks import LOCK
from resnets.utils.imports import qualified_name
from resnets.utils.machine.processes import without_main_module
from resnets.weights.checkpoint.format import FOLDER, LAST, RECIPE

log = logging.getLogger("resnets")

POLL_SECONDS = 1.0
ENDED = ("done", "failed")  # of Cell.status


def train_grid(
    grid: Grid,
    folder: Path,
    *,
    jobs: int | None = None,
    device: str = "auto",
    blocks: Blocks = MappingProxyType({}),
) -> list[Cell]:
    """Train every cell of `grid` in `folder` that has not ended; returns all cells.

    `jobs` cells train at a time, one process each, or in one for each GPU if they can share it
    (`worker.can_share`); None chooses a number (`choose_slots`). blocks:
    those from outside the package, by the names of `Grid.blocks`. Finished cells are not repeated,
    a killed cell resumes from its last checkpoint, and a failed one stays failed. The caller locks
    the folder.
    Raises ConfigError if `folder` contains something else or a study of another grid, and
    Interrupted after a signal, once every running cell has saved.
    """
    check_blocks_given(grid, blocks)
    if not (folder / STUDY).is_file():
        _start_study(grid, folder, choose_slots(grid, jobs, device, sum(grid.seeds)), blocks)
    stored = read_grid(folder)
    _check_same(stored, grid, folder)
    cells = read_cells(folder)
    unfinished = sum(cell.status not in ENDED for cell in cells)
    if mixed := _find_mixed_cell(stored, cells):
        if unfinished:
            raise ConfigError(f"{mixed}; move the folder away to train it again")
        log.warning("%s", mixed)
    if unfinished:
        _WorkerPool(stored, cells, choose_slots(stored, jobs, device, unfinished), blocks).train()
    return read_cells(folder)


def check_blocks_given(grid: Grid, blocks: Blocks) -> None:
    """Raise ConfigError if a block of the grid is not given, or a process cannot import it."""
    for name in grid.blocks:
        if name not in blocks:
            raise ConfigError(
                f"block {name!r} is from outside the package; give it again, in Python: "
                f"resnets.study.depth(..., blocks={{{name!r}: ...}}, out=...)"
            )
        where = qualified_name(blocks[name])
        try:
            pickle.dumps(blocks[name])
        except (pickle.PicklingError, AttributeError, TypeError):
            where = "__main__"
        if where.startswith("__main__"):
            raise ConfigError(
                f"block {name!r}: runs train in processes of their own, which must import it; "
                "define it at the top of a module, not in the program or in a function"
            )


def _start_study(grid: Grid, folder: Path, slots: Sequence[Slot], blocks: Blocks) -> None:
    """Check the grid against recipe and data, resolve its budget, then write study.toml."""
    if any(each.name != LOCK for each in folder.iterdir()):
        raise ConfigError(f"{folder}: exists and contains no study; give another --out")
    for warning in check_settings(grid):
        log.warning("%s", warning)
    write_grid(resolve_budget(grid, len(slots), slots[0].device, slots[0].threads, blocks), folder)


def _check_same(stored: Grid, requested: Grid, folder: Path) -> None:
    """Raise ConfigError if the study in `folder` is not the requested one."""
    if different := differing_fields(to_dict(stored.requested), to_dict(requested.requested)):
        path, (theirs, ours) = next(iter(different.items()))
        raise ConfigError(
            f"{folder}: contains a study with {path} = {theirs!r}, not {ours!r}; resume it as it "
            f"is (--resume {folder}) or give another --out"
        )


def _find_mixed_cell(grid: Grid, cells: Sequence[Cell]) -> str | None:
    """Return which cell was trained by another recipe than the grid's; None if none was."""
    for cell in cells:
        if cell.status != "done" and not (cell.folder / FOLDER / LAST).exists():
            continue
        theirs = from_toml(cell.folder / RECIPE, stored=True)
        ours = cell_recipe(grid, cell.model, cell.seed)
        # A run adapts these to its data before it writes its recipe.
        fitted = dataclasses.replace(
            ours.model,
            num_classes=theirs.model.num_classes,
            input_size=theirs.model.input_size,
            in_channels=theirs.model.in_channels,
        )
        # The grid does not have the import path of a custom block.
        text = dataclasses.replace(ours.transformer, vocabulary=theirs.transformer.vocabulary)
        custom = theirs.custom if custom_block(cell.model) else ours.custom
        ours = dataclasses.replace(
            ours,
            model=fitted,
            transformer=text,
            custom=custom,
            log_every=theirs.log_every,  # changes no result; earlier versions spaced rows otherwise
        )
        if different := differing_fields(to_dict(theirs), to_dict(ours)):
            path, (there, here) = next(iter(different.items()))
            return (
                f"{cell.folder}: mixed grid: it was trained with {path} = {there!r}, the study has "
                f"{here!r}"
            )
    return None


class _Worker:
    """A cell that trains in a process of its own."""

    def __init__(self, slot: Slot, job: CellJob) -> None:
        self.slot = slot
        context = worker_context()
        self._receiver, sender = context.Pipe(duplex=False)
        self.process: BaseProcess = context.Process(
            target=run_worker,
            args=(job.recipe, job.folder, slot.device, slot.threads, sender, job.parts),
            name=job.folder.name,
        )
        with without_main_module():
            self.process.start()
        sender.close()
        self.signal = self.process.sentinel  # ready when there is something to `poll`

    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.exitcode is not None

    def reason(self) -> str | None:
        """Return the error that the process sent before it ended, if any."""
        self.process.join()
        with self._receiver:
            try:
                return str(self._receiver.recv()) if self._receiver.poll() else None
            except EOFError:
                return None


class _SharedWorker:
    """A cell that trains in the process of its slot's device, with others."""

    def __init__(self, slot: Slot, job: CellJob, shared: SharedProcess) -> None:
        self.slot, self._folder, self._shared = slot, job.folder, shared
        self.process: BaseProcess = shared.process
        self.signal = shared.connection
        shared.start(job)

    def has_ended(self) -> bool:
        """Whether the cell or the process has ended."""
        return self._shared.poll() or self._folder in self._shared.ends

    def reason(self) -> str | None:
        """Return the error that the cell sent, if any."""
        end = self._shared.ends.get(self._folder)
        return None if end is None else end.reason


class _WorkerPool:
    """The running workers and the cells waiting for one, both by cell folder."""

    def __init__(
        self, grid: Grid, cells: Sequence[Cell], slots: Sequence[Slot], blocks: Blocks
    ) -> None:
        self.grid, self.free, self.blocks = grid, deque(slots), blocks
        self.cells = {cell.folder: cell for cell in cells}
        self.waiting = deque(
            cell.folder for cell in sort_cells(cells, len(slots)) if cell.status not in ENDED
        )
        self.workers: dict[Path, _Worker | _SharedWorker] = {}
        self.shared: dict[str, SharedProcess] = {}  # by device
        self.alone: set[Path] = set()  # cells whose shared process broke down
        self.stopping = False

    def train(self) -> None:
        """Train all; raises Interrupted after a signal, once the workers have saved and ended."""
        progress = StudyProgress(self.grid, list(self.cells.values()))
        try:
            with StopSignals() as signals:
                while self.workers or self.waiting:
                    if signals.received and not self.stopping:
                        self._stop(progress)
                    while self.waiting and self.free:
                        self._start(self.waiting.popleft(), self.free.popleft(), progress)
                    wait({each.signal for each in self.workers.values()}, POLL_SECONDS)
                    self._poll(progress)
                if self.stopping:
                    raise Interrupted("stopped; running cells have saved", signals.exit_code)
        finally:
            for process in self._processes():
                process.kill()
            progress.close()

    def _processes(self) -> set[BaseProcess]:
        workers = {worker.process for worker in self.workers.values()}
        return workers | {shared.process for shared in self.shared.values()}

    def _start(self, folder: Path, slot: Slot, progress: StudyProgress) -> None:
        cell = self.cells[folder]
        recipe = cell_recipe(self.grid, cell.model, cell.seed)
        job = CellJob(recipe, folder, custom_parts(cell.model, self.blocks))
        if slot.shared and folder not in self.alone:
            shared = self.shared.get(slot.device)
            if shared is None or shared.process.exitcode is not None:
                shared = self.shared[slot.device] = SharedProcess(slot)
            self.workers[folder] = _SharedWorker(slot, job, shared)
        else:
            self.workers[folder] = _Worker(slot, job)
        progress.started(cell)

    def _poll(self, progress: StudyProgress) -> None:
        """Read the state of the workers, and free the slots of those that have ended."""
        for folder, worker in list(self.workers.items()):
            ended = worker.has_ended()  # before reading its files
            cell = self.cells[folder]
            cell = self.cells[folder] = read_cell(folder.parents[1], cell.model, cell.seed)
            if not ended:
                continue
            del self.workers[folder]
            self.free.append(worker.slot)
            reason = worker.reason()
            stopped = cell.status not in ENDED and reason is None
            if stopped and isinstance(worker, _SharedWorker) and not self.stopping:
                self.alone.add(folder)
                self.waiting.appendleft(folder)
                progress.log(f"{folder.name}: its process broke down; it gets one of its own")
            else:
                progress.ended(cell, worker.process.exitcode or 0, reason)
        progress.show(list(self.cells.values()), [self.cells[each] for each in self.workers])

    def _stop(self, progress: StudyProgress) -> None:
        """Make the workers save and end, and start no others."""
        self.stopping = True
        self.waiting.clear()
        for process in self._processes():
            process.terminate()
        progress.log(f"stopping: {len(self.workers)} running will save (Ctrl-C again: immediately)")
