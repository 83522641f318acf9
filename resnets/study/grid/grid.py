"""Train a grid: cells in worker processes, resumable at any point, failures kept apart."""

from __future__ import annotations

import dataclasses
import logging
import pickle
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any

from resnets.config import ConfigError, from_toml, to_dict
from resnets.study.grid.budget import Blocks, parts_of, resolve_budget
from resnets.study.grid.cells import (
    RECIPE,
    STUDY,
    Cell,
    Grid,
    cell_recipe,
    read_cells,
    read_grid,
    reread,
    setting_warnings,
    training_order,
    write_grid,
)
from resnets.study.grid.model_names import custom_block
from resnets.study.grid.progress import StudyProgress
from resnets.study.grid.slots import Slot, choose_slots
from resnets.study.grid.worker import work, worker_context
from resnets.train.guards.interrupt import Interrupted, StopSignals
from resnets.utils.files import LOCK
from resnets.utils.imports import qualified_name
from resnets.utils.processes import without_main_module
from resnets.weights.checkpoint.format import LAST

log = logging.getLogger("resnets")

POLL_SECONDS = 1.0
ENDED = ("done", "failed")


def train_grid(
    grid: Grid,
    folder: Path,
    *,
    jobs: int | None = None,
    device: str = "auto",
    blocks: Blocks = MappingProxyType({}),
) -> list[Cell]:
    """Train every cell of `grid` in `folder` that has not ended; returns all cells.

    `jobs` cells train at a time, one process each; None chooses a number (`choose_slots`). blocks:
    those from outside the package, by the names of `Grid.blocks`. Finished cells are not repeated,
    a killed cell resumes from its last checkpoint, and a failed one stays failed. The caller locks
    the folder.
    Raises ConfigError where `folder` holds something else or a study of another grid, and
    Interrupted after a signal, once every running cell has saved.
    """
    check_blocks_given(grid, blocks)
    if not (folder / STUDY).is_file():
        _begin(grid, folder, choose_slots(grid, jobs, device, sum(grid.seeds)), blocks)
    stored = read_grid(folder)
    _check_same(stored, grid, folder)
    cells = read_cells(folder)
    left = sum(cell.status not in ENDED for cell in cells)
    if mixed := _mixed(stored, cells):
        if left:
            raise ConfigError(f"{mixed}; move the folder away to train it again")
        log.warning("%s", mixed)
    if left:
        _WorkerPool(stored, cells, choose_slots(stored, jobs, device, left), blocks).train()
    return read_cells(folder)


def check_blocks_given(grid: Grid, blocks: Blocks) -> None:
    """Raise ConfigError where a block of the grid is not given, or a process cannot import it."""
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
                f"block {name!r}: runs train in processes of their own, which have to import it; "
                "define it at the top of a module, not in the program or in a function"
            )


def _begin(grid: Grid, folder: Path, slots: Sequence[Slot], blocks: Blocks) -> None:
    """Check the grid against recipe and data, resolve its budget, then write study.toml."""
    if any(each.name != LOCK for each in folder.iterdir()):
        raise ConfigError(f"{folder}: exists and contains no study; give another --out")
    for warning in setting_warnings(grid):
        log.warning("%s", warning)
    write_grid(resolve_budget(grid, len(slots), slots[0].device, slots[0].threads, blocks), folder)


def _check_same(stored: Grid, requested: Grid, folder: Path) -> None:
    """Raise ConfigError where the study in `folder` is not the requested one."""
    if found := _difference(to_dict(stored.requested), to_dict(requested.requested)):
        path, theirs, ours = found
        raise ConfigError(
            f"{folder}: contains a study with {path} = {theirs!r}, not {ours!r}; resume it as it "
            f"is (--resume {folder}) or give another --out"
        )


def _mixed(grid: Grid, cells: Sequence[Cell]) -> str | None:
    """Which cell was trained by another recipe than the grid's; None if none was."""
    for cell in cells:
        if cell.status != "done" and not (cell.folder / "checkpoints" / LAST).exists():
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
        # What a custom block is, and that it is one, is not in the grid.
        text = dataclasses.replace(ours.transformer, vocabulary=theirs.transformer.vocabulary)
        custom = theirs.custom if custom_block(cell.model) else ours.custom
        ours = dataclasses.replace(ours, model=fitted, transformer=text, custom=custom)
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


@dataclass(frozen=True)
class _Worker:
    """A worker process in its slot, and the pipe by which it reports an error."""

    process: BaseProcess
    slot: Slot
    receiver: Connection

    def reason(self) -> str | None:
        """The error that the process sent before it ended, if any."""
        with self.receiver:
            try:
                return str(self.receiver.recv()) if self.receiver.poll() else None
            except EOFError:
                return None


class _WorkerPool:
    """The running worker processes and the cells waiting for one, both by cell folder."""

    def __init__(
        self, grid: Grid, cells: Sequence[Cell], slots: Sequence[Slot], blocks: Blocks
    ) -> None:
        self.grid, self.free, self.blocks = grid, deque(slots), blocks
        self.cells = {cell.folder: cell for cell in cells}
        self.waiting = deque(
            cell.folder for cell in training_order(cells, len(slots)) if cell.status not in ENDED
        )
        self.workers: dict[Path, _Worker] = {}
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
                    wait([each.process.sentinel for each in self.workers.values()], POLL_SECONDS)
                    self._poll(progress)
                if self.stopping:
                    raise Interrupted("stopped; running cells have saved", signals.exit_code)
        finally:
            for worker in self.workers.values():
                worker.process.kill()
            progress.close()

    def _start(self, folder: Path, slot: Slot, progress: StudyProgress) -> None:
        cell = self.cells[folder]
        recipe = cell_recipe(self.grid, cell.model, cell.seed)
        context = worker_context()
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=work,
            args=(
                *(recipe, folder, slot.device, slot.threads, sender),
                parts_of(cell.model, self.blocks),
            ),
            name=folder.name,
        )
        with without_main_module():
            process.start()
        sender.close()
        self.workers[folder] = _Worker(process, slot, receiver)
        progress.started(cell)

    def _poll(self, progress: StudyProgress) -> None:
        """Read the state of the workers, and free the slots of those that have ended."""
        for folder, worker in list(self.workers.items()):
            ended = worker.process.exitcode is not None  # before reading its files
            self.cells[folder] = reread(self.cells[folder])
            if ended:
                worker.process.join()
                del self.workers[folder]
                self.free.append(worker.slot)
                progress.ended(self.cells[folder], worker.process.exitcode, worker.reason())
        progress.show(list(self.cells.values()), [self.cells[each] for each in self.workers])

    def _stop(self, progress: StudyProgress) -> None:
        """Have the workers save and end, and start no others."""
        self.stopping = True
        self.waiting.clear()
        for worker in self.workers.values():
            worker.process.terminate()
        progress.log(f"stopping: {len(self.workers)} running will save (Ctrl-C again: immediately)")
