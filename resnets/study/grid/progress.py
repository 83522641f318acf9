"""The progress of a study: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from resnets.study.grid.cells import Cell, Grid
from resnets.train.log.epoch_lines import format_seconds
from resnets.utils.printable import Console

# Seconds between two plain lines about the whole study.
LINE_SECONDS = 60.0


class StudyProgress:
    """Overall progress with ETA, and the progress of each running cell.

    Work is counted in steps times layers, which is roughly proportional to time within one family
    of models. The ETA extrapolates the speed since this process started, so it includes
    evaluations, start-up and the load of the machine.
    """

    def __init__(self, grid: Grid, cells: Sequence[Cell]) -> None:
        self.grid = grid
        self.total = sum(grid.iterations * cell.depth for cell in cells)
        self.initial_work = sum(self._count_work(cell) for cell in cells)
        self.start = self.last_line = time.monotonic()
        self.console = Console(stderr=True)
        self.tasks: dict[str, TaskID] = {}
        self.bars: Progress | None = None
        if sys.stderr.isatty():
            self.bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[status]}"),
                console=self.console,
            )
            self.tasks["all"] = self.bars.add_task("study", total=self.total, status="")
            self.bars.start()

    def show(self, cells: Sequence[Cell], running: Sequence[Cell]) -> None:
        """Show the state of the study; `running` are the cells being trained now."""
        done = sum(self._count_work(cell) for cell in cells)
        finished = sum(cell.status in ("done", "failed") for cell in cells)
        status = f"{finished}/{len(cells)} runs  ETA {self._format_eta(done)}"
        if self.bars is not None:
            self.bars.update(self.tasks["all"], completed=done, status=status)
            for cell in running:
                if cell.folder.name not in self.tasks:
                    self.tasks[cell.folder.name] = self.bars.add_task(
                        cell.folder.name, total=self.grid.iterations, status=""
                    )
                self.bars.update(
                    self.tasks[cell.folder.name],
                    completed=_last_step(cell),
                    status=_format_errors(cell),
                )
        elif time.monotonic() - self.last_line >= LINE_SECONDS:
            self.last_line = time.monotonic()
            cells_text = "; ".join(
                f"{cell.folder.name} step {_last_step(cell):,}/{self.grid.iterations:,} "
                f"{_format_errors(cell)}"
                for cell in running
            )
            self.log(f"{done / self.total:4.0%}  {status}  {cells_text}")

    def started(self, cell: Cell) -> None:
        """Report that a worker starts or resumes `cell`."""
        if self.bars is None:
            resumed = f", resumed at step {_last_step(cell):,} or before" if cell.rows else ""
            self.log(f"{cell.folder.name}: training{resumed}")

    def ended(self, cell: Cell, exit_code: int | None, reason: str | None) -> None:
        """Report how the worker of `cell` ended; `reason`: the error that it sent, if any."""
        if task := self.tasks.pop(cell.folder.name, None):
            assert self.bars is not None
            self.bars.remove_task(task)
        if cell.status == "done":
            self.log(f"{cell.folder.name}: done, {_format_errors(cell)}")
        elif cell.status == "failed":
            self.log(f"{cell.folder.name}: failed: {cell.error}")
        elif exit_code in (0, -signal.SIGTERM):
            self.log(f"{cell.folder.name}: stopped")
        else:
            self.log(
                f"{cell.folder.name}: {reason or f'its process ended (exit code {exit_code})'}"
            )

    def log(self, text: str) -> None:
        """Print one line to stderr."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        """Stop the progress bars."""
        if self.bars is not None:
            self.bars.stop()

    def _count_work(self, cell: Cell) -> int:
        steps = self.grid.iterations if cell.status in ("done", "failed") else _last_step(cell)
        return steps * cell.depth

    def _format_eta(self, done: int) -> str:
        if done <= self.initial_work:
            return "-:--:--"
        return format_seconds(
            (time.monotonic() - self.start) * (self.total - done) / (done - self.initial_work)
        )


def _last_step(cell: Cell) -> int:
    return cell.rows[-1]["step"] if cell.rows else 0


def _format_errors(cell: Cell) -> str:
    """Format the last errors of each kind, such as "train 1.80%, test 2.10%"."""
    rows = {kind: cell.last(kind) for kind in ("train", "val", "test")}
    return ", ".join(
        f"{kind} {cell.metric.text(cell.metric.of(row))}" for kind, row in rows.items() if row
    )
