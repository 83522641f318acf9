"""The page of a grid: the paper's argument in the numbers of one study."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from resnets.config import ModelSpec, Recipe, TransformerSpec, from_toml, to_toml
from resnets.diagrams.draw import model_diagram
from resnets.models import ImageClassifier, build, cost
from resnets.models.transformer.network import Transformer
from resnets.recipes import recipe as recipe_called
from resnets.report.page import Figure, Numbers, Report, Table, write_page
from resnets.report.render import Row
from resnets.study import paper
from resnets.study.analysis import study_command
from resnets.study.convergence_rule import reached_by
from resnets.study.depth.best_of_sweep import Sweep, sweep, sweep_figure, sweep_table
from resnets.study.depth.figures import depth_errors, error_curves, families
from resnets.study.depth.identity_mappings import (
    base_models,
    forms_figures,
    forms_tables,
    read_forms,
)
from resnets.study.depth.presets import PRESETS
from resnets.study.depth.protocol import differences, format_duration, merge_environments
from resnets.study.depth.stream_norms import norms_figure
from resnets.study.depth.summary import SPLIT_NAMES, ModelSummary, Which, run_folder, summarize
from resnets.study.depth.verdict import Verdict, degradation
from resnets.study.grid.budget import Blocks
from resnets.study.grid.cells import CELLS, RECIPE, Cell, Grid, folder_name, read_cells, read_grid
from resnets.study.grid.model_names import custom_block
from resnets.study.metric import BITS

STATUS = {
    "done": "done",
    "running": "…\N{NO-BREAK SPACE}unfinished",
    "failed": "✕\N{NO-BREAK SPACE}failed",
    "missing": "○\N{NO-BREAK SPACE}not\N{NO-BREAK SPACE}started",
}
MAX_DRAWN = 4  # of more models than that, only the shallowest and deepest of each kind are drawn


def write_grid_page(folder: Path, blocks: Blocks = MappingProxyType({})) -> Report:
    """Write the page of the grid in `folder`, finished or not; gaps are shown with their reason.

    A grid of shortcut options (Table 3) has the same page with other text. blocks: those from
    outside the package; models whose block is not given are not drawn or counted. Raises
    ConfigError where `folder` contains no grid.
    """
    grid, cells = read_grid(folder), read_cells(folder)
    all_models = summarize(cells)
    metric = cells[0].metric
    recipes = _recipes(all_models)
    recipe = next(iter(recipes.values()), None)
    swept: Sweep | None = None
    models, verdict = all_models, degradation(cells)
    if grid.sweep:
        own = recipe_called(grid.recipe, grid.swept(grid.models[0])[0].partition(":")[0])
        swept = sweep(grid, cells, own)
        models, verdict = summarize(swept.best) or all_models, swept.verdict
    forms = read_forms(grid, models) if grid.study == "forms" else None
    reported = [_reported(model, recipe) for model in models]
    gaps = [cell for cell in cells if cell.status != "done"]
    return write_page(
        folder,
        f"study/{grid.study}.html.j2",
        figures=[
            *(forms_figures(forms) if forms else _error_figures(models)),
            *([sweep_figure(swept)] if swept else []),
            *_network_figures(models, blocks, draws=forms is None),
        ],
        tables=[
            _summary_table(models, reported),
            *([sweep_table(swept)] if swept else []),
            *(forms_tables(forms, SPLIT_NAMES[models[0].held_out]) if forms else []),
            *_verdict_table(verdict),
            _cells_table(all_models),
            _models_table(models, blocks),
            *([_gaps_table(gaps)] if gaps else []),
        ],
        data=next((cell.result["data"] for cell in cells if cell.result), grid.data),
        models=models,
        cells=cells,
        held_out=SPLIT_NAMES[models[0].held_out],
        verdict=verdict,
        sweep=swept,
        forms=forms,
        metric=metric,
        is_text=metric is BITS,
        ranking=_ranking(models),
        best=min(_reached(models), key=lambda each: each.error, default=None),
        paper_protocol=paper.PROTOCOL[data] if (data := _paper_data(recipe)) else None,
        recipe_spec=recipe,
        recipe=f"# as of {next(iter(recipes))}\n{to_toml(recipe)}" if recipe else "",
        differences=differences(recipes),
        protocols=_protocols(models),
        format_duration=format_duration,
        commands=_commands(folder, grid),
        environment=merge_environments([cell.folder for cell in cells]),
    )


def _recipes(models: Sequence[ModelSummary]) -> dict[str, Recipe]:
    """The recipe of each model started, by its name; of each run if a model's runs differ.

    A recipe of the kind that most of them share comes first.
    """
    found: dict[str, Recipe] = {}
    for model in models:
        started = {
            cell.folder.name: from_toml(cell.folder / RECIPE, stored=True)
            for cell in model.cells
            if (cell.folder / RECIPE).is_file()
        }
        same = [dataclasses.replace(recipe, seed=0) for recipe in started.values()]
        agree = bool(same) and all(recipe == same[0] for recipe in same)
        found |= {model.name: next(iter(started.values()))} if agree else started
    alike = {
        name: sum(not differences({"one": recipe, "other": other}) for other in found.values())
        for name, recipe in found.items()
    }
    return dict(sorted(found.items(), key=lambda item: -alike[item[0]]))


def _paper_data(recipe: Recipe | None) -> paper.Dataset | None:
    return paper.dataset(recipe.data.source) if recipe else None


def _reported(model: ModelSummary, recipe: Recipe | None) -> paper.PaperError | None:
    spec = model.cells[0].spec
    if recipe is None or isinstance(spec, TransformerSpec):
        return None
    return paper.reported(spec, recipe.data.source)


def _protocols(models: Sequence[ModelSummary]) -> list[str]:
    """How the held-out errors were measured: the protocols in the runs' results."""
    held_out = models[0].held_out
    results = [cell.result or {} for model in models for cell in model.cells]
    return sorted({each[held_out]["protocol"] for each in results if held_out in each})


def _ranking(models: Sequence[ModelSummary]) -> list[ModelSummary]:
    """Models with finished runs by held-out error, lowest first."""
    measured = [
        (errors.mean, index, model)
        for index, model in enumerate(models)
        if (errors := model.errors(model.held_out, "last")).mean is not None
    ]
    return [model for _, _, model in sorted(measured)]


def _reached(models: Sequence[ModelSummary]) -> list[Any]:
    return [found for model in models if (found := reached_by(model.cells)) is not None]


def _error_figures(models: Sequence[ModelSummary]) -> list[Figure]:
    """Errors during training (Fig. 4 and 6), and against depth where depths differ."""
    curves = [model.curves() for model in models]
    if not any(model.train or model.unfinished for model in curves):
        return []
    held_out = SPLIT_NAMES[models[0].held_out]
    metric = models[0].cells[0].metric
    columns = ("model", "seed", "kind", "step", "epoch", metric.key, "run folder")
    rows = tuple(
        (
            *(model.name, cell.seed, row["kind"], row["step"], row["epoch"], metric.of(row)),
            run_folder(cell),
        )
        for model in models
        for cell in model.cells
        for row in cell.rows
        if row["kind"] in ("train", model.held_out)
    )
    figures = [Figure("error-curves", error_curves(curves, held_out), Numbers(columns, rows))]
    kinds = families(curves)
    depths = {kind: [model.depth for model in curves if model.kind == kind] for kind in kinds}
    one_each = all(len(set(found)) == len(found) for found in depths.values())
    several = max(len(set(found)) for found in depths.values()) > 1
    if one_each and several and any(model.train for model in curves):
        plot = depth_errors(curves, held_out)
        figures.append(Figure("error-against-depth", plot, _errors_by_cell(models)))
    return figures


def _summary_table(
    models: Sequence[ModelSummary], reported: Sequence[paper.PaperError | None]
) -> Table:
    """Mean and spread over seeds, last and best, training and held out, beside the paper's."""
    held_out = models[0].held_out
    last_and_best: tuple[Which, ...] = ("last", "best")
    series = [(kind, which) for kind in ("train", held_out) for which in last_and_best]
    depth = models[0].cells[0].metric.depth.split()[-1].capitalize()
    columns = ["Model", depth, "Seeds"]
    name = models[0].cells[0].metric.name
    columns += [f"{SPLIT_NAMES[kind].capitalize()} {name}, {which}" for kind, which in series]
    raw = ["model", "layers", "seeds finished", "seeds"]
    raw += [
        f"{SPLIT_NAMES[kind]} {which} {part}"
        for kind, which in series
        for part in ("mean", "standard deviation", "run folder@step")
    ]
    rows, numbers = [], []
    for model, found in zip(models, reported, strict=True):
        errors = [model.errors(kind, which) for kind, which in series]
        done, total = len(model.done), len(model.cells)
        seeds = f"{done} of {total}" if done < total else done
        row: Row = (model.name, model.depth, seeds, *(each.text for each in errors))
        parts = [part for each in errors for part in (each.mean, each.spread, each.trace)]
        number: Row = (model.name, model.depth, done, total, *parts)
        if any(reported):
            row += (found.text if found else None,)
            number += (found.text if found else None, found.source if found else None)
        rows.append(row)
        numbers.append(number)
    if any(reported):
        columns.append("Paper")
        raw += ["paper", "paper source"]
    return Table("errors", tuple(columns), tuple(rows), Numbers(tuple(raw), tuple(numbers)))


def _verdict_table(verdict: Verdict) -> list[Table]:
    """The differences on which the verdict rests; no table if there are none."""
    rows: list[Row] = []
    found_all = (verdict.plain, verdict.residual, *verdict.others.values(), verdict.twins)
    for found in filter(None, found_all):
        first, second = map(statistics.fmean, (found.first_errors, found.second_errors))
        low, high = found.interval or (None, None)
        runs = f"{len(found.first_errors)}, {len(found.second_errors)}"
        title = f"{found.first.model} → {found.second.model}"
        rows.append((title, first, second, found.points, low, high, runs))
    columns = ("Comparison", "First", "Second", "Difference", "Low", "High", "Runs")
    return [Table("verdict", columns, tuple(rows))] if rows else []


def _cells_table(models: Sequence[ModelSummary]) -> Table:
    """Each run by itself, with the steps its numbers come from."""
    numbers = _errors_by_cell(models)
    columns = tuple(name.capitalize() for name in numbers.columns)
    return Table("runs", columns, numbers.rows, numbers)


def _errors_by_cell(models: Sequence[ModelSummary]) -> Numbers:
    held_out = models[0].held_out
    columns = ["model", "seed", "status"]
    for kind in ("train", held_out):
        for which in ("last", "best"):
            columns += [f"{SPLIT_NAMES[kind]} {which}", f"{SPLIT_NAMES[kind]} {which} step"]
    rows: list[Row] = []
    for cell in (cell for model in models for cell in model.cells):
        found = [row for kind in ("train", held_out) for row in (cell.last(kind), cell.best(kind))]
        pairs = [
            value
            for row in found
            for value in ((cell.metric.of(row), row["step"]) if row else (None, None))
        ]
        rows.append((cell.model, cell.seed, STATUS[cell.status], *pairs, run_folder(cell)))
    return Numbers((*columns, "run folder"), tuple(rows))


def _gaps_table(gaps: Sequence[Cell]) -> Table:
    """The cells that did not reach their end, with the reason."""
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
    return Table("gaps", ("Model", "Seed", "Status", "Last step", "Reason", "Run folder"), rows)


def _models_table(models: Sequence[ModelSummary], blocks: Blocks) -> Table:
    """The models compared, with their cost counted from the built modules."""
    columns = (
        *("Model", "Family", "Layers", "Blocks per stage", "Shortcut", "Parameters"),
        "Multiply-adds",
    )
    rows: list[Row] = []
    if models[0].cells[0].metric is BITS:
        return _transformers_table(models)
    built = _build_all(models, blocks)
    for summary in models:
        model, spec = built.get(summary.name), summary.cells[0].spec
        assert isinstance(spec, ModelSpec)
        counted = cost.count_cost(model, model.spec.input_size) if model else None
        depths = " + ".join(map(str, spec.depths))
        row = (summary.name, summary.family, summary.depth, depths, spec.shortcut)
        counts = (counted.parameters, counted.multiply_adds) if counted else (None, None)
        rows.append((*row, *counts))
    return Table("models-compared", columns, tuple(rows))


def _transformers_table(models: Sequence[ModelSummary]) -> Table:
    """The transformers compared, with their parameters counted from the built modules."""
    rows: list[Row] = []
    for summary in models:
        spec = summary.cells[0].spec
        assert isinstance(spec, TransformerSpec)
        with torch.device("meta"):
            count = sum(each.numel() for each in Transformer(spec).parameters())
        shape = (spec.depth, spec.width, spec.heads, spec.context)
        rows.append((summary.name, summary.family, *shape, count))
    columns = ("Model", "Family", "Blocks", "Width", "Heads", "Context", "Parameters")
    return Table("models-compared", columns, tuple(rows))


def _network_figures(
    models: Sequence[ModelSummary], blocks: Blocks, *, draws: bool
) -> list[Figure]:
    """Layer diagrams of networks of images; of transformers the norms of their streams."""
    if models[0].cells[0].metric is BITS:
        figure = norms_figure(models)
        return [] if figure is None else [figure]
    return [_diagram(models, blocks)] if draws else []


def _diagram(models: Sequence[ModelSummary], blocks: Blocks) -> Figure:
    """Layer diagrams of the models; of many, the shallowest and the deepest of each kind."""
    drawn = [model.name for model in models]
    if len(models) > MAX_DRAWN:
        kinds = ("plain", "residual")
        by_kind = [[model.name for model in models if model.kind == kind] for kind in kinds]
        drawn = [name for mine in by_kind for name in dict.fromkeys([*mine[:1], *mine[-1:]])]
    built = _build_all(models, blocks)
    chosen = [built[name] for name in drawn if name in built] or list(built.values())
    return Figure("models", model_diagram(chosen))


def _build_all(models: Sequence[ModelSummary], blocks: Blocks) -> dict[str, ImageClassifier]:
    """Each model as trained, by name; one not started has the shapes of the others."""
    started = [
        cell.spec
        for model in models
        for cell in model.cells
        if cell.status != "missing" and isinstance(cell.spec, ModelSpec)
    ]
    shape = {}
    if started:
        fields = ("num_classes", "in_channels", "input_size")
        shape = {key: getattr(started[0], key) for key in fields}
    labels = {model.name: custom_block(model.name) for model in models}
    specs = [
        dataclasses.replace(spec, name=model.name, **shape)
        for model in models
        if isinstance(spec := model.cells[0].spec, ModelSpec)
        and (labels[model.name] is None or labels[model.name] in blocks)
    ]
    with torch.device("meta"):
        return {spec.name: build(spec, block=blocks.get(labels[spec.name] or "")) for spec in specs}


def _commands(folder: Path, grid: Grid) -> list[str]:
    """The whole study again, and one run by itself."""
    run = f"{folder.name}/{CELLS}/{folder_name(grid.models[0], 0)}/{RECIPE}"
    one = f"resnets train {run}"
    preset = next((name for name, make in PRESETS.items() if make() == grid.requested), None)
    if preset is not None:
        return [study_command(grid.study, preset=preset), one]
    counts = [str(count) for count in grid.seeds]
    named = list(dict.fromkeys(grid.swept(model)[0] for model in grid.models))
    if grid.study == "forms":
        named = base_models(grid)
    counts = counts[:: len(grid.models) // len(named)] if grid.sweep else counts
    flags = {
        "data": grid.data,
        "models": ",".join(named),
        "seeds": counts[0] if len(set(counts)) == 1 else ",".join(counts),
        "budget": f"{grid.iterations}it" if grid.iterations else grid.budget,
        "recipe": grid.recipe,
    }
    settings = [word for setting in grid.settings for word in ("--set", setting)]
    settings += [word for axis in grid.sweep for word in ("--sweep", axis)]
    return [study_command(grid.study, *settings, **flags), one]
