"""Whether a network trained long enough for a conclusion: one rule for all studies.

Studies compare where networks *end*. A comparison of two networks that have both hardly started is
a race over the first steps, which deeper networks lose whatever they would reach in the end. So a
comparison is valid only where the better of its two networks has converged:

1. it has fitted its training data: its last training error is at most FITTED of the error of
   guessing (15% with 10 classes); or
2. it has leveled off: it trained for at least LEVEL_EPOCHS epochs, its training error fell by
   less than LEVEL points over the last fifth of the run, and it has learned at all (error at most
   LEARNED of that of guessing). Without the epochs a curve shows little, since it flattens as soon
   as the learning rate falls, however early that is.

FITTED, LEARNED and LEVEL are those of the metric (`study.metric`), which has its own for text.
The worse network need not have converged, because fitting worse is the claim. Where its error was
still falling (`still_falling`), where it would have ended stays open.
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

# Shares of the error of guessing among equally frequent classes, 1 - 1/K.
FITTED, LEARNED, UNTRAINED = ERROR.fitted, ERROR.learned, 0.9
TAIL = 0.2  # share of the run over which a curve must be level

Rows = Sequence[Mapping[str, Any]]


def guessing(classes: int, metric: Metric = ERROR) -> float:
    """The metric of guessing one of `classes` equally frequent classes: percent, or bits."""
    return math.log2(classes) if metric is BITS else 100 * (1 - 1 / classes)


@dataclass(frozen=True)
class Convergence:
    """How far the training of one network came; means over its runs.

    error: last training error in percent, or what `metric` is. fell: by how much it fell over the
    last fifth of the run; None where a run has too few rows. classes: of the data.
    """

    model: str
    steps: int
    epochs: float
    error: float
    fell: float | None
    classes: int
    metric: Metric = ERROR

    @property
    def converged(self) -> bool:
        """Whether a comparison may rest on this network, by the rule of the module."""
        chance = guessing(self.classes, self.metric)
        if self.error <= self.metric.fitted * chance:
            return True
        return (
            self.error <= self.metric.learned * chance
            and self.epochs >= LEVEL_EPOCHS
            and self.fell is not None
            and self.fell < self.metric.level
        )

    @property
    def still_falling(self) -> bool:
        """Whether the training error fell by the metric's level or more over the last fifth."""
        return self.fell is not None and self.fell >= self.metric.level

    @property
    def text(self) -> str:
        """Such as "80 iterations (4 epochs), training error 81.0% (cifar-plain20)"."""
        return (
            f"{self.steps:,} iteration{'' if self.steps == 1 else 's'} "
            f"({count_epochs(self.epochs)}), training {self.metric.name} "
            f"{self.metric.text(self.error, 1)} ({self.model})"
        )


def convergence(
    model: str, runs: Sequence[Rows], classes: int, metric: Metric = ERROR
) -> Convergence | None:
    """How far one network's training came, from the rows of metrics.jsonl of each of its runs.

    None without runs, or where a run has no "train" row.
    """
    training = [[row for row in rows if row["kind"] == "train"] for rows in runs]
    if not training or not all(training):
        return None
    last = [rows[-1] for rows in training]
    falls = [_fall(rows, metric) for rows in training]
    measured = [fall for fall in falls if fall is not None]
    return Convergence(
        model=model,
        steps=max(row["step"] for row in last),
        epochs=statistics.fmean(row.get("epoch", 0.0) for row in last),
        error=statistics.fmean(metric.of(row) for row in last),
        fell=statistics.fmean(measured) if len(measured) == len(falls) else None,
        classes=classes,
        metric=metric,
    )


def reached_by(cells: Sequence[Cell]) -> Convergence | None:
    """How far the training of one model came, over its finished `cells`; None without rows."""
    done = [cell for cell in cells if cell.status == "done"]
    if not done:
        return None
    first = done[0]
    spec = first.spec
    classes = spec.vocabulary if isinstance(spec, TransformerSpec) else spec.num_classes
    return convergence(first.model, [cell.rows for cell in done], classes, first.metric)


def caution(path: Path, error: float, classes: int, *, errors_of: str) -> str:
    """Why a page about a trained network concludes nothing; empty if it was trained long enough.

    path: a run or a checkpoint in one, whose metrics.jsonl is read if it exists. error: measured on
    the images of the study, in percent; `errors_of` names them ("held-out", "training").
    """
    chance = guessing(classes)
    if error <= FITTED * chance:
        return ""
    measured = (
        f"its error on the {errors_of} images is {error:.1f}%, that of guessing {chance:.1f}%"
    )
    if error >= UNTRAINED * chance:
        return f"The network is untrained: {measured}."
    rows = _run_rows(path)
    found = convergence("the run", [rows], classes) if rows else None
    # After many epochs a high training error can be due to heavy augmentation: not judged here.
    if found is not None and not found.converged and found.epochs < LEVEL_EPOCHS:
        trained = found.text.removesuffix(f" ({found.model})")
        return f"The network has not converged: {trained}; {measured}."
    if error > LEARNED * chance:
        return f"The network is barely trained: {measured}."
    return ""


def cautions(found: Mapping[str, str]) -> str:
    """The cautions of several networks, by label, as one text; empty if there are none."""
    return " ".join(
        f"{label}: {text[0].lower()}{text[1:]}" for label, text in found.items() if text
    )


def count_epochs(epochs: float) -> str:
    """Such as "1 epoch", "2.6 epochs" or "164 epochs"."""
    text = f"{epochs:.1f}".removesuffix(".0") if epochs < 10 else f"{epochs:,.0f}"
    return f"{text} epoch{'' if text == '1' else 's'}"


def _fall(rows: Rows, metric: Metric) -> float | None:
    """By how much the mean fell from the fifth before the last one to the last."""
    end = rows[-1]["step"]
    late = [metric.of(row) for row in rows if row["step"] > (1 - TAIL) * end]
    before = [
        metric.of(row) for row in rows if (1 - 2 * TAIL) * end < row["step"] <= (1 - TAIL) * end
    ]
    return statistics.fmean(before) - statistics.fmean(late) if before and late else None


def _run_rows(path: Path) -> Rows:
    """The rows of a run, or of the run of a checkpoint; empty if there are none."""
    return read_rows(path.parent.parent if path.parent.name == "checkpoints" else path)
