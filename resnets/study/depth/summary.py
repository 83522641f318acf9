"""A grid's runs summarized: errors of each model over seeds, curves, recipes, environments."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from resnets.config import Recipe, differing_fields, to_dict
from resnets.config.aliases import read_json
from resnets.report.page import Table
from resnets.report.render import Row
from resnets.report.run import ENVIRONMENT
from resnets.study.grid.cells import Cell
from resnets.study.metric import ERROR, Metric

HeldOut = Literal["test", "val"]
Which = Literal["last", "best"]
CELL_FIELDS = ("name", "model", "seed", "custom")  # of a recipe, in which the cells differ
CLASS_METRICS = {  # of rows of held-out images
    "top1_error": "error",
    "balanced_error": "balanced error",
    "macro_f1": "macro F1",
}
SPLIT_NAMES = {"test": "test", "val": "validation", "train": "training"}


@dataclass(frozen=True)
class Errors:
    """Errors (or other values of the metric) in rows of metrics.jsonl, one row of each cell."""

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
        return _mean_and_spread(self.values) if self.rows else None

    @property
    def trace(self) -> str:
        """The source of each value: "<run folder>@<step>" for each row."""
        return " ".join(f"{run_folder(cell)}@{row['step']}" for cell, row in self.rows)


@dataclass(frozen=True)
class ErrorCurves:
    """Errors of one model over its seeds, in units of `metric`.

    family: such as "residual". train, held_out: step -> errors of the finished seeds at that
    step. unfinished: (step, training error) points of each seed that did not finish.
    """

    name: str
    family: str
    depth: int
    shortcut: str
    train: Mapping[int, Sequence[float]]
    held_out: Mapping[int, Sequence[float]]
    unfinished: Sequence[Sequence[tuple[int, float]]] = field(default=())
    metric: Metric = ERROR

    @property
    def size(self) -> str:
        """The depth with its unit, such as "20 layers"."""
        unit = self.metric.depth.split()[-1]
        return f"{self.depth} {unit.removesuffix('s') if self.depth == 1 else unit}"


@dataclass(frozen=True)
class ModelSummary:
    """One model of a grid over its seeds; `errors` are those of finished cells."""

    name: str
    cells: tuple[Cell, ...]
    held_out: HeldOut

    @property
    def kind(self) -> str:
        """ "plain" or "residual"."""
        return self.cells[0].kind

    @property
    def family(self) -> str:
        """The family of the model, such as "pre-activation"."""
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
        """Return the errors of the finished cells in their last or best row of `kind`."""
        rows = [(cell, getattr(cell, which)(kind)) for cell in self.done]
        return Errors(tuple((cell, row) for cell, row in rows if row is not None))

    def curves(self) -> ErrorCurves:
        """Return the error curves of this model."""
        return ErrorCurves(
            name=self.name,
            metric=self.cells[0].metric,
            family=self.family,
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
        """Return step -> errors over finished seeds, for the steps that all of them logged."""
        series = [
            {row["step"]: cell.metric.of(row) for row in cell.rows if row["kind"] == kind}
            for cell in self.done
        ]
        shared = set.intersection(*map(set, series)) if series else set()
        return {step: [errors[step] for errors in series] for step in sorted(shared)}


def summarize(cells: Sequence[Cell]) -> list[ModelSummary]:
    """Group the cells of a grid by model: plain before residual, by family and depth."""
    held_out: HeldOut = "test" if any(cell.last("test") for cell in cells) else "val"
    ordered = sorted(
        cells,
        key=lambda cell: (
            cell.kind,
            cell.family != "residual",
            cell.family,
            cell.depth,
            cell.model,
            cell.seed,
        ),
    )
    grouped: dict[str, list[Cell]] = {}
    for cell in ordered:
        grouped.setdefault(cell.model, []).append(cell)
    return [ModelSummary(name, tuple(group), held_out) for name, group in grouped.items()]


def class_metrics_table(models: Sequence[ModelSummary]) -> list[Table]:
    """Tabulate the held-out error, and balanced error and macro F1, which weight classes equally.

    Values are means over the finished seeds, of the last row of each. No table if none has them.
    """
    rows: list[Row] = []
    for model in models:
        last = [row for _, row in model.errors(model.held_out, "last").rows]
        if last and all(row.keys() >= set(CLASS_METRICS) for row in last):
            values = [[float(row[key]) for row in last] for key in CLASS_METRICS]
            rows.append((model.name, len(last), *(_mean_and_spread(each) for each in values)))
    title = SPLIT_NAMES[models[0].held_out]
    columns = ("model", "seeds", *(f"{title} {name}" for name in CLASS_METRICS.values()))
    return [Table("class-metrics", columns, tuple(rows))] if rows else []


def run_folder(cell: Cell) -> str:
    """Return the cell's run folder, relative to the study's."""
    return f"cells/{cell.folder.name}"


def list_differences(recipes: Mapping[str, Recipe]) -> list[str]:
    """List how recipes (by name) differ from the first, other than in model and seed.

    Each line has a field, its value, and the names of the recipes that have it.
    """
    shared = {
        name: {key: value for key, value in to_dict(recipe).items() if key not in CELL_FIELDS}
        for name, recipe in recipes.items()
    }
    names_by_field: dict[str, list[str]] = {}
    for name, fields in shared.items():
        different = differing_fields(next(iter(shared.values())), fields)
        for path, (_, value) in sorted(different.items()):
            line = f"{path} = {'none' if value is None else value}"
            names_by_field.setdefault(line, []).append(name)
    return [f"{path} for {', '.join(names)}" for path, names in names_by_field.items()]


def merge_environments(folders: Sequence[Path]) -> dict[str, Any]:
    """Merge environment.json of several runs into one mapping; values that differ are listed."""
    merged: dict[str, list[str]] = {}
    for folder in folders:
        path = folder / ENVIRONMENT
        if not path.is_file():
            continue
        for key, value in read_json(path, "environment").items():
            texts = merged.setdefault(key.replace("_", " "), [])
            if _format_value(value) not in texts:
                texts.append(_format_value(value))
    return {key: " | ".join(values) for key, values in merged.items()}


def _mean_and_spread(values: Sequence[float]) -> str:
    """Format the mean and, of several values, their standard deviation."""
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
