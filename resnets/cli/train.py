"""`resnets train`: from a recipe's name to a run folder."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
import sys
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from resnets.cli.runs import run_folder
from resnets.config import ConfigError, Recipe, from_toml, parse_duration, replace_fields
from resnets.utils.terminal import Console, say

# Whether torchrun starts us again, after a process died.
RESTARTED = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


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
    go_on: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    device: str = "auto",
    devices: int = 1,
    max_restarts: int = 0,
    hang_after: float = 1800,
    fit_memory: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Train a net and write a run folder with its checkpoints, errors, curves and report.

    Args:
        recipe: Name of a recipe (see --list) or path of a recipe.toml.
        resume: Run folder to go on with, exactly where it stopped. Or the URL of its checkpoints
            (checkpoint_url): the run folder is then made again as runs/NAME.
        data: Data set: a name, hub:ORG/NAME, or a path: class folders, a tar, a CSV, Parquet ...
            (docs/data.md has all).
        model: Net from the catalog (see `resnets info`); a detector's as resnet50-fpn, resnet50-c4.
        epochs: Length of the run in epochs; schedules scale with it. With --resume the new length
            of the whole run.
        iterations: Length of the run in optimizer steps, likewise.
        seed: Seed of initialisation, order and augmentation.
        out: Run folder to write; default runs/RECIPE-N.
        set: Any other recipe field, as path=value; may be given again.
        go_on: With --out: go on with the run that it holds, where it holds one. For schedulers that
            start a job again.
        device: auto, cpu, cuda, cuda:1, mps.
        devices: Processes on this machine that share each batch, one for each GPU (or on CPUs), as
            torchrun starts them. For several machines see docs/scale.md.
        max_restarts: With --devices: times that all processes start again where one died.
        hang_after: Seconds after which a step that has not ended ends its process; 0 = never.
        fit_memory: Halve what goes through the net at once until it fits into memory; gradients add
            up, the batch stays the same.
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
    with ExitStack() as held:
        if resume is not None:
            if any(value is not None for value in (model, seed, out)) or set:
                raise ConfigError(
                    "--resume uses the run's own recipe; only --data, --epochs and --iterations go"
                    " with it"
                )
            chosen, folder = None, _brought_back(resume)
        else:
            assert recipe is not None
            chosen = _choose(recipe, data, model, epochs, iterations, seed, set)
            folder = held.enter_context(_folder(out, chosen.name, go_on))
        if devices != 1 or max_restarts:
            from resnets.cli.launch import check_devices, launch

            check_devices(devices, max_restarts, device)
            options = ["--resume" if chosen is None else "--out", str(folder)]
            options += ["--go-on"] if go_on else []
            options += ["--data", data] if chosen is None and data is not None else []
            options += ["--epochs", f"{epochs:g}"] if chosen is None and epochs is not None else []
            options += ["--iterations", f"{iterations}"] if chosen is None and iterations else []
            options += ["--fit-memory"] if fit_memory else []
            options += ["--device", device, "--hang-after", f"{hang_after:g}"]
            return launch(chosen, options, devices, max_restarts)
        means = {"device": device, "hang_after": hang_after, "fit_memory": fit_memory}
        if chosen is None:
            means["duration"] = _duration(epochs, iterations)
        return _train(chosen, folder, go_on or RESTARTED, data, means)


def _train(
    recipe: Recipe | None,
    folder: Path,
    go_on: bool,
    data: str | None,
    means: dict[str, Any],
) -> int:
    """Train in this process; without a `recipe` go on with the run in `folder`."""
    if recipe is not None and os.environ.get("RANK", "0") == "0":
        what = f"{recipe.net_name}, {recipe.name}, {recipe.duration}"
        logging.getLogger("resnets").info("%s: %s", folder, what)  # before seconds of imports
    from resnets import training
    from resnets.train.guards.interrupt import Interrupted
    from resnets.utils.distributed import init_distributed

    with init_distributed(means["device"]) as rank:
        begun = rank.broadcast_from_main(lambda: _begun(recipe, folder, go_on))
        try:
            if recipe is not None and begun and rank.is_main:
                _say_ignored(recipe, folder)
            if recipe is None or (go_on and begun):
                result = training.resume(folder, data=data, group=rank, **means)
            else:
                result = training.run(recipe, folder, group=rank, **means)
        except Interrupted as stop:
            if rank.is_main:
                say(f"{stop}; go on with: resnets train --resume {folder}")
            return stop.code
    if rank.is_main:
        _show_result(result, folder)
    return 0


def _say_ignored(recipe: Recipe, folder: Path) -> None:
    """With --go-on the run's own recipe holds; name the fields that were asked for otherwise."""
    from resnets.train.resume import describe_differences
    from resnets.weights.checkpoint.format import RECIPE

    for line in describe_differences(recipe, from_toml(folder / RECIPE, stored=True)):
        logging.getLogger("resnets").warning("--go-on: %s", line)


def _begun(recipe: Recipe | None, folder: Path, go_on: bool) -> bool:
    """Whether there is a run in `folder`; one on another machine may have left it behind a URL."""
    from resnets.weights.checkpoint.format import RECIPE, place_for
    from resnets.weights.checkpoint.manager import bring_back

    if (folder / RECIPE).is_file():
        return True
    if not go_on or recipe is None or recipe.checkpoint_url is None:
        return False
    return bring_back(place_for(folder, recipe.checkpoint_url), folder)


def _brought_back(where: Path) -> Path:
    """The run folder to go on with; that of a URL is made where it is missing."""
    from resnets.weights.checkpoint.format import RECIPE, place_for
    from resnets.weights.checkpoint.manager import bring_back
    from resnets.weights.checkpoint.store_url import url_of

    url = url_of(where)
    if url is None:
        return where
    folder = Path("runs") / where.name
    if not (folder / RECIPE).is_file():
        if not bring_back(url, folder):
            raise ConfigError(f"--resume {url}: no run's checkpoints there")
        return folder
    kept = from_toml(folder / RECIPE, stored=True).checkpoint_url
    if kept is None or place_for(folder, kept) != url:
        raise ConfigError(
            f"--resume {url}: {folder} holds another run; move it away, or go on with that one by "
            f"--resume {folder}"
        )
    return folder


def _folder(out: Path | None, name: str, go_on: bool) -> AbstractContextManager[Path]:
    """The run folder; several processes must be told one, since each would choose its own."""
    if out is None and (go_on or "WORLD_SIZE" in os.environ):
        why = "--go-on" if go_on else "torchrun"
        raise ConfigError(f"{why} needs --out: the folder of the run")
    return run_folder(out, name)


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

    if name.endswith(".toml"):
        chosen = from_toml(name)
        if model is not None:
            chosen = _with_net(chosen, model)
    else:
        chosen = recipes.recipe(name, model)
    changes: dict[str, Any] = {}
    if data is not None:
        changes["data.source"] = data if not Path(data).exists() else str(Path(data).resolve())
    if (duration := _duration(epochs, iterations)) is not None:
        changes["duration"] = duration
    if seed is not None:
        changes["seed"] = seed
    chosen = replace_fields(chosen, changes)
    return replace_fields(chosen, dict(_split(text) for text in settings))


def _duration(epochs: float | None, iterations: int | None) -> str | None:
    """The length of a run that the flags give, None where they give none."""
    if epochs is not None and iterations is not None:
        raise ConfigError("--epochs and --iterations exclude each other")
    if epochs is None and iterations is None:
        return None
    duration = f"{iterations}it" if epochs is None else f"{epochs:g}ep"
    parse_duration(duration, "--epochs/--iterations")
    return duration


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


def _show_recipes() -> None:
    from resnets.recipes import RECIPES

    for name, make in RECIPES.items():
        say(f"{name}\n    " + inspect.cleandoc(make.__doc__ or "").replace("\n", "\n    ") + "\n")


def _show_result(result: dict[str, Any], folder: Path) -> None:
    from resnets.report.run_report import figures_of

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
    say(f"{result['seconds']:.0f} s of training, {speed}")
    for what, file in (("report", "report.html"), ("curves", "curves.svg")):
        say(f"{what}: {folder / file}")
    say(f"use it: resnets predict {folder} PICTURE...")


def _written(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if key == "loss" else f"{value:.2f}%"
