"""What a run says while it goes: metrics.jsonl, TensorBoard events, progress bar or lines."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from resnets.config import atomic_write
from resnets.train.tensorboard import Board
from resnets.train.timing import TIME, stages_line
from resnets.utils.terminal import Console

METRICS = "metrics.jsonl"
DAMAGED = "metrics-damaged.txt"
_log = logging.getLogger(__name__)
# Figures in percent that are said as well as written, and what they are called.
SHOWN = {
    "top1_error": "error",
    "AP": "mAP",
    "AP50": "mAP@.5",
    "mask_AP": "mask mAP",
    "mask_AP50": "mask mAP@.5",
    "mean_iou": "mIoU",
    "pixel_accuracy": "pixels right",
}


class RunLog:
    """One run's log in `folder`; `quiet` says nothing to the terminal.

    failed: why rows cannot be written (a full disk), once one could not; the loop then stops.

    A row is one JSON object a line: `kind` ("train", "val", "time"), `step`, `epoch` and figures.
    Going on from `step` drops the rows after it, so that a resumed run repeats none.
    """

    failed: str | None = None

    def __init__(self, folder: Path, total: int, step: int = 0, quiet: bool = False) -> None:
        self.path, self.total, self.quiet = folder / METRICS, total, quiet
        rows, damaged = _parse(self.path)
        rows = [row for row in rows if row["step"] <= step]
        if damaged:  # for whoever wants to look; the file itself is written anew
            with open(folder / DAMAGED, "ab") as file:
                file.writelines(line + b"\n" for _, line in damaged)
        with atomic_write(self.path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self._file = open(self.path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._board = Board(folder, step)
        self._console = Console(stderr=True)
        self._bar = None if quiet or not sys.stderr.isatty() else _progress_bar(self._console)
        if self._bar is not None:
            self._task = self._bar.add_task("training", total=total, completed=step, said="")
            self._bar.start()

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row everywhere."""
        try:
            self._file.write(json.dumps(row) + "\n")
        except OSError as error:
            self.failed = f"{self.path}: rows cannot be written ({error.strerror})"
            return
        self._board.write(row)
        if row["kind"] == "train":
            self._show_train(row)
        elif row["kind"] == TIME:
            self.say(f" time  epoch {row['epoch']:.2f}  {stages_line(row)}")
        else:
            self.say(f"{row['kind']:>5}  epoch {row['epoch']:.2f}  {_said(row, 4)}")

    def _show_train(self, row: Mapping[str, Any]) -> None:
        said = _said(row, 3)
        rate = row["images_per_second"]
        speed = f"{rate:,.{0 if rate >= 10 else 1}f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=row["step"], said=f"{said}  {speed}")
            return
        left = (self.total - row["step"]) * row["seconds_per_step"]
        self.say(
            f"train  epoch {row['epoch']:.2f}  step {row['step']:,}/{self.total:,}  {said}  "
            f"lr {row['lr']:.3g}  {speed}  ETA {clock(left)}"
        )

    def tick(self, step: int) -> None:
        """Move the progress bar; costs nothing where there is none."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def say(self, text: str) -> None:
        """One line for the person at the terminal."""
        if not self.quiet:
            self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        """Flush and release files and the progress bar."""
        if self._bar is not None:
            self._bar.stop()
        self._board.close()
        with suppress(OSError):  # said by `failed`
            self._file.close()


class NoLog:
    """The log of all processes but the first: says and writes nothing."""

    failed: str | None = None

    def write(self, row: Mapping[str, Any]) -> None:
        """Nothing."""

    def tick(self, step: int) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _said(row: Mapping[str, Any], digits: int) -> str:
    """The figures of a row that a person follows: loss and error, or what its task measures."""
    words = [f"loss {row['loss']:.{digits}f}"] if "loss" in row else []
    shown = ((name, SHOWN[name]) for name in SHOWN if name in row)
    return "  ".join((*words, *(f"{title} {row[name]:.2f}%" for name, title in shown)))


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Intact rows of a run's metrics.jsonl; a warning counts the damaged ones.

    A last line cut short by a kill is no damage.
    """
    rows, damaged = _parse(folder / METRICS)
    if damaged:
        _log.warning(
            "%s: %d of %d lines damaged, the first is line %d; left out",
            folder / METRICS,
            len(damaged),
            len(damaged) + len(rows),
            damaged[0][0],
        )
    return rows


def _parse(path: Path) -> tuple[list[dict[str, Any]], list[tuple[int, bytes]]]:
    """Rows of a file, and the damaged lines with their numbers; none of both where it is missing.

    A row is an object with a number as its `step` and a text as its `kind`.
    """
    if not path.is_file():
        return [], []
    rows, damaged = [], []
    *lines, last = path.read_bytes().split(b"\n")
    for number, line in enumerate([*lines, last], start=1):
        try:
            row = json.loads(line)  # UnicodeDecodeError is a ValueError, too
            if not (type(row["step"]) is int and isinstance(row["kind"], str)):
                raise ValueError
            rows.append(row)
        except (ValueError, TypeError, KeyError, RecursionError):
            if line.strip() and number <= len(lines):  # the last one was not finished
                damaged.append((number, line))
    return rows, damaged


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}"),
        console=console,
    )
