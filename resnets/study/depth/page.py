"""The page of a grid study: its figures, tables and verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from resnets.config import (
    ModelSpec,
    Recipe,
    TransformerSpec,
    format_duration,
    from_toml,
    to_toml,
)
from resnets.diagrams.draw import model_diagram
from resnets.models import ImageClassifier, build, cost
from resnets.models.transformer.network import Transformer
from resnets.recipes import recipe as load_recipe
from resnets.report.page import Figure, Numbers, StudyResult, Table, write_page
from resnets.report.render import Row
from resnets.study import paper
from resnets.study.convergence_rule import measure_convergence
from resnets.study.depth.best_of_sweep import Sweep, group_sweep, plot_sweep, sweep_table
from resnets.study.depth.figures import (
    list_families,
    plot_depth_errors,
    plot_error_curves,
    plot_stream_norms,
)
from resnets.study.depth.identity_mappings import (
    base_models,
    forms_tables,
    plot_forms,
    read_forms,
)
from resnets.study.depth.presets import PRESETS
from resnets.study.depth.summary import (
    SPLIT_NAMES,
    ModelSummary,
    class_metrics_table,
    list_differences,
    merge_environments,
    run_folder,
    summarize,
)
from resnets.study.depth.tables import (
    errors_by_run,
    errors_table,
    gaps_table,
    runs_table,
    verdict_table,
)
from resnets.study.depth.verdict import judge_degradation
from resnets.study.grid.budget import Blocks
from resnets.study.grid.cells import CELLS, Grid, folder_name, read_cells, read_grid
from resnets.study.grid.model_names import custom_block
from resnets.study.metric import BITS
from resnets.study.trained_models import format_command
from resnets.weights.checkpoint.format import RECIPE

MAX_DRAWN = 4  # models; of more, only the shallowest and deepest of each kind are drawn


def write_grid_page(folder: Path, blocks: Blocks = MappingProxyType({})) -> StudyResult:
    """Write the page of the grid in `folder`; unfinished runs are listed with the reason.

    blocks: those from outside the package; models whose block is not given are neither drawn nor
    counted. Raises ConfigError if `folder` contains no grid.
    """
    grid, cells = read_grid(folder), read_cells(folder)
    all_models = summarize(cells)
    metric = cells[0].metric
    recipes = _read_recipes(all_models)
    recipe = next(iter(recipes.values()), None)
    sweep: Sweep | None = None
    models, verdict = all_models, judge_degradation(cells)
    if grid.sweep:
        base = grid.split_swept(grid.models[0])[0]
        sweep = group_sweep(grid, cells, load_recipe(grid.recipe, base.partition(":")[0]))
        models, verdict = summarize(sweep.best) or all_models, sweep.verdict
    forms = read_forms(grid, models) if grid.study == "forms" else None
    reported = [_find_paper_error(model, recipe) for model in models]
    gaps = [cell for cell in cells if cell.status != "done"]
    return write_page(
        folder,
        f"study/{grid.study}.html.j2",
        figures=[
            *(plot_forms(forms) if forms else _error_figures(models)),
            *([plot_sweep(sweep)] if sweep else []),
            *_network_figures(models, blocks, draws=forms is None),
        ],
        tables=[
            errors_table(models, reported),
            *([sweep_table(sweep)] if sweep else []),
            *(forms_tables(forms, SPLIT_NAMES[models[0].held_out]) if forms else []),
            *class_metrics_table(models),
            *verdict_table(verdict),
            runs_table(all_models),
            _models_table(models, blocks),
            *([gaps_table(gaps)] if gaps else []),
        ],
        data=next((cell.result["data"] for cell in cells if cell.result), grid.data),
        models=models,
        cells=cells,
        held_out=SPLIT_NAMES[models[0].held_out],
        verdict=verdict,
        sweep=sweep,
        forms=forms,
        metric=metric,
        is_text=metric is BITS,
        ranking=_rank_models(models),
        best=min(
            filter(None, (measure_convergence(model.cells) for model in models)),
            key=lambda each: each.error,
            default=None,
        ),
        paper_protocol=paper.PROTOCOL[data] if (data := _paper_data(recipe)) else None,
        recipe_spec=recipe,
        recipe=f"# as of {next(iter(recipes))}\n{to_toml(recipe)}" if recipe else "",
        differences=list_differences(recipes),
        protocols=_list_protocols(models),
        format_duration=format_duration,
        commands=_commands(folder, grid),
        environment=merge_environments([cell.folder for cell in cells]),
    )


def _read_recipes(models: Sequence[ModelSummary]) -> dict[str, Recipe]:
    """Return the recipe of each started model by name, or of each run if a model's runs differ.

    The recipe that most of them share comes first.
    """
    recipes: dict[str, Recipe] = {}
    for model in models:
        started = {
            cell.folder.name: from_toml(cell.folder / RECIPE, stored=True)
            for cell in model.cells
            if (cell.folder / RECIPE).is_file()
        }
        same = [dataclasses.replace(recipe, seed=0) for recipe in started.values()]
        agree = bool(same) and all(recipe == same[0] for recipe in same)
        recipes |= {model.name: next(iter(started.values()))} if agree else started
    counts = {
        name: sum(
            not list_differences({"one": recipe, "other": other}) for other in recipes.values()
        )
        for name, recipe in recipes.items()
    }
    return dict(sorted(recipes.items(), key=lambda item: -counts[item[0]]))


def _paper_data(recipe: Recipe | None) -> paper.Dataset | None:
    return paper.find_dataset(recipe.data.source) if recipe else None


def _find_paper_error(model: ModelSummary, recipe: Recipe | None) -> paper.PaperError | None:
    spec = model.cells[0].spec
    if recipe is None or isinstance(spec, TransformerSpec):
        return None
    return paper.find_error(spec, recipe.data.source)


def _list_protocols(models: Sequence[ModelSummary]) -> list[str]:
    """List the protocols of the held-out errors in the runs' results."""
    held_out = models[0].held_out
    results = [cell.result or {} for model in models for cell in model.cells]
    return sorted({each[held_out]["protocol"] for each in results if held_out in each})


def _rank_models(models: Sequence[ModelSummary]) -> list[ModelSummary]:
    """Sort models with finished runs by held-out error, lowest first."""
    measured = [
        (errors.mean, index, model)
        for index, model in enumerate(models)
        if (errors := model.errors(model.held_out, "last")).mean is not None
    ]
    return [model for _, _, model in sorted(measured)]


def _error_figures(models: Sequence[ModelSummary]) -> list[Figure]:
    """Plot errors during training (Fig. 4 and 6), and against depth if depths differ."""
    curves = [model.curves() for model in models]
    if not any(model.train or model.unfinished for model in curves):
        return []
    held_out = SPLIT_NAMES[models[0].held_out]
    metric = models[0].cells[0].metric
    columns = ("model", "seed", "kind", "step", "epoch", metric.key, "run folder")
    rows = tuple(
        (
            model.name,
            cell.seed,
            row["kind"],
            row["step"],
            row["epoch"],
            metric.of(row),
            run_folder(cell),
        )
        for model in models
        for cell in model.cells
        for row in cell.rows
        if row["kind"] in ("train", model.held_out)
    )
    figures = [Figure("error-curves", plot_error_curves(curves, held_out), Numbers(columns, rows))]
    families = list_families(curves)
    depths = {
        family: [model.depth for model in curves if model.family == family] for family in families
    }
    distinct = all(len(set(each)) == len(each) for each in depths.values())
    several = max(len(set(each)) for each in depths.values()) > 1
    if distinct and several and any(model.train for model in curves):
        plot = plot_depth_errors(curves, held_out)
        figures.append(Figure("error-against-depth", plot, errors_by_run(models)))
    return figures


def _models_table(models: Sequence[ModelSummary], blocks: Blocks) -> Table:
    """Tabulate the models, with their cost counted from the built modules."""
    columns = (
        "model",
        "family",
        "layers",
        "blocks per stage",
        "shortcut",
        "parameters",
        "multiply-adds",
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
    """Tabulate the transformers, with their parameters counted from the built modules."""
    rows: list[Row] = []
    for summary in models:
        spec = summary.cells[0].spec
        assert isinstance(spec, TransformerSpec)
        with torch.device("meta"):
            count = sum(each.numel() for each in Transformer(spec).parameters())
        shape = (spec.depth, spec.width, spec.heads, spec.context)
        rows.append((summary.name, summary.family, *shape, count))
    columns = ("model", "family", "blocks", "width", "heads", "context", "parameters")
    return Table("models-compared", columns, tuple(rows))


def _network_figures(
    models: Sequence[ModelSummary], blocks: Blocks, *, draws: bool
) -> list[Figure]:
    """Draw image classifiers as layer diagrams; plot the norms of transformers' streams."""
    if models[0].cells[0].metric is BITS:
        figure = plot_stream_norms(models)
        return [] if figure is None else [figure]
    return [_draw_networks(models, blocks)] if draws else []


def _draw_networks(models: Sequence[ModelSummary], blocks: Blocks) -> Figure:
    """Draw layer diagrams of the models; of many, the shallowest and deepest of each kind."""
    drawn = [model.name for model in models]
    if len(models) > MAX_DRAWN:
        kinds = ("plain", "residual")
        by_kind = [[model.name for model in models if model.kind == kind] for kind in kinds]
        drawn = [name for names in by_kind for name in dict.fromkeys([*names[:1], *names[-1:]])]
    built = _build_all(models, blocks)
    chosen = [built[name] for name in drawn if name in built] or list(built.values())
    return Figure("models", model_diagram(chosen))


def _build_all(models: Sequence[ModelSummary], blocks: Blocks) -> dict[str, ImageClassifier]:
    """Build each model as trained, by name; one not started gets the shapes of the others."""
    started = [
        cell.spec
        for model in models
        for cell in model.cells
        if cell.status != "missing" and isinstance(cell.spec, ModelSpec)
    ]
    fields = ("num_classes", "in_channels", "input_size")
    shape = {key: getattr(spec, key) for spec in started[:1] for key in fields}
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
    """Return the commands that repeat the whole study, and one run."""
    train_one = f"resnets train {folder.name}/{CELLS}/{folder_name(grid.models[0], 0)}/{RECIPE}"
    preset = next((name for name, make in PRESETS.items() if make() == grid.requested), None)
    if preset is not None:
        return [format_command(grid.study, preset=preset), train_one]
    counts = [str(count) for count in grid.seeds]
    swept = dict.fromkeys(grid.split_swept(model)[0] for model in grid.models)
    names = base_models(grid) if grid.study == "forms" else list(swept)
    counts = counts[:: len(grid.models) // len(names)] if grid.sweep else counts
    flags = {
        "data": grid.data,
        "models": ",".join(names),
        "seeds": counts[0] if len(set(counts)) == 1 else ",".join(counts),
        "budget": f"{grid.iterations}it" if grid.iterations else grid.budget,
        "recipe": grid.recipe,
    }
    settings = [word for setting in grid.settings for word in ("--set", setting)]
    settings += [word for axis in grid.sweep for word in ("--sweep", axis)]
    return [format_command(grid.study, *settings, **flags), train_one]
