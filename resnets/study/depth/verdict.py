"""Whether deeper networks train worse in a grid, with the uncertainty of the answer.

The criterion is the *training* error, since degradation is not overfitting (paper, section 1). A
rise is claimed, or ruled out, only where the spread between seeds explains it in less than one of
twenty cases, and where the better of the two networks has converged
(`resnets.study.convergence_rule`); otherwise the verdict is open.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit

from resnets.study.convergence_rule import Convergence, measure_convergence
from resnets.study.grid.cells import Cell
from resnets.study.metric import BITS, ERROR, Metric

# Chance of a wrong claim, for each of the two claims; the interval between them covers 90%.
LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """Final training error (or `metric`) of `second` minus that of `first`.

    first_errors, second_errors: of each finished run. convergences: of the two models.
    """

    first: Cell
    second: Cell
    first_errors: tuple[float, ...]
    second_errors: tuple[float, ...]
    convergences: tuple[Convergence, Convergence]

    @property
    def metric(self) -> Metric:
        """What is compared."""
        return self.first.metric

    @property
    def better(self) -> Convergence:
        """The model that trains better; the comparison is valid if it has converged."""
        return min(self.convergences, key=lambda each: each.error)

    @property
    def worse(self) -> Convergence:
        """The model that trains worse."""
        return max(self.convergences, key=lambda each: each.error)

    @property
    def points(self) -> float:
        """The difference of the means."""
        return statistics.fmean(self.second_errors) - statistics.fmean(self.first_errors)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Welch's 90% interval over seeds; None with fewer than two finished runs of either."""
        return _welch_interval(self.first_errors, self.second_errors)

    @property
    def rises(self) -> bool | None:
        """True if `second` trains worse; False if it does not, or by less than the metric's margin.

        None if undecided, because of the spread between seeds or because the runs were too short. A
        rise below the margin does not count, however significant: 0.1 points between two models
        that both fit their data are not degradation in the paper's sense.
        """
        if self.interval is None or not self.better.converged:
            return None
        low, high = self.interval
        return False if high < self.metric.margin else (True if low > 0 else None)

    @property
    def falls(self) -> bool | None:
        """True: `second` trains better; `rises` with the two exchanged."""
        mirrored = Difference(
            self.second, self.first, self.second_errors, self.first_errors, self.convergences[::-1]
        )
        return mirrored.rises

    @property
    def text(self) -> str:
        """Such as "from 1.80% (cifar-plain20) to 69.50% (cifar-plain56): +67.70 points, ..."."""
        first, second = map(statistics.fmean, (self.first_errors, self.second_errors))
        text, unit = self.metric.text, self.metric.difference
        return (
            f"from {text(first)} ({self.first.model}) to {text(second)} ({self.second.model}), "
            f"{self.points:+.2f} {unit}, {self._certainty}"
        )

    @property
    def _certainty(self) -> str:
        first, second = len(self.first_errors), len(self.second_errors)
        runs = (
            f"{first} and {second} runs"
            if first != second
            else f"{first} run{'' if first == 1 else 's'} of each"
        )
        if self.interval is None:
            return f"{runs}; two or more of each are needed for an interval"
        low, high = self.interval
        return f"90% interval {low:+.2f} to {high:+.2f}, {runs}"


@dataclass(frozen=True)
class Verdict:
    """What a grid shows about the paper's claim.

    plain, residual: shallowest to deepest network of that kind; None where the grid does not have
    two depths of it. counterparts: plain to residual at the greatest depth that both have. others:
    by name, shallowest to deepest of each further family, such as pre-activation networks.
    statement: all of it in a few sentences.
    """

    statement: str
    plain: Difference | None
    residual: Difference | None
    counterparts: Difference | None
    others: Mapping[str, Difference]


def judge_degradation(cells: Sequence[Cell]) -> Verdict:
    """Compare the finished cells of a grid by the last "train" row of each."""
    runs = {kind: _select_runs(cells, kind) for kind in ("plain", "residual")}
    plain, residual = (_compare_depths(runs[kind]) for kind in ("plain", "residual"))
    counterparts = _compare_counterparts(runs["plain"], runs["residual"])
    others = _compare_others(cells, {each.first.family for each in (plain, residual) if each})
    sentences = [
        _write_headline(plain, residual),
        _describe_difference("plain", plain),
        _describe_difference("residual", residual),
    ]
    if counterparts is not None:
        size = f"{counterparts.first.depth} {counterparts.metric.depth.split()[-1]}"
        sentences.append(f"At {size}, plain to residual: {counterparts.text}.")
    sentences += [_describe_difference(name, each) for name, each in others.items()]
    more = (*others.values(), counterparts)
    sentences += [
        *_describe_short_runs(plain, residual, *more),
        *_describe_falling(plain, residual, *more),
    ]
    sentences.append(_describe_unfinished(cells))
    return Verdict(" ".join(filter(None, sentences)), plain, residual, counterparts, others)


Runs = dict[int, list[tuple[Cell, float]]]


def _select_runs(cells: Sequence[Cell], kind: Literal["plain", "residual"]) -> Runs:
    """Return depth -> finished cells with their final training error, of one family of models.

    Of several families of a kind (forms, shortcut options), it is the one with most depths.
    """
    families = _group_families([cell for cell in cells if cell.kind == kind])
    return max(families.values(), key=len, default={})


def _group_families(cells: Sequence[Cell]) -> dict[tuple[str, str], Runs]:
    """Group the runs by family of models and shortcut option, the paper's own first."""
    families: dict[tuple[str, str], Runs] = {}
    for cell in sorted(cells, key=lambda cell: cell.family not in ("plain", "residual")):
        row = cell.last("train")
        if cell.status == "done" and row is not None:
            runs = families.setdefault((cell.family, cell.shortcut), {})
            runs.setdefault(cell.depth, []).append((cell, cell.metric.of(row)))
    return families


def _compare_others(cells: Sequence[Cell], known: set[str]) -> dict[str, Difference]:
    """Compare the shallowest and the deepest network of each family that is not in `known`."""
    differences = {
        name: _compare_depths(runs) for (name, _), runs in _group_families(cells).items()
    }
    return {name: each for name, each in differences.items() if each and name not in known}


def _compare_depths(runs: Runs) -> Difference | None:
    return _make_difference(runs[min(runs)], runs[max(runs)]) if len(runs) > 1 else None


def _compare_counterparts(plain: Runs, residual: Runs) -> Difference | None:
    shared = plain.keys() & residual.keys()
    return _make_difference(plain[max(shared)], residual[max(shared)]) if shared else None


def _make_difference(
    first: list[tuple[Cell, float]], second: list[tuple[Cell, float]]
) -> Difference:
    (cells, errors), (more_cells, more_errors) = zip(*first, strict=True), zip(*second, strict=True)
    convergence, more_convergence = measure_convergence(cells), measure_convergence(more_cells)
    assert convergence is not None  # every cell here has a "train" row
    assert more_convergence is not None
    convergences = (convergence, more_convergence)
    return Difference(cells[0], more_cells[0], errors, more_errors, convergences)


def _welch_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """Return the interval of mean(second) - mean(first) for unequal variances (Welch 1947)."""
    if min(len(first), len(second)) < 2:
        return None
    difference = statistics.fmean(second) - statistics.fmean(first)
    shares = [statistics.variance(errors) / len(errors) for errors in (first, second)]
    variance = sum(shares)
    if variance == 0:
        return difference, difference
    freedom = variance**2 / sum(
        share**2 / (len(errors) - 1) for share, errors in zip(shares, (first, second), strict=True)
    )
    reach = float(stdtrit(freedom, 1 - LEVEL)) * math.sqrt(variance)
    return difference - reach, difference + reach


def _write_headline(plain: Difference | None, residual: Difference | None) -> str:
    if plain is None:
        return "No answer on degradation: it requires finished plain networks of two depths."
    if not plain.better.converged:
        return f"Not converged: {plain.better.text}; no conclusion about degradation."
    if plain.rises is None:
        return (
            "Not enough seeds to say whether plain networks degrade here."
            if plain.interval is None
            else "Too uncertain to say whether plain networks degrade here: the seeds differ."
        )
    if not plain.rises:
        return "No degradation seen here: deeper plain networks train no worse than shallow ones."
    headline = "Degradation"
    if plain.worse.still_falling or plain.metric is BITS:  # their final errors are unknown
        headline += f" within {plain.worse.steps:,} iterations"
    if residual is None or residual.rises is None:
        return f"{headline}: deeper plain networks train worse."
    if residual.rises:
        return f"{headline}: deeper networks train worse, plain and residual alike."
    return f"{headline}: deeper plain networks train worse, deeper residual networks do not."


def _describe_difference(kind: str, difference: Difference | None) -> str:
    if difference is None:
        return ""
    return f"Training {difference.metric.name} of the {kind} networks: {difference.text}."


def _describe_short_runs(plain: Difference | None, *others: Difference | None) -> list[str]:
    """Describe the invalid comparisons that the headline does not name."""
    named = {plain.better.model} if plain is not None else set()
    better = {each.better.model: each.better for each in others if each is not None}
    short = [each for model, each in better.items() if not each.converged and model not in named]
    if not short:
        return []
    texts = "; ".join(each.text for each in short)
    also = "also " if plain is not None and not plain.better.converged else ""
    return [f"Comparisons with these are {also}not conclusive, since they were too short: {texts}."]


def _describe_falling(*differences: Difference | None) -> list[str]:
    """Describe the models that train worse and were still improving when their runs ended."""
    falling = {
        each.worse.model: each.worse
        for each in differences
        if each is not None and each.better.converged and each.worse.still_falling
    }
    return [
        f"The training {each.metric.name} of {model} was still falling when its runs ended (by "
        f"{each.fall:.{1 if each.metric is ERROR else 2}f} {each.metric.difference} over "
        "the last fifth), so the final difference is open."
        for model, each in falling.items()
    ]


def _describe_unfinished(cells: Sequence[Cell]) -> str:
    models = sorted({cell.model for cell in cells if cell.status != "done"})
    return f"Unfinished runs are excluded ({', '.join(models)})." if models else ""
