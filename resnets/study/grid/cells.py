"""A grid of models and seeds on disk: its definition, and the state of each of its cells.

A study's folder contains `study.toml` (the `Grid`) and `cells/<model>-seed<k>/`, each an ordinary
run
folder: a cell is a recipe and a name. There is no other state.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import tomli_w

from resnets import recipes
from resnets.config import (
    Block,
    ConfigError,
    Recipe,
    TransformerSpec,
    check_explicit_fields,
    from_dict,
    from_toml,
    replace_fields,
    to_dict,
)
from resnets.config.aliases import current_path, read_json, with_current_names
from resnets.config.ranges import check_range
from resnets.study.grid.model_names import (
    GRID_FIELDS,
    Spec,
    custom_block,
    family_name,
    model_fields,
    network_spec,
)
from resnets.study.metric import BITS, ERROR, Metric
from resnets.train.log.run_log import read_rows
from resnets.train.write_results import RESULT
from resnets.utils.errors import reading
from resnets.utils.files.json import read_object
from resnets.utils.files.write import atomic_write
from resnets.utils.suggest import suggest_path
from resnets.weights.checkpoint.format import RECIPE

STUDY, CELLS = "study.toml", "cells"
REMEDY = "remove the file, and start the study again"
FAILED = "failed.json"  # of a cell that cannot be trained, with the reason
# Rows of training error are logged once per epoch, but at least every so many steps.
MAX_ROW_STEPS = 100

VERSION = 2  # of study.toml


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Models times seeds, trained by one recipe for one number of steps.

    models: names of the catalog, followed by changes: NAME:OPTION for another shortcut option
    ("resnet34:C", "resnet50:none"), NAME:FIELD=VALUE for another field of the model
    ("cifar-resnet20:norm=none") or of the recipe ("cifar-resnet20:optim.lr=0.3:batch_size=64"),
    also several. sweep: fields that the study varies as FIELD=VALUE,VALUE,...; `models` has a name
    for each value. blocks: names of blocks from outside the package, which models have as
    NAME:block=NAME. seeds: number of seeds (0, 1, ...) of each model. settings: other recipe fields
    as path=value. budget: as requested; `iterations` is the resulting number of steps and `epoch`
    that of one pass over the training set, both fixed when the study starts. version: 1 for studies
    started before held-out shares depended on each image's identity; their cells keep the old
    rules.

    In a study "folds", seeds are folds: cell k is tested on fold k (`data.fold`), with seed 0. In
    "data" they are subsets: the last cell trains on all images, each cell before it on half of the
    images of the next.
    """

    study: Literal["depth", "shortcuts", "forms", "folds", "data"] = "depth"
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    data: str
    recipe: str
    budget: str
    settings: tuple[str, ...] = ()
    sweep: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    iterations: int = 0
    epoch: int = 0
    version: int = VERSION

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("models: name at least one, such as cifar-plain20,cifar-resnet20")
        if len(self.seeds) != len(self.models):
            raise ConfigError(f"seeds: {len(self.seeds)} numbers for {len(self.models)} models")
        check_range("seeds:", min(self.seeds), "[1, inf)")
        folders = [folder_name(model, 0) for model in self.models]
        for model, folder in zip(self.models, folders, strict=True):
            if folders.count(folder) > 1:
                raise ConfigError(f"models: {model} is named twice")
        for model in self.models:
            label = custom_block(model)
            if label is not None and label not in self.blocks:
                known = ", ".join((*self.blocks, *get_args(Block)))
                raise ConfigError(
                    f"{model}: unknown block {label!r}; known: {known}. Blocks of your own are "
                    "given in Python: resnets.study.depth(..., blocks={...})"
                )
        specs = {model: network_spec(model) for model in self.models}
        stems = {
            "text" if isinstance(spec, TransformerSpec) else spec.stem: model
            for model, spec in specs.items()
        }
        if len(stems) > 1:
            raise ConfigError(
                f"models: {' and '.join(stems.values())} belong to two families (CIFAR and "
                "ImageNet stem, transformers); compare one family at a time"
            )

    def split_swept(self, model: str) -> tuple[str, tuple[str, ...]]:
        """Return the name of `model` without the swept fields, and its value of each of them."""
        paths = [axis.partition("=")[0] for axis in self.sweep]
        words = [(word, word.partition("=")[0]) for word in model.split(":")]
        values = {path: word.partition("=")[2] for word, path in words if path in paths}
        base = ":".join(word for word, path in words if path not in paths)
        return base, tuple(values.get(path, "") for path in paths)

    @property
    def requested(self) -> Grid:
        """The grid as requested, without what was determined when it started."""
        return dataclasses.replace(self, iterations=0, epoch=0, version=VERSION)

    @property
    def runs(self) -> list[tuple[str, int]]:
        """(model, seed) of every cell."""
        counts = zip(self.models, self.seeds, strict=True)
        return [(model, seed) for model, count in counts for seed in range(count)]


@dataclass(frozen=True)
class Cell:
    """One model trained from one seed, in its current state.

    status: "done" has a result, "failed" an error, "running" was started (running or stopped).
    rows: of metrics.jsonl. result: of result.json, None unless done.
    """

    model: str
    seed: int
    folder: Path
    status: Literal["done", "running", "failed", "missing"]
    error: str | None
    rows: list[dict[str, Any]]
    result: dict[str, Any] | None

    @property
    def spec(self) -> Spec:
        """The spec of the trained model; the catalog's if the cell was not started."""
        path = self.folder / RECIPE
        if not path.is_file():
            return network_spec(self.model)
        recipe = from_toml(path, stored=True)
        return recipe.transformer if recipe.task == "text" else recipe.model

    @property
    def metric(self) -> Metric:
        """The metric by which the model is compared."""
        return BITS if isinstance(network_spec(self.model), TransformerSpec) else ERROR

    @property
    def kind(self) -> Literal["plain", "residual"]:
        """Whether the model has shortcuts."""
        spec = network_spec(self.model)
        if isinstance(spec, TransformerSpec):
            return "residual" if spec.is_residual else "plain"
        return "residual" if spec.residual else "plain"

    @property
    def family(self) -> str:
        """The model's family: "plain", "residual", "pre-activation" and others."""
        return family_name(network_spec(self.model))

    @property
    def depth(self) -> int:
        """Weighted layers, as the paper counts them; blocks of a transformer."""
        spec = network_spec(self.model)
        return spec.depth if isinstance(spec, TransformerSpec) else spec.num_layers

    @property
    def shortcut(self) -> str:
        """The shortcut option, or a transformer's residual form; "none" for a plain model."""
        spec = network_spec(self.model)
        return spec.residual if isinstance(spec, TransformerSpec) else spec.shortcut

    def last(self, kind: str) -> dict[str, Any] | None:
        """Return the last row of `kind` ("train", "val", "test"), if any."""
        return next((row for row in reversed(self.rows) if row["kind"] == kind), None)

    def best(self, kind: str) -> dict[str, Any] | None:
        """Return the row of `kind` with the lowest error, the first if several."""
        rows = [row for row in self.rows if row["kind"] == kind]
        return min(rows, key=self.metric.of, default=None)


def folder_name(model: str, seed: int) -> str:
    """Return the name of a cell's folder."""
    return f"{re.sub(r'[^a-z0-9._-]', '-', model.lower())}-seed{seed}"


def cell_recipe(grid: Grid, model: str, seed: int) -> Recipe:
    """Return the recipe of one cell; ConfigError if a setting is invalid."""
    recipe = recipes.recipe(grid.recipe, model.partition(":")[0])
    spec = network_spec(model)  # raises for an unknown name
    is_text = isinstance(spec, TransformerSpec)
    if is_text != (recipe.task == "text"):
        raise ConfigError(f"{model}: recipe {grid.recipe!r} is for task {recipe.task!r}")
    changes: dict[str, Any] = {
        "transformer.name" if is_text else "model.name": model,
        "seed": seed,
        "data.source": grid.data,
        "eval.watch_test": True,
    }
    if grid.study == "folds":
        changes |= {"data.folds": grid.seeds[0], "data.fold": seed, "seed": 0}
        changes["eval.watch_test"] = False
    if grid.study == "data":
        changes |= {"data.train_fraction": 2.0 ** (seed + 1 - grid.seeds[0]), "seed": 0}
        changes["eval.watch_test"] = False
    if grid.version == 1:
        changes |= {"data.split_rule": "rank", "data.overlap": "allow"}
    if grid.iterations:
        spacing = min(MAX_ROW_STEPS, grid.epoch)
        rows = -(-grid.iterations // spacing)
        changes["duration"] = f"{grid.iterations}it"
        changes["log_every"] = f"{-(-grid.iterations // rows)}it"
    settings = dict(_parse_setting(each, grid.study) for each in grid.settings)
    recipe = replace_fields(replace_fields(recipe, changes), settings)
    return replace_fields(recipe, dict(model_fields(model)), where=model)


def check_settings(grid: Grid) -> list[str]:
    """Return warnings about settings without effect; ConfigError for invalid or unread ones."""
    paths = [current_path(_parse_setting(each, grid.study)[0]) for each in grid.settings]
    warnings: dict[str, None] = {}
    for model in grid.models:
        recipe = cell_recipe(grid, model, seed=0)
        if recipe.task != "text":
            recipe.model.check()
        model_paths = [*paths, *map(current_path, model_fields(model))]
        warnings |= dict.fromkeys(check_explicit_fields(recipe, model_paths, "--set"))
    return list(warnings)


def _parse_setting(setting: str, study: str) -> tuple[str, str]:
    path, equals, value = (part.strip() for part in setting.partition("="))
    if not equals:
        raise ConfigError(f"--set {setting}: write it as path=value, such as optim.lr=0.05")
    # The cells of these two are parts of the data, all with the same seed.
    free = path == "seed" and study in ("folds", "data")
    if path in GRID_FIELDS and not free:
        raise ConfigError(f"--set {path}: the grid decides it; use {GRID_FIELDS[path]}")
    return path, value


def write_grid(grid: Grid, folder: Path) -> None:
    """Start a study: create its folder and study.toml atomically."""
    (folder / CELLS).mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / STUDY) as temporary:
        temporary.write_text(tomli_w.dumps(to_dict(grid)), encoding="utf-8")


def read_grid(folder: Path) -> Grid:
    """Read the grid of a study's folder; ConfigError if there is none or it cannot be read."""
    path = folder / STUDY
    if not path.is_file():
        raise ConfigError(f"{folder}: no study here (no {STUDY}){suggest_path(folder)}")
    with reading(path, what="as a study"):
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    grid = {"version": 1, **with_current_names(data, "study")}
    return from_dict(Grid, grid, where=str(path))


def read_cells(folder: Path) -> list[Cell]:
    """Read every cell of a study's grid, missing ones included, in the order of `Grid.runs`."""
    return [read_cell(folder, model, seed) for model, seed in read_grid(folder).runs]


def read_cell(folder: Path, model: str, seed: int) -> Cell:
    """Read one cell of the study in `folder`."""
    run = folder / CELLS / folder_name(model, seed)
    status: Literal["done", "running", "failed", "missing"] = "missing"
    error, result = None, None
    if (run / RESULT).is_file():
        status, result = "done", read_json(run / RESULT, "result", remedy=REMEDY)
    elif (run / FAILED).is_file():
        reason = read_object(run / FAILED, remedy=REMEDY).get("error")
        status, error = "failed", str(reason or "for an unknown reason")
    elif (run / RECIPE).is_file():
        status = "running"
    return Cell(model, seed, run, status, error, read_rows(run), result)


def sort_cells(cells: Sequence[Cell], jobs: int) -> list[Cell]:
    """Sort cells in training order: all models of seed 0 first, then those of seed 1, ...

    Within a seed the deepest come first, so that several workers end together; a single worker
    starts with the shallowest, to show a result early.
    """
    return sorted(cells, key=lambda cell: (cell.seed, cell.depth if jobs == 1 else -cell.depth))
