"""The report of a depth study: the paper's argument in the numbers of one grid."""

from __future__ import annotations

import dataclasses
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path

from resnets.config import Recipe, from_toml, to_toml
from resnets.study import paper
from resnets.study.convergence import RULE
from resnets.study.depth import text
from resnets.study.depth.architectures import nets_section
from resnets.study.depth.presets import PRESETS
from resnets.study.depth.summary import WORD, NetSummary, Which, summarize, where
from resnets.study.depth.verdict import MARGIN, Verdict, degradation
from resnets.study.figures import KINDS, depth_errors, error_curves
from resnets.study.grid.cells import CELLS, RECIPE, Cell, Grid, folder_name, read_cells, read_grid
from resnets.study.page import Figure, Numbers, Page, Row, Section, Table
from resnets.study.protocol import differences, merge_environments

STATUS = {
    "done": "done",
    "running": "…\N{NO-BREAK SPACE}unfinished",
    "failed": "✕\N{NO-BREAK SPACE}failed",
    "missing": "○\N{NO-BREAK SPACE}not\N{NO-BREAK SPACE}started",
}


def depth_page(folder: Path) -> Page:
    """The report of the grid in `folder`, finished or not; gaps are marked with their reason.

    A grid of shortcut options (Table 3) is reported in the same way, with its own words. Raises
    ConfigError where `folder` holds no grid.
    """
    grid, cells = read_grid(folder), read_cells(folder)
    nets = summarize(cells)
    recipes = _recipes(nets)
    recipe = next(iter(recipes.values()), None)
    verdict = degradation(cells)
    gaps = [cell for cell in cells if cell.status != "done"]
    depths = grid.study == "depth"
    question = text.QUESTION if depths else text.SHORTCUTS
    sections = [
        Section("The question", question),
        _curves_section(nets),
        _errors_section(nets, verdict, recipe),
        nets_section(nets),
        *([_gaps_section(gaps)] if gaps else []),
    ]
    return Page(
        title=text.title(grid, cells),
        lead=text.lead(verdict) if depths else text.shortcuts_lead(nets),
        findings=text.findings(verdict),
        warning=text.warning(cells),
        sections=tuple(sections),
        protocol=text.protocol(recipe, nets, differences(recipes)),
        recipe=f"# as of {next(iter(recipes))}\n{to_toml(recipe)}" if recipe else "",
        commands=_commands(folder, grid),
        environment=merge_environments([cell.folder for cell in cells]),
    )


def _recipes(nets: Sequence[NetSummary]) -> dict[str, Recipe]:
    """The recipe of each net begun, by its name; of each run of a net whose runs disagree.

    A recipe of the kind that most of them share comes first.
    """
    found: dict[str, Recipe] = {}
    for net in nets:
        begun = {
            cell.folder.name: from_toml(cell.folder / RECIPE, stored=True)
            for cell in net.cells
            if (cell.folder / RECIPE).is_file()
        }
        agree = len({dataclasses.replace(recipe, seed=0) for recipe in begun.values()}) == 1
        found |= {net.net: next(iter(begun.values()))} if agree else begun
    alike = {
        name: sum(not differences({"one": recipe, "other": other}) for other in found.values())
        for name, recipe in found.items()
    }
    return dict(sorted(found.items(), key=lambda item: -alike[item[0]]))


def _curves_section(nets: Sequence[NetSummary]) -> Section:
    """Errors while training (the paper's Fig. 4 and 6)."""
    title = "Errors while training"
    curves = [net.curves() for net in nets]
    if not any(net.train or net.unfinished for net in curves):
        return Section(title, "No run has logged anything yet.")
    word = WORD[nets[0].held_out]
    columns = ("net", "seed", "kind", "step", "epoch", "top1_error", "run folder")
    rows = tuple(
        (net.net, cell.seed, row["kind"], row["step"], row["epoch"], row["top1_error"], where(cell))
        for net in nets
        for cell in net.cells
        for row in cell.rows
        if row["kind"] in ("train", net.held_out)
    )
    figure = Figure(
        name="error-curves",
        figure=error_curves(curves, word),
        narrow=error_curves(curves, word, narrow=True),
        caption=text.what_curves_show(nets),
        alt=f"Line plots of training and {word} error against iterations, one panel for plain and "
        f"one for residual nets. {text.ends_of_lines(nets)}",
        numbers=Numbers(columns, rows),
    )
    return Section(title, "", figures=(figure,))


def _errors_section(nets: Sequence[NetSummary], verdict: Verdict, recipe: Recipe | None) -> Section:
    """Final errors: against depth where depths differ, and as tables, the paper's beside ours."""
    tables = (_summary_table(nets, recipe), *_verdict_table(verdict), _cells_table(nets))
    curves = [net.curves() for net in nets]
    depths = {kind: {net.depth for net in curves if net.kind == kind} for kind in KINDS}
    one_each = all(len(depths[kind]) == sum(net.kind == kind for net in curves) for kind in KINDS)
    finished = any(net.train for net in curves)
    if not (finished and one_each and max(map(len, depths.values())) > 1):
        return Section("Final errors", "", tables=tables)
    word = WORD[nets[0].held_out]
    figure = Figure(
        name="error-against-depth",
        figure=depth_errors(curves, word),
        narrow=depth_errors(curves, word, narrow=True),
        caption=text.what_depth_shows(nets),
        alt=f"Final training and {word} error against the number of layers, plain and residual. "
        + text.ends_of_lines(nets),
        numbers=_errors_by_cell(nets),
    )
    return Section("Final errors", "", figures=(figure,), tables=tables)


def _summary_table(nets: Sequence[NetSummary], recipe: Recipe | None) -> Table:
    """Mean and spread over seeds, last and best, training and held out, beside the paper's."""
    held_out = nets[0].held_out
    reported = [_reported(net, recipe) for net in nets]
    last_and_best: tuple[Which, ...] = ("last", "best")
    series = [(kind, which) for kind in ("train", held_out) for which in last_and_best]
    columns = ["Net", "Layers", "Seeds"]
    columns += [f"{WORD[kind].capitalize()} error, {which}" for kind, which in series]
    raw = ["net", "layers", "seeds finished", "seeds"]
    raw += [
        f"{WORD[kind]} {which} {part}"
        for kind, which in series
        for part in ("mean", "standard deviation", "run folder@step")
    ]
    rows, numbers = [], []
    for net, found in zip(nets, reported, strict=True):
        errors = [net.errors(kind, which) for kind, which in series]
        seeds = f"{len(net.done)} of {len(net.cells)}" if len(net.done) < len(net.cells) else None
        row: Row = (net.net, net.depth, seeds or len(net.done), *(each.text for each in errors))
        parts = [part for each in errors for part in (each.mean, each.spread, each.trace)]
        number: Row = (net.net, net.depth, len(net.done), len(net.cells), *parts)
        if any(reported):
            row += (found.text if found else None,)
            number += (found.text if found else None, found.source if found else None)
        rows.append(row)
        numbers.append(number)
    if any(reported):
        columns.append("Paper")
        raw += ["paper", "paper source"]
    return Table(
        name="errors",
        columns=tuple(columns),
        rows=tuple(rows),
        caption=text.table_caption(recipe),
        numbers=Numbers(tuple(raw), tuple(numbers)),
    )


def _verdict_table(verdict: Verdict) -> list[Table]:
    """The differences that the verdict rests on; no table where there are none."""
    rows: list[Row] = []
    for found in filter(None, (verdict.plain, verdict.residual, verdict.twins)):
        first, second = map(statistics.fmean, (found.first_errors, found.second_errors))
        low, high = found.interval or (None, None)
        runs = f"{len(found.first_errors)}, {len(found.second_errors)}"
        rows.append((f"{found.first.net} → {found.second.net}", first, second, found.points))
        rows[-1] += (low, high, runs)
    columns = ("Comparison", "First", "Second", "Difference", "Low", "High", "Runs")
    caption = (
        "What the verdict rests on: last training errors in percent, means over the finished runs, "
        "their difference in points, and the 90% interval that the spread between seeds leaves "
        f"it (Welch). A rise of less than {MARGIN:g} point is not called degradation. {RULE}"
    )
    return [Table("verdict", columns, tuple(rows), caption)] if rows else []


def _reported(net: NetSummary, recipe: Recipe | None) -> paper.PaperError | None:
    return paper.reported(net.cells[0].spec, recipe.data.source) if recipe else None


def _cells_table(nets: Sequence[NetSummary]) -> Table:
    """Each run by itself, with the steps its numbers come from."""
    numbers = _errors_by_cell(nets)
    return Table(
        name="runs",
        columns=tuple(name.capitalize() for name in numbers.columns),
        rows=numbers.rows,
        numbers=numbers,
        caption="Every run: its errors in percent, each with the step of its row in metrics.jsonl "
        "in the run folder.",
        folded=True,
    )


def _errors_by_cell(nets: Sequence[NetSummary]) -> Numbers:
    held_out = nets[0].held_out
    columns = ["net", "seed", "status"]
    for kind in ("train", held_out):
        for which in ("last", "best"):
            columns += [f"{WORD[kind]} {which}", f"{WORD[kind]} {which} step"]
    rows: list[Row] = []
    for net in nets:
        for cell in net.cells:
            found = [
                row for kind in ("train", held_out) for row in (cell.last(kind), cell.best(kind))
            ]
            pairs = [
                value
                for row in found
                for value in ((row["top1_error"], row["step"]) if row else (None, None))
            ]
            rows.append((cell.net, cell.seed, STATUS[cell.status], *pairs, where(cell)))
    return Numbers((*columns, "run folder"), tuple(rows))


def _gaps_section(gaps: Sequence[Cell]) -> Section:
    """The cells that did not reach their end, with the reason."""
    reasons = {
        "running": "Still running, or stopped before its end; the same command goes on with it.",
        "missing": "Not started yet; the same command trains it.",
    }
    rows = tuple(
        (
            cell.net,
            cell.seed,
            STATUS[cell.status],
            max((row["step"] for row in cell.rows), default=None),
            cell.error or reasons.get(cell.status, "No reason was recorded."),
            where(cell),
        )
        for cell in gaps
    )
    return Section(
        "Gaps",
        "These runs are part of the study and have no final numbers. They are left out of all "
        "means, and their curves end in a cross.",
        tables=(
            Table(
                name="gaps",
                columns=("Net", "Seed", "Status", "Last step", "Reason", "Run folder"),
                rows=rows,
                caption="Runs without a final number.",
            ),
        ),
    )


def _commands(folder: Path, grid: Grid) -> tuple[str, ...]:
    """The whole study again, and one run by itself."""
    run = f"{folder.name}/{CELLS}/{folder_name(grid.nets[0], 0)}/{RECIPE}"
    one = shlex.join(["resnets", "train", run])
    preset = next((name for name, make in PRESETS.items() if make() == grid.asked), None)
    if preset is not None:
        return (f"resnets study {grid.study} --preset {preset}", one)
    budget = f"{grid.iterations}it" if grid.iterations else grid.budget
    counts = [str(count) for count in grid.seeds]
    seeds = counts[0] if len(set(counts)) == 1 else ",".join(counts)
    words = ["resnets", "study", grid.study, "--data", grid.data, "--nets", ",".join(grid.nets)]
    words += ["--seeds", seeds, "--budget", budget, "--recipe", grid.recipe]
    words += [word for setting in grid.settings for word in ("--set", setting)]
    return (shlex.join(words), one)
