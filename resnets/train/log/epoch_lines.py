"""One line of terminal output per epoch of a run, from the rows of its log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from resnets.report.run import BALANCED, MIN_DIFFERENCE

Row = Mapping[str, Any]

# Format of the metrics that are printed.
PRINTED = {
    "top1_error": "error {:.1f}%",
    "label_error": "wrong labels {:.1f}%",
    "mAP": "mAP {:.1f}%",
    "AP": "mAP {:.1f}%",
    "AP50": "mAP@.5 {:.1f}%",
    "mask_AP": "mask mAP {:.1f}%",
    "mask_AP50": "mask mAP@.5 {:.1f}%",
    "mean_iou": "mIoU {:.1f}%",
    "pixel_accuracy": "pixel accuracy {:.1f}%",
    "bits_per_character": "{:.3f} bits/character",
}
MAX_SILENCE = 60.0  # [s] after which a line is printed within an epoch


class EpochLines:
    """Prints one line per epoch of a run of `total` steps, from `step` on, by calling `emit`.

    The rows of an epoch arrive in this order: training, times, evaluations at its last step. The
    line is printed when a row or `tick` of a later step arrives.
    """

    def __init__(self, total: int, step: int, emit: Callable[[str], None]) -> None:
        self.total, self._emit = total, emit
        self._step, self._seconds_per_step = step, 0.0
        self._train: list[tuple[int, Row]] = []  # number of steps and row of each log interval
        self._evaluations: list[Row] = []
        self._end: Row | None = None  # row whose step and epoch the line shows
        self._over = False
        self._printed = time.monotonic()

    def train(self, row: Row) -> None:
        """Add a row of training metrics."""
        self.flush(row["step"])
        self._train.append((row["step"] - self._step, row))
        self._step, self._seconds_per_step = row["step"], row["seconds_per_step"]
        if time.monotonic() - self._printed > MAX_SILENCE:
            self._print(row, [row])

    def end(self, row: Row) -> None:
        """Add a row with the times of an epoch."""
        self.flush(row["step"])
        if not self._seconds_per_step and row["step"] > self._step:  # no row of training yet
            self._seconds_per_step = row["seconds"] / (row["step"] - self._step)
        self._end, self._over = row, True

    def evaluation(self, row: Row) -> None:
        """Add a row of evaluation metrics."""
        self.flush(row["step"])
        self._end = self._end or row
        self._evaluations.append(row)

    def flush(self, step: int | None = None) -> None:
        """Print the pending line if it belongs to an earlier step than `step`."""
        if self._end is None or (step is not None and step <= self._end["step"]):
            return
        rows = [*([self._mean()] if self._over and self._train else []), *self._evaluations]
        if rows:  # the log may have no row in this epoch
            self._print(self._end, rows)
        if self._over:
            self._train = []
        self._end, self._over, self._evaluations = None, False, []

    def _mean(self) -> Row:
        """Return the mean metrics of the epoch's training rows, weighted by steps."""
        names = [name for name in ("loss", *PRINTED) if all(name in row for _, row in self._train)]
        steps = max(1, sum(count for count, _ in self._train))
        means = {
            name: sum(count * row[name] for count, row in self._train) / steps for name in names
        }
        return {"kind": "train", **means}

    def _print(self, end: Row, rows: list[Row]) -> None:
        step = end["epoch"] / max(1, end["step"])  # in epochs
        parts = [
            f"epoch {_format_epoch(end['epoch'], step)}/{_format_epoch(step * self.total, step)}"
        ]
        parts += [text for row in rows if (text := format_metrics(row))]
        remaining = (self.total - end["step"]) * self._seconds_per_step
        if end["step"] < self.total and self._seconds_per_step:
            parts.append(f"{format_seconds(remaining)} left")
        self._emit("  ".join(parts))
        self._printed = time.monotonic()


def format_metrics(row: Row) -> str:
    """Format the metrics of a row: "loss 0.621, error 21.3%", or "val error 18.2%"."""
    words = [text.format(row[name]) for name, text in PRINTED.items() if name in row]
    balanced = row.get(BALANCED)
    if balanced is not None and abs(balanced - row.get("top1_error", balanced)) >= MIN_DIFFERENCE:
        words.append(f"balanced {balanced:.1f}%")
    if row["kind"] == "train" or not words:
        words = [f"loss {row['loss']:.3f}", *words] if "loss" in row else words
    text = ", ".join(words)
    return text if row["kind"] == "train" or not text else f"{row['kind']} {text}"


def format_seconds(seconds: float) -> str:
    """Format seconds as h:mm:ss, or m:ss below an hour."""
    total = max(0, round(seconds))
    if total < 3600:
        return f"{total // 60}:{total % 60:02}"
    return f"{total // 3600}:{total // 60 % 60:02}:{total % 60:02}"


def _format_epoch(epoch: float, step: float) -> str:
    """Format an epoch, as an integer at the step closest to its end (a step is `step` epochs)."""
    whole = round(epoch)
    return f"{whole}" if whole and abs(epoch - whole) <= max(0.05, step / 2) else f"{epoch:.1f}"
