"""Tables of a grid's page: errors by model and by run, the verdict, and runs without a result."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from resnets.report.page import Numbers, Table
from resnets.report.render import Row
from resnets.study import paper
from resnets.study.depth.summary import SPLIT_NAMES, ModelSummary, Which, run_folder
from resnets.study.depth.verdict import Verdict
from resnets.study.grid.cells import Cell

STATUS = {
    "done": "done",
    "running": "…\N{NO-BREAK SPACE}unfinished",
    "failed": "✕\N{NO-BREAK SPACE}failed",
    "missing": "○\N{NO-BREAK SPACE}not\N{NO-BREAK SPACE}started",
}


def errors_table(
    models: Sequence[ModelSummary], reported: Sequence[paper.PaperError | None]
) -> Table:
    """Tabulate errors over seeds, last and best, training and held out, and the paper's."""
    held_out = models[0].held_out
    last_and_best: tuple[Which, ...] = ("last", "best")
    series = [(kind, which) for kind in ("train", held_out) for which in last_and_best]
    depth = models[0].cells[0].metric.depth.split()[-1]
    columns = ["model", depth, "seeds"]
    name = models[0].cells[0].metric.name
    columns += [f"{SPLIT_NAMES[kind]} {name}, {which}" for kind, which in series]
    raw = ["model", "layers", "seeds finished", "seeds"]
    raw += [
        f"{SPLIT_NAMES[kind]} {which} {part}"
        for kind, which in series
        for part in ("mean", "standard deviation", "run folder@step")
    ]
    rows, numbers = [], []
    for model, paper_error in zip(models, reported, strict=True):
        errors = [model.errors(kind, which) for kind, which in series]
        done, total = len(model.done), len(model.cells)
        seeds = f"{done} of {total}" if done < total else done
        row: Row = (model.name, model.depth, seeds, *(each.text for each in errors))
        parts = [part for each in errors for part in (each.mean, each.spread, each.trace)]
        number: Row = (model.name, model.depth, done, total, *parts)
        if any(reported):
            row += (paper_error.text if paper_error else None,)
            number += (paper_error.text, paper_error.source) if paper_error else (None, None)
        rows.append(row)
        numbers.append(number)
    if any(reported):
        columns.append("paper")
        raw += ["paper", "paper source"]
    return Table("errors", tuple(columns), tuple(rows), Numbers(tuple(raw), tuple(numbers)))


def verdict_table(verdict: Verdict) -> list[Table]:
    """Tabulate the differences on which the verdict rests; no table if there are none."""
    rows: list[Row] = []
    differences = (verdict.plain, verdict.residual, *verdict.others.values(), verdict.counterparts)
    for each in filter(None, differences):
        first, second = map(statistics.fmean, (each.first_errors, each.second_errors))
        low, high = each.interval or (None, None)
        runs = f"{len(each.first_errors)}, {len(each.second_errors)}"
        title = f"{each.first.model} → {each.second.model}"
        rows.append((title, first, second, each.points, low, high, runs))
    columns = ("comparison", "first", "second", "difference", "low", "high", "runs")
    return [Table("verdict", columns, tuple(rows))] if rows else []


def runs_table(models: Sequence[ModelSummary]) -> Table:
    """Tabulate each run, with the steps its numbers come from.

    The page omits the run folder, which model and seed name, and the status if all runs are done.
    """
    numbers = errors_by_run(models)
    omitted = {"run folder"}
    if all(cell.status == "done" for model in models for cell in model.cells):
        omitted.add("status")
    shown = [index for index, column in enumerate(numbers.columns) if column not in omitted]
    rows = tuple(tuple(row[index] for index in shown) for row in numbers.rows)
    return Table("runs", tuple(numbers.columns[index] for index in shown), rows, numbers)


def errors_by_run(models: Sequence[ModelSummary]) -> Numbers:
    """Return the last and the best errors of each run, with their steps and its folder."""
    held_out = models[0].held_out
    columns = ["model", "seed", "status"]
    for kind in ("train", held_out):
        for which in ("last", "best"):
            columns += [f"{SPLIT_NAMES[kind]} {which}", f"{SPLIT_NAMES[kind]} {which} step"]
    rows: list[Row] = []
    for cell in (cell for model in models for cell in model.cells):
        logged = [row for kind in ("train", held_out) for row in (cell.last(kind), cell.best(kind))]
        pairs = [
            value
            for row in logged
            for value in ((cell.metric.of(row), row["step"]) if row else (None, None))
        ]
        rows.append((cell.model, cell.seed, STATUS[cell.status], *pairs, run_folder(cell)))
    return Numbers((*columns, "run folder"), tuple(rows))


def gaps_table(gaps: Sequence[Cell]) -> Table:
    """Tabulate the unfinished cells, with the reason."""
    reasons = {
        "running": "Still running, or stopped before its end; the same command resumes it.",
        "missing": "Not started yet; the same command trains it.",
    }
    rows = tuple(
        (
            cell.model,
            cell.seed,
            STATUS[cell.status],
            max((row["step"] for row in cell.rows), default=None),
            cell.error or reasons.get(cell.status, "No reason was recorded."),
            run_folder(cell),
        )
        for cell in gaps
    )
    return Table("gaps", ("model", "seed", "status", "last step", "reason", "run folder"), rows)
