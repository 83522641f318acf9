"""A grid of nets and seeds on disk: what was asked for, and what each of its cells has reached.

A study's folder holds `study.toml` (the `Grid`) and `cells/<net>-seed<k>/`, each an ordinary run
folder. Nothing else is kept: whoever reads a study reads these files.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tomli_w

from resnets import recipes
from resnets.config import (
    ConfigError,
    ModelSpec,
    Recipe,
    atomic_write,
    from_dict,
    from_toml,
    replace_fields,
    to_dict,
)
from resnets.config.aliases import read_json
from resnets.models import catalog
from resnets.train.log import read_rows
from resnets.utils.reading import read_object, reading

STUDY, CELLS = "study.toml", "cells"
AGAIN = "remove the file, and start the study again"
RECIPE, RESULT, FAILED = "recipe.toml", "result.json", "failed.json"
OPTIONS: tuple[Literal["A", "B", "C", "none"], ...] = ("A", "B", "C", "none")
# What a cell's recipe takes from the grid itself, and where to say it instead.
TAKEN = {
    "seed": "--seeds",
    "duration": "--budget",
    "data.source": "--data",
    "model.shortcut": "the net's name, such as cifar-resnet20:B",
}
# Rows of training error come once an epoch, but at least every so many steps.
ROW_EVERY = 100

VERSION = 2  # of study.toml


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Nets times seeds, trained by one recipe for one number of steps.

    nets: names of the catalog, or NAME:OPTION for another shortcut option ("resnet34:C",
    "resnet50:none"). seeds: how many seeds (0, 1, ...) each net gets. settings: further recipe
    fields as path=value. budget: as it was asked for; `iterations` is what it came to, and
    `epoch` the steps of one pass over the training set, both fixed when the study starts.
    version: 1 for studies begun before held-out shares followed each image's identity; their cells
    keep the rules of that time.
    """

    study: Literal["depth", "shortcuts"] = "depth"
    nets: tuple[str, ...]
    seeds: tuple[int, ...]
    data: str
    recipe: str
    budget: str
    settings: tuple[str, ...] = ()
    iterations: int = 0
    epoch: int = 0
    version: int = VERSION

    def __post_init__(self) -> None:
        if not self.nets:
            raise ConfigError("nets: name at least one, such as cifar-plain20,cifar-resnet20")
        if len(self.seeds) != len(self.nets):
            raise ConfigError(f"seeds: {len(self.seeds)} numbers for {len(self.nets)} nets")
        if min(self.seeds) < 1:
            raise ConfigError(f"seeds: {min(self.seeds)} must be at least 1")
        folders = [folder_name(net, 0) for net in self.nets]
        for net, folder in zip(self.nets, folders, strict=True):
            if folders.count(folder) > 1:
                raise ConfigError(f"nets: {net} is named twice")
        stems = {net_spec(net).stem: net for net in self.nets}
        if len(stems) > 1:
            raise ConfigError(
                f"nets: {' and '.join(stems.values())} are of two families (CIFAR and ImageNet "
                "stem); compare one family at a time"
            )

    @property
    def asked(self) -> Grid:
        """The grid as asked for, without what was found when it started."""
        return dataclasses.replace(self, iterations=0, epoch=0, version=VERSION)

    @property
    def names(self) -> list[tuple[str, int]]:
        """(net, seed) of every cell."""
        counts = zip(self.nets, self.seeds, strict=True)
        return [(net, seed) for net, count in counts for seed in range(count)]


@dataclass(frozen=True)
class Cell:
    """One net trained from one seed, as far as it has come.

    status: "done" has a result, "failed" a reason, "running" is begun (at work or stopped).
    rows: metrics.jsonl; result: result.json, None unless done.
    """

    net: str
    seed: int
    folder: Path
    status: Literal["done", "running", "failed", "missing"]
    error: str | None
    rows: list[dict[str, Any]]
    result: dict[str, Any] | None

    @property
    def spec(self) -> ModelSpec:
        """The net: what was trained, or what the catalog says where nothing was yet."""
        path = self.folder / RECIPE
        return from_toml(path, stored=True).model if path.is_file() else net_spec(self.net)

    @property
    def kind(self) -> Literal["plain", "residual"]:
        """Whether the net has shortcuts."""
        return "residual" if net_spec(self.net).residual else "plain"

    @property
    def depth(self) -> int:
        """Weighted layers, as the paper counts them."""
        return depth(net_spec(self.net))

    @property
    def shortcut(self) -> str:
        """The shortcut option, "none" for a plain net."""
        return net_spec(self.net).shortcut

    def last(self, kind: str) -> dict[str, Any] | None:
        """The last row of `kind` ("train", "val", "test")."""
        return next((row for row in reversed(self.rows) if row["kind"] == kind), None)

    def best(self, kind: str) -> dict[str, Any] | None:
        """The row of `kind` with the lowest error, the first of equals."""
        rows = [row for row in self.rows if row["kind"] == kind]
        return min(rows, key=lambda row: row["top1_error"], default=None)


def net_spec(net: str) -> ModelSpec:
    """The net called NAME or NAME:OPTION; its spec carries that whole name.

    Raises ConfigError for an unknown name or option, and for an option of a net without blocks.
    """
    name, colon, option = net.partition(":")
    spec = catalog.spec(name)
    if not colon:
        return spec
    chosen = next((each for each in OPTIONS if each == option), None)
    if chosen is None:
        raise ConfigError(
            f"{net}: unknown shortcut option {option!r}; options: {', '.join(OPTIONS)}"
        )
    if not spec.residual:
        raise ConfigError(f"{net}: {name} has no shortcuts to choose an option for")
    return dataclasses.replace(spec, name=net, shortcut=chosen)


def depth(spec: ModelSpec) -> int:
    """Layers with weights, projections on shortcuts not counted (the paper's "20 layers")."""
    return spec.num_layers


def folder_name(net: str, seed: int) -> str:
    """Name of a cell's folder."""
    return f"{net.replace(':', '-').lower()}-seed{seed}"


def cell_recipe(grid: Grid, net: str, seed: int) -> Recipe:
    """The whole recipe of one cell; ConfigError where a setting does not fit."""
    base = recipes.recipe(grid.recipe, net.partition(":")[0])
    wanted = net_spec(net)
    recipe = dataclasses.replace(
        base, model=dataclasses.replace(base.model, name=wanted.name, shortcut=wanted.shortcut)
    )
    changes: dict[str, Any] = {
        "seed": seed,
        "data.source": grid.data,
        "eval.watch_test": True,
    }
    if grid.version == 1:
        changes |= {"data.split_rule": "rank", "data.overlap": "allow"}
    if grid.iterations:
        spacing = min(ROW_EVERY, grid.epoch)
        rows = max(1, round(grid.iterations / spacing))
        changes["duration"] = f"{grid.iterations}it"
        changes["log_every"] = f"{-(-grid.iterations // rows)}it"
    return replace_fields(
        replace_fields(recipe, changes), dict(_split(each) for each in grid.settings)
    )


def _split(setting: str) -> tuple[str, str]:
    path, equals, value = (part.strip() for part in setting.partition("="))
    if not equals:
        raise ConfigError(f"--set {setting}: write it as path=value, such as optim.lr=0.05")
    if path in TAKEN:
        raise ConfigError(f"--set {path}: the grid decides it; use {TAKEN[path]}")
    return path, value


def write_grid(grid: Grid, folder: Path) -> None:
    """Begin a study: make its folder and study.toml, whole or not at all."""
    (folder / CELLS).mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / STUDY) as temporary:
        temporary.write_text(tomli_w.dumps(to_dict(grid)), encoding="utf-8")


def read_grid(folder: Path) -> Grid:
    """The grid of a study's folder; ConfigError where there is none or it cannot be read."""
    path = folder / STUDY
    if not path.is_file():
        raise ConfigError(f"{folder}: no study here (no {STUDY})")
    with reading(path, what="as a study"):
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    return from_dict(Grid, {"version": 1, **data}, where=str(path))


def read_cells(folder: Path) -> list[Cell]:
    """Every cell of a study's grid, missing ones too, in the order of `Grid.names`."""
    return [read_cell(folder, net, seed) for net, seed in read_grid(folder).names]


def read_cell(folder: Path, net: str, seed: int) -> Cell:
    """One cell of the study in `folder`."""
    run = folder / CELLS / folder_name(net, seed)
    status: Literal["done", "running", "failed", "missing"] = "missing"
    error, result = None, None
    if (run / RESULT).is_file():
        status, result = "done", read_json(run / RESULT, "result", remedy=AGAIN)
    elif (run / FAILED).is_file():
        found = read_object(run / FAILED, remedy=AGAIN).get("error")
        status, error = "failed", str(found or "for a reason that is not known")
    elif (run / RECIPE).is_file():
        status = "running"
    return Cell(net, seed, run, status, error, read_rows(run), result)


def reread(cell: Cell) -> Cell:
    """The cell as it stands now."""
    return read_cell(cell.folder.parents[1], cell.net, cell.seed)


def training_order(cells: Sequence[Cell], jobs: int) -> list[Cell]:
    """All nets of seed 0 first, then those of seed 1, ...

    In a seed the deepest come first, so that several workers end together; one worker alone begins
    with the shallowest, so that there is something to see early.
    """
    return sorted(cells, key=lambda cell: (cell.seed, cell.depth if jobs == 1 else -cell.depth))
