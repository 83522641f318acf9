"""Whether deeper nets train worse here, computed from a grid's cells, with its uncertainty.

The figure judged is the *training* error, since degradation is not overfitting (paper, section 1).
A rise is claimed, or ruled out, only where chance between seeds explains it in less than one case
of twenty; otherwise the verdict says that it cannot say.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit

from resnets.study.cells import Cell

Kind = Literal["plain", "residual"]
# Chance of a wrong claim, for each of the two claims; the interval between them covers 90%.
LEVEL = 0.05
# A rise of less than this many points is too small to be called degradation.
MARGIN = 1.0


@dataclass(frozen=True)
class Difference:
    """Final training error of net `second` less that of `first`, in percentage points.

    errors: of each finished run. low, high: Welch's 90% interval over seeds; None with fewer than
    two finished runs of either net, since one run has no spread.
    """

    first: Cell
    second: Cell
    first_errors: tuple[float, ...]
    second_errors: tuple[float, ...]

    @property
    def points(self) -> float:
        """The difference of the means."""
        return statistics.fmean(self.second_errors) - statistics.fmean(self.first_errors)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lower and upper bound of the difference."""
        return _welch(self.first_errors, self.second_errors)

    @property
    def rises(self) -> bool | None:
        """False: `second` trains worse by less than MARGIN, if at all. True: it trains worse.

        None: the seeds cannot say. A rise below MARGIN is none, however sure: 0.1 points between
        two nets that both fit their data is not what the paper means.
        """
        if self.interval is None:
            return None
        low, high = self.interval
        return False if high < MARGIN else (True if low > 0 else None)

    @property
    def falls(self) -> bool | None:
        """True: `second` trains better; the mirror image of `rises`."""
        mirrored = Difference(self.second, self.first, self.second_errors, self.first_errors)
        return mirrored.rises

    @property
    def text(self) -> str:
        """Such as "from 1.80% (cifar-plain20) to 69.50% (cifar-plain56): +67.70 points, ..."."""
        first, second = map(statistics.fmean, (self.first_errors, self.second_errors))
        return (
            f"from {first:.2f}% ({self.first.net}) to {second:.2f}% ({self.second.net}), "
            f"{self.points:+.2f} points, {self._certainty}"
        )

    @property
    def _certainty(self) -> str:
        first, second = len(self.first_errors), len(self.second_errors)
        runs = f"{first} and {second} runs" if first != second else f"runs of each: {first}"
        if self.interval is None:
            return f"{runs}; two or more of each are needed to tell it from chance"
        low, high = self.interval
        return f"90% interval {low:+.2f} to {high:+.2f}, {runs}"


@dataclass(frozen=True)
class Verdict:
    """What a grid says of the paper's claim.

    plain, residual: shallowest to deepest net of that kind, None where the grid has not two depths
    of it. twins: the plain net and the residual net of the greatest depth both have. statement:
    all of it in a few sentences, for people.
    """

    statement: str
    plain: Difference | None
    residual: Difference | None
    twins: Difference | None


def degradation(cells: Sequence[Cell]) -> Verdict:
    """Judge the finished cells of a grid by the last "train" row of each."""
    runs = {kind: _runs(cells, kind) for kind in ("plain", "residual")}
    plain, residual = (_depths_apart(runs[kind]) for kind in ("plain", "residual"))
    twins = _twins(runs["plain"], runs["residual"])
    sentences = [
        _headline(plain, residual),
        _sentence("plain", plain),
        _sentence("residual", residual),
    ]
    if twins is not None:
        sentences.append(f"At {twins.first.depth} layers, plain to residual: {twins.text}.")
    sentences.append(_left_out(cells))
    return Verdict(" ".join(filter(None, sentences)), plain, residual, twins)


Runs = dict[int, list[tuple[Cell, float]]]


def _runs(cells: Sequence[Cell], kind: Kind) -> Runs:
    """Depth -> finished cells with their final training error, of one family of nets.

    Where a grid holds several of a kind (shortcut options, blocks), the one with most depths.
    """
    families: dict[tuple[str, str], Runs] = {}
    for cell in cells:
        row = cell.last("train")
        if cell.kind == kind and cell.status == "done" and row is not None:
            family = families.setdefault((cell.spec.block, cell.shortcut), {})
            family.setdefault(cell.depth, []).append((cell, row["top1_error"]))
    return max(families.values(), key=len, default={})


def _depths_apart(runs: Runs) -> Difference | None:
    return _difference(runs[min(runs)], runs[max(runs)]) if len(runs) > 1 else None


def _twins(plain: Runs, residual: Runs) -> Difference | None:
    shared = plain.keys() & residual.keys()
    return _difference(plain[max(shared)], residual[max(shared)]) if shared else None


def _difference(first: list[tuple[Cell, float]], second: list[tuple[Cell, float]]) -> Difference:
    (cells, errors), (more_cells, more_errors) = zip(*first, strict=True), zip(*second, strict=True)
    return Difference(cells[0], more_cells[0], errors, more_errors)


def _welch(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """Interval of mean(second) - mean(first) for unequal variances (Welch 1947)."""
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


def _headline(plain: Difference | None, residual: Difference | None) -> str:
    if plain is None:
        return "Nothing to say of degradation: it takes finished plain nets of two depths."
    if plain.rises is None:
        return (
            "Not enough seeds to say whether plain nets degrade here."
            if plain.interval is None
            else "Too uncertain to say whether plain nets degrade here: the seeds differ too much."
        )
    if not plain.rises:
        return "No degradation seen here: deeper plain nets train no worse than shallow ones."
    if residual is None or residual.rises is None:
        return "Degradation: deeper plain nets train worse."
    if residual.rises:
        return "Degradation: deeper nets train worse, plain and residual alike."
    return "Degradation: deeper plain nets train worse, deeper residual nets do not."


def _sentence(kind: Kind, found: Difference | None) -> str:
    return f"Training error of the {kind} nets: {found.text}." if found else ""


def _left_out(cells: Sequence[Cell]) -> str:
    nets = sorted({cell.net for cell in cells if cell.status != "done"})
    return f"Runs without an end are left out ({', '.join(nets)})." if nets else ""
