"""From a recipe to a finished run: the only place that knows every task and the loop."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from resnets import host, native
from resnets.classify import ClassificationWork
from resnets.config import ConfigError, Recipe, dump_json, from_toml, to_toml
from resnets.models import cost, fused
from resnets.report import write_report
from resnets.train.log import RunLog
from resnets.train.loop import fit
from resnets.train.state import Saver, TrainState, new_state
from resnets.train.work import Means, Work
from resnets.weights.checkpoint import LAST, find_checkpoint, read_checkpoint

if TYPE_CHECKING:
    from resnets.detect.work import DetectionWork

# Compiling costs tens of seconds; it pays where training takes minutes. Sustained training rates,
# multiply-adds a second, low enough that "auto" errs towards not compiling.
RATE = {"cpu": 60e9, "cuda": 10e12, "mps": 1e12}
PAYS_AFTER_SECONDS = 300.0
RESULT = "result.json"


def run(recipe: Recipe, out: Path, *, device: str = "auto", quiet: bool = False) -> dict[str, Any]:
    """Train by `recipe` into the new folder `out`; returns the contents of its result.json.

    Data and model are opened before anything is written. Raises ConfigError where `out` holds a
    run already, DataError, Diverged, and Stopped when a signal asked the run to stop.
    """
    if (out / "recipe.toml").exists():
        raise ConfigError(f"{out} holds a run already; go on with --resume {out}, or other --out")
    work = _kind(recipe).open(recipe)
    means = choose_means(work.recipe, work.model, work.examples, device)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.toml").write_text(to_toml(work.recipe), encoding="utf-8")
    return _train(work, out, means, resuming=False, quiet=quiet)


def resume(
    out: Path, *, data: str | None = None, device: str = "auto", quiet: bool = False
) -> dict[str, Any]:
    """Go on with the run in `out` at its last checkpoint; on one CPU bitwise as if never stopped.

    `data` says where the set lies now, if it moved. A run stopped before its first checkpoint
    starts again. Raises ConfigError and CheckpointError.
    """
    if not (out / "recipe.toml").is_file():
        raise ConfigError(f"{out}: no run to resume here (no recipe.toml)")
    recipe = from_toml(out / "recipe.toml")
    if data is not None:
        recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, source=data))
    kind, last = _kind(recipe), out / "checkpoints" / LAST
    work = kind.reopen(recipe, read_checkpoint(last)) if last.exists() else kind.open(recipe)
    means = choose_means(recipe, work.model, work.examples, device)
    return _train(work, out, means, resuming=True, quiet=quiet)


def _kind(recipe: Recipe) -> type[ClassificationWork] | type[DetectionWork]:
    if recipe.task == "classify":
        return ClassificationWork
    from resnets.detect.work import DetectionWork  # its libraries take a second to import

    return DetectionWork


def choose_means(recipe: Recipe, net: Any, examples: int, device: str) -> Means:
    """Resolve what the recipe leaves to the machine: device, precision, compilation, allocator."""
    chosen = host.pick_device(device)
    keeps = chosen.type == "cpu" and host.keep_pages()
    precision = host.pick_precision(recipe.precision, chosen)
    compiled = recipe.compile == "on"
    fuses = chosen.type == "cpu" and not compiled and native.load("norm") is not None
    can = not fuses and recipe.task == "classify" and (chosen.type == "cuda" or shutil.which("c++"))
    if recipe.compile == "auto" and can:
        images = recipe.steps(recipe.duration, examples) * recipe.batch_size
        work = 3 * images * cost.count(net, recipe.model.input_size).multiply_adds
        compiled = work / RATE.get(chosen.type, RATE["cpu"]) > PAYS_AFTER_SECONDS
    return Means(str(chosen), precision, compiled, fuses, keeps)


def _train(work: Work, out: Path, means: Means, *, resuming: bool, quiet: bool) -> dict[str, Any]:
    recipe, device = work.recipe, torch.device(means.device)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    work.model.to(device).to(memory_format=layout)
    going_on = resuming and (out / "checkpoints" / LAST).exists()
    if not going_on:
        work.begin(device)
    if means.fused:
        fused.use_kernels(work.model)
    forward = work.compiled() if means.compiled else work.model
    stream = work.stream(device)
    total = recipe.steps(recipe.duration, stream.examples)
    state = new_state(work.model, recipe, total)
    fixed = {**work.fixed, "means": dataclasses.asdict(means)}
    saver = Saver(out, recipe, fixed, work.mean_image)
    if going_on:
        saver.restore(state)
    dump_json(host.describe(device) | dataclasses.asdict(means), out / "environment.json")
    run_log = RunLog(out, total, state.step, quiet)
    try:
        run_log.say(_headline(work, means, state.step, out))
        fit(
            state,
            recipe,
            stream,
            work.loss_fn,
            evaluate=work.evaluator(means),
            minimise=work.minimise,
            forward=forward,
            autocast=means.autocast(),
            log=run_log,
            saver=saver,
        )
    finally:
        run_log.close()
    return _conclude(work, out, state, means)


def _headline(work: Work, means: Means, step: int, out: Path) -> str:
    parts = [work.title, means.precision, host.device_name(torch.device(means.device))]
    parts += ["compiled"] if means.compiled else []
    parts += ["fused norms"] if means.fused else []
    parts += ["allocator keeps its pages"] if means.keeps_pages else []
    parts += [f"going on at step {step:,}"] if step else []
    return f"{out}: " + ", ".join(parts)


def _conclude(work: Work, out: Path, state: TrainState, means: Means) -> dict[str, Any]:
    """Measure the run's weights on validation and, this once, on test; write result and report."""
    recipe, path = work.recipe, find_checkpoint(out)
    result = work.conclude(path, means)
    result["train"] = {
        **state.epoch.means(),
        "examples": state.epoch.count,
        "protocol": "mean over the last epoch while training: augmented pictures, moving weights",
        **result.get("train", {}),
    }
    result["seconds"] = state.seconds
    images = state.step * recipe.batch_size
    result["images_per_second"] = images / max(1e-9, state.seconds)
    result["net"], result["data"], result["checkpoint"] = recipe.net_name, work.data, path.name
    dump_json(result, out / RESULT)
    write_report(out, recipe, result)
    return result
