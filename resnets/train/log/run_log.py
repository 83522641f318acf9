"""The log of a run: metrics.jsonl, TensorBoard events, and a progress bar or lines of text."""

from __future__ import annotations

import html
import json
import logging
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from resnets.report.run import BALANCED
from resnets.train.log.epoch_lines import PRINTED, EpochLines, format_metrics, format_seconds
from resnets.train.log.tensorboard_log import TensorBoardLog
from resnets.train.log.timing import STAGES, TIME, data_bottleneck
from resnets.train.log.trackers import Trackers
from resnets.utils.files.write import atomic_write
from resnets.utils.printable import Console

METRICS = "metrics.jsonl"
DAMAGED = "metrics-damaged.txt"
NOTEBOOK_SECONDS = 0.5  # between two updates of a notebook's progress bar
_log = logging.getLogger(__name__)
# Fields that rows of kind "time" must have, and fields that must be numbers in any row.
TIME_FIELDS = ("seconds", *STAGES, "decode_threads", "packed")
NUMERIC_FIELDS = {*PRINTED, *TIME_FIELDS, BALANCED, "loss", "decode_busy", "decode_cpu"}


class RunLog:
    """The log of one run in `folder`, with progress in the terminal unless `quiet`.

    Each row is a JSON object on one line: `kind` ("train", "val", "time"), `step`, `epoch` and
    metrics. When a run resumes at `step`, later rows are removed, so that none is repeated.

    Args:
        trackers: Experiment trackers that also receive each row.
        unit: What `images_per_second` counts.

    `error` is the reason why a row could not be written (disk full), or None. The loop then stops.
    """

    error: str | None = None

    def __init__(
        self,
        folder: Path,
        total: int,
        step: int = 0,
        quiet: bool = False,
        trackers: Trackers | None = None,
        unit: str = "images",
    ) -> None:
        self._trackers, self._unit = trackers, unit
        self.path, self.total, self.quiet = folder / METRICS, total, quiet
        rows, damaged = _parse_rows(self.path)
        rows = [row for row in rows if row["step"] <= step]
        if damaged:  # kept for inspection; the file itself is rewritten
            with open(folder / DAMAGED, "ab") as file:
                file.writelines(line + b"\n" for _, line in damaged)
        with atomic_write(self.path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self._file = open(self.path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._tensorboard = TensorBoardLog(folder, step)
        self._console = Console(stderr=True)
        self._lines = EpochLines(total, step, self._print)
        self._printed_hints: set[str] = set()
        self._bar: TerminalBar | NotebookBar | None = None
        if not quiet and in_notebook():
            self._bar = NotebookBar(total, step)
        elif not quiet and sys.stderr.isatty():
            self._bar = TerminalBar(self._console, total, step)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row to all outputs."""
        try:
            self._file.write(json.dumps(row) + "\n")
        except OSError as error:
            self.error = f"{self.path}: cannot write rows ({error.strerror})"
            return
        self._tensorboard.write(row)
        if self._trackers is not None:
            self._trackers.write(row)
        if row["kind"] == "train":
            self._lines.train(row)
            if self._bar is not None:
                rate = row["images_per_second"]
                speed = f"{rate:,.{0 if rate >= 10 else 1}f} {self._unit}/s"
                self._bar.update(row["step"], f"{format_metrics(row)}, {speed}")
        elif row["kind"] == TIME:
            self._lines.end(row)
            hint = data_bottleneck(row)
            if hint is not None and hint not in self._printed_hints:
                self._printed_hints.add(hint)
                self._print(hint)
        else:
            self._lines.evaluation(row)

    def tick(self, step: int) -> None:
        """Advance the progress bar, if there is one."""
        self._lines.flush(step)
        if self._bar is not None:
            self._bar.update(step)

    def info(self, text: str) -> None:
        """Print a line to the terminal."""
        self._lines.flush()
        self._print(text)

    def _print(self, text: str) -> None:
        if not self.quiet:
            self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        """Flush and close files and the progress bar."""
        self._lines.flush()
        if self._bar is not None:
            self._bar.close()
        self._tensorboard.close()
        if self._trackers is not None:
            self._trackers.close()
        with suppress(OSError):  # reported by `error`
            self._file.close()


class NullLog:
    """The log of all processes except the main one; does nothing."""

    error: str | None = None

    def write(self, row: Mapping[str, Any]) -> None:
        """Do nothing."""

    def tick(self, step: int) -> None:
        """Do nothing."""

    def info(self, text: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Read the valid rows of a run's metrics.jsonl; logs a warning about damaged lines.

    An incomplete last line, from a run that was killed, is not counted as damaged.
    """
    rows, damaged = _parse_rows(folder / METRICS)
    if damaged:
        _log.warning(
            "%s: %d of %d lines are damaged, the first is line %d; ignored",
            folder / METRICS,
            len(damaged),
            len(damaged) + len(rows),
            damaged[0][0],
        )
    return rows


def _parse_rows(path: Path) -> tuple[list[dict[str, Any]], list[tuple[int, bytes]]]:
    """Return the rows of a file, and its damaged lines with their numbers; [] if it is missing."""
    if not path.is_file():
        return [], []
    rows, damaged = [], []
    *lines, last = path.read_bytes().split(b"\n")
    for number, line in enumerate([*lines, last], start=1):
        try:
            row = json.loads(line)  # UnicodeDecodeError is a ValueError
            if not _is_valid_row(row):
                raise ValueError
            rows.append(row)
        except (ValueError, RecursionError):
            if line.strip() and number <= len(lines):  # the last line may be incomplete
                damaged.append((number, line))
    return rows, damaged


def _is_valid_row(row: Any) -> bool:
    """True if a row has all required fields, and numbers where numbers are expected."""
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return False
    kind = row.get("kind")
    if not isinstance(kind, str) or row["step"] < 0:
        return False
    required = {"epoch", *(TIME_FIELDS if kind == TIME else ())}
    if kind == TIME and row.get("decode_threads"):
        required |= {"decode_busy", "decode_cpu"}
    return row.keys() >= required and all(
        isinstance(row[name], int | float) for name in required | (row.keys() & NUMERIC_FIELDS)
    )


class TerminalBar:
    """A progress bar in a terminal; text printed in the meantime appears above it."""

    def __init__(self, console: Console, total: int, step: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=console,
        )
        self._task = self._progress.add_task("training", total=total, completed=step, metrics="")
        self._progress.start()

    def update(self, step: int, metrics: str | None = None) -> None:
        """Show the step and, if given, new metrics."""
        self._progress.update(self._task, completed=step)
        if metrics is not None:
            self._progress.update(self._task, metrics=metrics)

    def close(self) -> None:
        """Remove the bar from the terminal."""
        self._progress.stop()


class NotebookBar:
    """A progress bar in the output of a notebook cell, redrawn twice per second."""

    def __init__(self, total: int, step: int) -> None:
        from IPython.display import HTML, display

        self._html, self._total, self._step, self._metrics = HTML, total, step, ""
        self._drawn, self._first_step, self._started = time.monotonic(), step, time.monotonic()
        self._handle = display(self._bar(), display_id=True)

    def update(self, step: int, metrics: str | None = None) -> None:
        """Show the step and, if given, new metrics."""
        self._step, self._metrics = step, self._metrics if metrics is None else metrics
        if time.monotonic() - self._drawn > NOTEBOOK_SECONDS:
            self.close()

    def close(self) -> None:
        """Draw the final state of the bar."""
        self._drawn = time.monotonic()
        self._handle.update(self._bar())

    def _bar(self) -> Any:
        done = max(1, self._step - self._first_step)
        seconds = (time.monotonic() - self._started) / done * (self._total - self._step)
        words = [f"{self._step:,}/{self._total:,}", f"ETA {format_seconds(seconds)}"]
        text = html.escape("  ".join([*words, self._metrics]))
        bar = f'<progress value="{self._step}" max="{self._total}"></progress>'
        return self._html(f"<div>training {bar} <code>{text}</code></div>")


def in_notebook() -> bool:
    """True if the code runs in a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")
