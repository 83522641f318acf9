"""A grid's cells grouped by model: errors over seeds, and the curves to plot."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from resnets.study.depth.figures import ErrorCurves
from resnets.study.grid.cells import Cell

HeldOut = Literal["test", "val"]
Which = Literal["last", "best"]
SPLIT_NAMES = {"test": "test", "val": "validation", "train": "training"}


@dataclass(frozen=True)
class Errors:
    """Errors, or what else the metric is, of rows of metrics.jsonl: cells with a row each."""

    rows: tuple[tuple[Cell, dict[str, Any]], ...]

    @property
    def values(self) -> list[float]:
        """The errors, in the order of the seeds."""
        return [cell.metric.of(row) for cell, row in self.rows]

    @property
    def mean(self) -> float | None:
        """Mean over seeds; None without any."""
        return statistics.fmean(self.values) if self.rows else None

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        return statistics.stdev(self.values) if len(self.rows) > 1 else None

    @property
    def text(self) -> str | None:
        """The mean with its spread, such as "8.75 ± 0.12"; None without rows."""
        if self.mean is None:
            return None
        return f"{self.mean:.2f}" + ("" if self.spread is None else f" ± {self.spread:.2f}")

    @property
    def trace(self) -> str:
        """The source of each value: "<run folder>@<step>" for each row."""
        return " ".join(f"{run_folder(cell)}@{row['step']}" for cell, row in self.rows)


@dataclass(frozen=True)
class ModelSummary:
    """One model of a grid over its seeds. Only finished cells (`done`) count in `errors`."""

    name: str
    cells: tuple[Cell, ...]
    held_out: HeldOut

    @property
    def kind(self) -> str:
        """ "plain" or "residual"."""
        return self.cells[0].kind

    @property
    def family(self) -> str:
        """The form of the model in words."""
        return self.cells[0].family

    @property
    def depth(self) -> int:
        """Weighted layers."""
        return self.cells[0].depth

    @property
    def done(self) -> tuple[Cell, ...]:
        """Cells that ran to their end."""
        return tuple(cell for cell in self.cells if cell.status == "done")

    def errors(self, kind: str, which: Which) -> Errors:
        """Errors of the finished cells in their last or their best row of `kind`."""
        picked = [(cell, getattr(cell, which)(kind)) for cell in self.done]
        return Errors(tuple((cell, row) for cell, row in picked if row is not None))

    def curves(self) -> ErrorCurves:
        """The curves to plot of this model."""
        return ErrorCurves(
            name=self.name,
            metric=self.cells[0].metric,
            kind=self.family,
            depth=self.depth,
            shortcut=self.cells[0].shortcut,
            train=self._by_step("train"),
            held_out=self._by_step(self.held_out),
            unfinished=[
                [(row["step"], cell.metric.of(row)) for row in cell.rows if row["kind"] == "train"]
                for cell in self.cells
                if cell.status != "done" and cell.last("train") is not None
            ],
        )

    def _by_step(self, kind: str) -> dict[int, list[float]]:
        """Step -> errors over finished seeds, for the steps that all of them logged."""
        series = [
            {row["step"]: cell.metric.of(row) for row in cell.rows if row["kind"] == kind}
            for cell in self.done
        ]
        shared = set.intersection(*map(set, series)) if series else set()
        return {step: [errors[step] for errors in series] for step in sorted(shared)}


def summarize(cells: Sequence[Cell]) -> list[ModelSummary]:
    """The models of a grid: plain before residual, family by family, shallow before deep."""
    held_out: HeldOut = "test" if any(cell.last("test") for cell in cells) else "val"
    ordered = sorted(
        cells,
        key=lambda cell: (
            *(cell.kind, cell.family != "residual", cell.family),
            *(cell.depth, cell.model, cell.seed),
        ),
    )
    grouped: dict[str, list[Cell]] = {}
    for cell in ordered:
        grouped.setdefault(cell.model, []).append(cell)
    return [ModelSummary(name, tuple(group), held_out) for name, group in grouped.items()]


def run_folder(cell: Cell) -> str:
    """The cell's run folder, relative to the study's."""
    return f"cells/{cell.folder.name}"
