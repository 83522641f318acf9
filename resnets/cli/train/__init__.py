"""`resnets train`: train a model from a recipe into a run folder."""

from __future__ import annotations

import inspect
import logging
import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import tyro

from resnets.cli.options import Fields, Flag, Settings, parse_settings, refuse_unread
from resnets.cli.process import log_to_stderr
from resnets.config import ConfigError, Recipe, format_duration
from resnets.utils.printable import Console, Table, echo


def command(
    recipe: tyro.conf.Positional[str | None] = None,
    run: tyro.conf.Positional[str | None] = None,
    /,
    resume: Path | None = None,
    data: str | None = None,
    model: str | None = None,
    epochs: float | None = None,
    iterations: int | None = None,
    seed: int | None = None,
    out: Path | None = None,
    fields: Fields = (),
    resume_if_exists: Flag = False,
    device: str = "auto",
    devices: int = 1,
    max_restarts: int = 0,
    hang_after: float = 1800,
    fit_memory: Flag = False,
    list_recipes: Annotated[Flag, tyro.conf.arg(name="list")] = False,
) -> int:
    """Train a model into a run folder with checkpoints, metrics, curves and a report.

    Args:
        recipe: Name of a recipe (see --list) or path of a recipe.toml.
        run: For recipe qat: the run, checkpoint or published weights to fine-tune for int8.
        resume: Run folder to resume exactly where it stopped, or the URL of its checkpoints
            (checkpoint_url), which recreates the run folder as runs/NAME.
        data: Data set: a name, hub:ORG/NAME, or a path: class folders, a tar, a CSV, Parquet, ...
            (see docs/data.md).
        model: Model of the catalog (see `resnets info`); a detector as resnet50-fpn, resnet50-c4.
        epochs: Length of the run in epochs; schedules scale with it. With --resume the new length
            of the whole run.
        iterations: Length of the run in optimizer steps; an alternative to --epochs.
        seed: Random seed for initialization, data order and augmentation.
        out: Run folder to write; default runs/RECIPE-N.
        fields: Any other recipe field, as path=value; can be repeated.
        resume_if_exists: With --out: resume the run in that folder if there is one, for schedulers
            that restart jobs.
        device: auto, cpu, cuda, cuda:1, mps.
        devices: Number of processes on this machine, one per GPU (or on CPUs), started as by
            torchrun; each batch is split across them. For several machines see docs/scale.md.
        max_restarts: With --devices: maximum number of restarts of all processes after one of them
            fails.
        hang_after: Timeout of a training step in seconds, after which its process is stopped; 0
            disables it.
        fit_memory: Halve the micro-batch until it fits into memory; gradients are accumulated, so
            the batch stays the same.
        list_recipes: List the recipes.
    """
    given = dict(locals())
    log_to_stderr()
    if list_recipes:
        refuse_unread(command, given, "list_recipes", "cannot be combined with --list")
        _print_recipes()
        return 0
    if (recipe is None) == (resume is None):
        raise ConfigError("give either one recipe (see --list) or --resume with one run")
    from resnets.api.recipe import choose_duration, choose_recipe

    duration, chosen = choose_duration(epochs, iterations), None
    if recipe is not None:
        settings = _parse_fields(fields, recipe, run)
        chosen = choose_recipe(
            recipe, data=data, model=model, duration=duration, seed=seed, fields=settings
        )
    elif any(value is not None for value in (model, seed, out)) or fields:
        raise ConfigError(
            "--resume uses the run's own recipe; only --data, --epochs and --iterations can be "
            "given with it"
        )
    if devices != 1 or max_restarts:
        from resnets.cli.train.launch import launch

        options = ["--resume-if-exists"] if resume_if_exists else []
        if chosen is None:
            options += _options_of_resumed(data, epochs, iterations)
        options += ["--fit-memory"] if fit_memory else []
        options += ["--hang-after", f"{hang_after:g}"]
        return launch(chosen, resume or out, options, device, devices, max_restarts)
    # Whether torchrun restarted this process; whether it is the one that prints.
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    is_main = os.environ.get("RANK", "0") == "0"
    if chosen is not None and is_main:
        _log_recipe(chosen)  # before seconds of imports
    from resnets.api.train import train
    from resnets.weights.errors import DownloadError

    try:
        finished = train(
            chosen,
            data=data,
            epochs=epochs,
            iterations=iterations,
            out=resume or out,
            resume=resume is not None or resume_if_exists or restarted,
            device=device,
            fit_memory=fit_memory,
            hang_after=hang_after,
        )
    except DownloadError as error:
        if chosen is None or chosen.name != "finetune":
            raise
        words = "scratch" if data is None else f"scratch --data {shlex.quote(data)}"
        raise DownloadError(
            f"{error}; to train from random weights instead: resnets train {words}"
        ) from None
    if is_main:
        _print_result(finished.result, finished.folder)
        for number, words in enumerate(_next_commands(finished.recipe, finished.folder)):
            echo(f"{'        ' if number else 'next:   '}resnets {words}")
    return 0


def _options_of_resumed(
    data: str | None, epochs: float | None, iterations: int | None
) -> list[str]:
    """Return the options that a resumed run may change, as arguments."""
    options = ["--data", data] if data is not None else []
    options += ["--epochs", f"{epochs:g}"] if epochs is not None else []
    return options + (["--iterations", f"{iterations}"] if iterations is not None else [])


def _log_recipe(recipe: Recipe) -> None:
    logging.getLogger("resnets").info(
        "training %s on %s: recipe %s, %s",
        recipe.net_name,
        Path(recipe.data.source).name,
        recipe.name,
        format_duration(recipe.duration),
    )


def _parse_fields(fields: Settings, recipe: str, run: str | None) -> dict[str, str]:
    """Return the values of --set, and of the run that the recipe qat starts from."""
    settings = parse_settings(fields)
    if run is None:
        return settings
    if recipe != "qat":
        raise ConfigError(f"{run}: only the recipe qat accepts a run; use --set weights={run}")
    if "weights" in settings:
        raise ConfigError(f"--set weights: {run} is given as well; omit one of them")
    return {**settings, "weights": run}


def _print_recipes() -> None:
    from resnets.recipes import RECIPES

    for name, make in RECIPES.items():
        echo(f"{name}\n    " + inspect.cleandoc(make.__doc__ or "").replace("\n", "\n    ") + "\n")


def _print_result(result: dict[str, Any], folder: Path) -> None:
    from resnets.data.dataset.summary import wrap_entry
    from resnets.report.run import SHORT, SPLITS, format_metric, list_metrics

    metrics = {name: SHORT.get(name, title) for name, title in list_metrics(result).items()}
    splits = {name: result[name] for name in SPLITS if name in result}
    intervals = any("top1_interval" in each for each in splits.values())
    if intervals:
        metrics.pop("loss", None)
    table = Table()
    table.add_column("split")
    for name, title in metrics.items():
        table.add_column(title, justify="right")
        if name == "top1_error" and intervals:
            table.add_column("95% CI", justify="right")
    unit = result["data_summary"]["unit"]
    table.add_column(unit, justify="right")
    for split, each in splits.items():
        cells = []
        for name in metrics:
            cells.append(format_metric(name, each.get(name)))
            if name == "top1_error" and intervals:
                interval = each.get("top1_interval")
                cells.append("" if interval is None else "{:.1f}-{:.1f}%".format(*interval))
        table.add_row(split, *cells, f"{each['examples']:,}")
    Console().print(table)
    for split, each in splits.items():
        for line in wrap_entry(split, each["protocol"]):
            echo(line)
    for split, each in splits.items():
        for text in each.get("warnings", ()):
            for line in wrap_entry("warning", f"{split}: {text}"):
                echo(line)
    if (calibration := result.get("calibration")) is not None:
        for line in wrap_entry("note", _format_calibration(calibration)):
            echo(line)
    speed = f"{result['images_per_second']:,.0f} {unit}/s"
    echo(f"\n{result['seconds']:.0f} s of training, {speed}")
    for what, file in (("report", "report.html"), ("curves", "curves.svg")):
        echo(f"{what}: {folder / file}")


def _next_commands(recipe: Recipe, folder: Path) -> list[str]:
    """Return what can be done with a finished run, as arguments of `resnets`."""
    run = shlex.quote(str(folder))
    if recipe.task == "text":
        return [f"predict {run} 'TEXT TO CONTINUE'"]
    if recipe.task == "signals":
        return [f"predict {run} FILE.csv", f"export {run}"]
    if recipe.detect.train_part == "proposals":  # it finds no objects; the next of the four steps
        words = ["train", recipe.name, "--model", recipe.model.name, "--data", recipe.data.source]
        words += ["--set", "detect.train_part=regions", "--set"]
        if recipe.detect.freeze_shared:
            words += [f"weights={folder}", "--set", "detect.freeze_shared=true"]
        else:
            words += [f"detect.proposals_from={folder}"]
        return [shlex.join(words)]
    if recipe.detect.proposals_from is not None:  # of another network
        return [f"predict {run} IMAGE..."]
    return [f"predict {run} IMAGE...", f"export {run}", f"serve {run}"]


def _format_calibration(calibration: dict[str, Any]) -> str:
    """Format what temperature scaling fitted on the validation images, in one line."""
    if calibration.get("note"):
        return str(calibration["note"])
    before, after = calibration["before"], calibration["after"]
    return (
        f"temperature {calibration['temperature']:.3g} fitted on"
        f" {calibration['images']:,} validation images:"
        f" loss {before['loss']:.4f} to {after['loss']:.4f}, calibration error"
        f" {before['calibration_error']:.4f} to {after['calibration_error']:.4f}"
    )
