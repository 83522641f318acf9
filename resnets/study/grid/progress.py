"""What a study says while it goes: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from resnets.study.grid.cells import Cell, Grid
from resnets.train.log import format_duration
from resnets.utils.terminal import Console

# Seconds between two plain lines about the whole study.
LINE_EVERY = 60.0


class StudyProgress:
    """Overall progress with ETA, and where each cell at work stands.

    Work is counted in steps times layers, which within one family of nets is close to time. The
    ETA assumes that the rest goes as fast as what this process has seen, so it includes
    evaluations, start-up and whatever else the machine is doing.
    """

    def __init__(self, grid: Grid, cells: Sequence[Cell]) -> None:
        self.grid = grid
        self.total = sum(grid.iterations * cell.depth for cell in cells)
        self.before = sum(self._work(cell) for cell in cells)
        self.begun = self.spoken = time.monotonic()
        self.console = Console(stderr=True)
        self.tasks: dict[str, TaskID] = {}
        self.bars: Progress | None = None
        if sys.stderr.isatty():
            self.bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[said]}"),
                console=self.console,
            )
            self.tasks["all"] = self.bars.add_task("study", total=self.total, said="")
            self.bars.start()

    def show(self, cells: Sequence[Cell], at_work: Sequence[Cell]) -> None:
        """Say where the study stands; `at_work` are the cells being trained now."""
        done = sum(self._work(cell) for cell in cells)
        finished = sum(cell.status in ("done", "failed") for cell in cells)
        said = f"{finished}/{len(cells)} runs  ETA {self._eta(done)}"
        if self.bars is not None:
            self.bars.update(self.tasks["all"], completed=done, said=said)
            for cell in at_work:
                if cell.folder.name not in self.tasks:
                    self.tasks[cell.folder.name] = self.bars.add_task(
                        cell.folder.name, total=self.grid.iterations, said=""
                    )
                self.bars.update(
                    self.tasks[cell.folder.name], completed=_step(cell), said=_error(cell)
                )
        elif time.monotonic() - self.spoken >= LINE_EVERY:
            self.spoken = time.monotonic()
            where = "; ".join(
                f"{cell.folder.name} step {_step(cell):,}/{self.grid.iterations:,} {_error(cell)}"
                for cell in at_work
            )
            self.say(f"{done / self.total:4.0%}  {said}  {where}")

    def begins(self, cell: Cell) -> None:
        """A worker begins or goes on with `cell`."""
        if self.bars is None:
            going_on = f", going on at step {_step(cell):,} or before" if cell.rows else ""
            self.say(f"{cell.folder.name}: training{going_on}")

    def ends(self, cell: Cell, exit_code: int | None) -> None:
        """The worker of `cell` has ended."""
        if task := self.tasks.pop(cell.folder.name, None):
            assert self.bars is not None
            self.bars.remove_task(task)
        if cell.status == "done":
            self.say(f"{cell.folder.name}: done, {_error(cell)}")
        elif cell.status == "failed":
            self.say(f"{cell.folder.name}: failed: {cell.error}")
        elif exit_code in (0, -signal.SIGTERM):
            self.say(f"{cell.folder.name}: stopped")
        else:
            self.say(f"{cell.folder.name}: its process died (exit code {exit_code})")

    def say(self, text: str) -> None:
        """One line for the person at the terminal."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        """Give the terminal back."""
        if self.bars is not None:
            self.bars.stop()

    def _work(self, cell: Cell) -> int:
        steps = self.grid.iterations if cell.status in ("done", "failed") else _step(cell)
        return steps * cell.depth

    def _eta(self, done: int) -> str:
        if done <= self.before:
            return "-:--:--"
        return format_duration(
            (time.monotonic() - self.begun) * (self.total - done) / (done - self.before)
        )


def _step(cell: Cell) -> int:
    return cell.rows[-1]["step"] if cell.rows else 0


def _error(cell: Cell) -> str:
    """The last errors of each kind, such as "train 1.80%, test 2.10%"."""
    rows = {kind: cell.last(kind) for kind in ("train", "val", "test")}
    return ", ".join(f"{kind} {row['top1_error']:.2f}%" for kind, row in rows.items() if row)
