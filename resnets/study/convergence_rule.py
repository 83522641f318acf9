"""Determine whether a network was trained long enough for a conclusion; used by all studies.

Studies compare networks at the end of training. If both networks have hardly started, the
comparison shows only which one is faster in the first steps; there deeper networks are slower,
regardless of their final error. So a comparison is valid only if the better of its two networks has
converged:

1. it has fitted its training data: its last training error is at most `fitted` times the
   chance-level error (15% with 10 classes); or
2. it has leveled off: it trained for at least LEVEL_EPOCHS epochs, its training error fell by
   less than `level` points over the last fifth of the run, and it has learned at all (error at most
   `learned` times the chance level). The epochs are required because a curve flattens as soon as
   the learning rate falls, however early that is.

`fitted`, `learned` and `level` are fields of the metric (`study.metric`); text has its own. The
worse network need not have converged, because fitting worse is the claim. If its error was still
falling (`still_falling`), its final error remains unknown.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnets.config import TransformerSpec
from resnets.study.grid.cells import Cell
from resnets.study.metric import BITS, ERROR, LEVEL_EPOCHS, Metric
from resnets.train.log.run_log import read_rows

# Fractions of the chance-level error of equally frequent classes, 1 - 1/K.
FITTED, LEARNED, UNTRAINED = ERROR.fitted, ERROR.learned, 0.9
TAIL = 0.2  # fraction of the run over which a curve must be level

Rows = Sequence[Mapping[str, Any]]


def chance_level(classes: int, metric: Metric = ERROR) -> float:
    """Return the chance level of `classes` equally frequent classes: percent, or bits."""
    return math.log2(classes) if metric is BITS else 100 * (1 - 1 / classes)


@dataclass(frozen=True)
class Convergence:
    """State of one network at the end of training: means over its runs.

    error: last training error in percent, or the value of `metric`. fall: decrease of the error
    over the last fifth of the run; None if a run has too few rows. classes: number of classes.
    """

    model: str
    steps: int
    epochs: float
    error: float
    fall: float | None
    classes: int
    metric: Metric = ERROR

    @property
    def converged(self) -> bool:
        """Whether the network has converged, by the rule of this module."""
        chance = chance_level(self.classes, self.metric)
        if self.error <= self.metric.fitted * chance:
            return True
        return (
            self.error <= self.metric.learned * chance
            and self.epochs >= LEVEL_EPOCHS
            and self.fall is not None
            and self.fall < self.metric.level
        )

    @property
    def still_falling(self) -> bool:
        """Whether the training error fell by `metric.level` or more over the last fifth."""
        return self.fall is not None and self.fall >= self.metric.level

    @property
    def text(self) -> str:
        """Such as "80 iterations (4 epochs), training error 81.0% (cifar-plain20)"."""
        return (
            f"{self.steps:,} iteration{'' if self.steps == 1 else 's'} "
            f"({format_epochs(self.epochs)}), training {self.metric.name} "
            f"{self.metric.text(self.error, 1)} ({self.model})"
        )


def compute_convergence(
    model: str, runs: Sequence[Rows], classes: int, metric: Metric = ERROR
) -> Convergence | None:
    """Compute the convergence of one network from the rows of metrics.jsonl of each of its runs.

    None without runs, or if a run has no "train" row.
    """
    training = [[row for row in rows if row["kind"] == "train"] for rows in runs]
    if not training or not all(training):
        return None
    last = [rows[-1] for rows in training]
    falls = [_measure_fall(rows, metric) for rows in training]
    measured = [fall for fall in falls if fall is not None]
    return Convergence(
        model=model,
        steps=max(row["step"] for row in last),
        epochs=statistics.fmean(row.get("epoch", 0.0) for row in last),
        error=statistics.fmean(metric.of(row) for row in last),
        fall=statistics.fmean(measured) if len(measured) == len(falls) else None,
        classes=classes,
        metric=metric,
    )


def measure_convergence(cells: Sequence[Cell]) -> Convergence | None:
    """Compute the convergence of one model over its finished `cells`; None without rows."""
    done = [cell for cell in cells if cell.status == "done"]
    if not done:
        return None
    first = done[0]
    spec = first.spec
    classes = spec.vocabulary if isinstance(spec, TransformerSpec) else spec.num_classes
    return compute_convergence(first.model, [cell.rows for cell in done], classes, first.metric)


def find_caution(path: Path | None, error: float, classes: int, *, measured_on: str) -> str:
    """Return why a page about a trained network draws no conclusion; "" if it converged.

    path: a run or a checkpoint in one, whose metrics.jsonl is read if it exists; None for a loaded
    model. error: measured on the images of the study, in percent; `measured_on` names them
    ("held-out", "training").
    """
    chance = chance_level(classes)
    if error <= FITTED * chance:
        return ""
    measured = (
        f"its error on the {measured_on} images is {error:.1f}%, the chance level {chance:.1f}%"
    )
    if error >= UNTRAINED * chance:
        return f"The network is untrained: {measured}."
    rows = [] if path is None else _run_rows(path)
    convergence = compute_convergence("the run", [rows], classes) if rows else None
    # After many epochs a high training error can be due to heavy augmentation: not judged here.
    if convergence is not None and not convergence.converged and convergence.epochs < LEVEL_EPOCHS:
        trained = convergence.text.removesuffix(f" ({convergence.model})")
        return f"The network has not converged: {trained}; {measured}."
    if error > LEARNED * chance:
        return f"The network is barely trained: {measured}."
    return ""


def join_cautions(cautions: Mapping[str, str]) -> str:
    """Join the cautions of several networks, by label, into one text; empty if there are none."""
    return " ".join(
        f"{label}: {text[0].lower()}{text[1:]}" for label, text in cautions.items() if text
    )


def format_epochs(epochs: float) -> str:
    """Format a number of epochs, such as "1 epoch", "2.6 epochs" or "164 epochs"."""
    text = f"{epochs:.1f}".removesuffix(".0") if epochs < 10 else f"{epochs:,.0f}"
    return f"{text} epoch{'' if text == '1' else 's'}"


def _measure_fall(rows: Rows, metric: Metric) -> float | None:
    """Return the decrease of the mean metric from the fourth fifth of the run to the last."""
    end = rows[-1]["step"]
    late = [metric.of(row) for row in rows if row["step"] > (1 - TAIL) * end]
    before = [
        metric.of(row) for row in rows if (1 - 2 * TAIL) * end < row["step"] <= (1 - TAIL) * end
    ]
    return statistics.fmean(before) - statistics.fmean(late) if before and late else None


def _run_rows(path: Path) -> Rows:
    """Read the rows of a run, or of the run of a checkpoint; empty if there are none."""
    return read_rows(path.parent.parent if path.parent.name == "checkpoints" else path)
