"""`resnets train`: from a recipe's name to a run folder."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from resnets.config import ConfigError, Recipe, from_toml, parse_duration, replace_fields


def command(
    recipe: tyro.conf.Positional[str | None] = None,
    /,
    resume: Path | None = None,
    data: str | None = None,
    model: str | None = None,
    epochs: float | None = None,
    iterations: int | None = None,
    seed: int | None = None,
    out: Path | None = None,
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    device: str = "auto",
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Train a net and write a run folder with its checkpoints, errors, curves and report.

    Args:
        recipe: Name of a recipe (see --list) or path of a recipe.toml.
        resume: Run folder to go on with, exactly where it stopped.
        data: Data set: a name, hub:ORG/NAME, or a path: class folders, a tar, a CSV, Parquet ...
            (docs/data.md has all).
        model: Net from the catalog (see `resnets info`); a detector's as resnet50-fpn, resnet50-c4.
        epochs: Length of the run in epochs; schedules scale with it.
        iterations: Length of the run in optimizer steps; schedules scale with it.
        seed: Seed of initialisation, order and augmentation.
        out: Run folder to write; default runs/RECIPE-N.
        set: Any other recipe field, as path=value; may be given again.
        device: auto, cpu, cuda, cuda:1, mps.
        list: Show the recipes and stop.
    """
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=_Stderr())
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("resnets").setLevel(logging.INFO)
    if list:
        _show_recipes()
        return 0
    if (recipe is None) == (resume is None):
        raise ConfigError("name one recipe (see --list) or one run with --resume")
    from resnets import job
    from resnets.train.stop import Stopped

    try:
        if resume is not None:
            if any(value is not None for value in (model, epochs, iterations, seed, out)) or set:
                raise ConfigError("--resume goes on with the run's own recipe: no other changes")
            folder = resume
            result = job.resume(resume, data=data, device=device)
        else:
            assert recipe is not None
            chosen = _choose(recipe, data, model, epochs, iterations, seed, set)
            folder = out or _free_folder(chosen.name)
            result = job.run(chosen, folder, device=device)
    except Stopped as stop:
        print(f"{stop}; go on with: resnets train --resume {folder}")
        return stop.code
    _show_result(result, folder)
    return 0


class _Stderr:
    """What sys.stderr is when a line is written: a progress bar takes its place while it shows."""

    def write(self, text: str) -> None:
        """Write above the bar, where there is one."""
        sys.stderr.write(text)

    def flush(self) -> None:
        """Needed of a stream."""
        sys.stderr.flush()


def _choose(
    name: str,
    data: str | None,
    model: str | None,
    epochs: float | None,
    iterations: int | None,
    seed: int | None,
    settings: tuple[str, ...],
) -> Recipe:
    from resnets import recipes

    if epochs is not None and iterations is not None:
        raise ConfigError("--epochs and --iterations exclude each other")
    if name.endswith(".toml"):
        chosen = from_toml(name)
        if model is not None:
            chosen = _with_net(chosen, model)
    else:
        chosen = recipes.recipe(name, model)
    changes: dict[str, Any] = {}
    if data is not None:
        changes["data.source"] = data if not Path(data).exists() else str(Path(data).resolve())
    if epochs is not None:
        changes["duration"] = f"{epochs:g}ep"
    if iterations is not None:
        changes["duration"] = f"{iterations}it"
    if seed is not None:
        changes["seed"] = seed
    if "duration" in changes:
        parse_duration(changes["duration"], "--epochs/--iterations")
    chosen = replace_fields(chosen, changes)
    return replace_fields(chosen, dict(_split(text) for text in settings))


def _with_net(recipe: Recipe, name: str) -> Recipe:
    """A recipe read from a file, for another net."""
    from resnets.models import catalog
    from resnets.recipes.detection import split_name

    now, detect = recipe.model, recipe.detect
    if recipe.task == "classify":
        spec = catalog.spec(name)
    else:
        spec, head = split_name(name, detect.head)
        detect = dataclasses.replace(detect, head=head)
    spec = dataclasses.replace(spec, num_classes=now.num_classes, in_channels=now.in_channels)
    return dataclasses.replace(recipe, model=spec, detect=detect)


def _split(text: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: write it as path=value, such as optim.lr=0.05")
    return path.strip(), value.strip()


def _free_folder(name: str) -> Path:
    number = 1
    while (folder := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return folder


def _show_recipes() -> None:
    from resnets.recipes import RECIPES

    for name, make in RECIPES.items():
        print(f"{name}\n    " + inspect.cleandoc(make.__doc__ or "").replace("\n", "\n    ") + "\n")


def _show_result(result: dict[str, Any], folder: Path) -> None:
    from resnets.report import figures_of

    figures = figures_of(result)
    table = Table("split", *figures.values(), "pictures", "protocol")
    for name in ("test", "val", "train"):
        if name in result:
            row = result[name]
            values = (_written(key, row.get(key)) for key in figures)
            table.add_row(name, *values, f"{row['examples']:,}", row["protocol"])
    console = Console()
    console.print(table)
    speed = f"{result['images_per_second']:,.0f} images/s"
    print(f"{result['seconds']:.0f} s of training, {speed}")
    for what, file in (("report", "report.html"), ("curves", "curves.svg")):
        print(f"{what}: {folder / file}")
    print(f"use it: resnets predict {folder} PICTURE...")


def _written(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if key == "loss" else f"{value:.2f}%"
