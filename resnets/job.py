"""From a recipe to a finished run: the only place that knows both training and evaluation."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnets import host
from resnets.config import ConfigError, Recipe, dump_json, from_toml, to_dict, to_toml
from resnets.data import FileSplit, Split, Splits, open_data, prepare
from resnets.data.loader import TrainStream, eval_batches
from resnets.data.preprocess import Preprocessor, fit_preprocess
from resnets.evaluate import Evaluation, describe_protocol, evaluate_model
from resnets.models import Net, build, cost
from resnets.report import write_report
from resnets.train.log import RunLog
from resnets.train.loop import Evaluate, fit
from resnets.train.loss import classification
from resnets.train.state import Saver, TrainState, new_state
from resnets.weights.adapt import fit_known
from resnets.weights.checkpoint import LAST, CheckpointError, find_checkpoint, read_checkpoint
from resnets.weights.initial import net_from, read_weights
from resnets.weights.load import load, read_preprocess

log = logging.getLogger("resnets")

# Compiling costs tens of seconds; it pays where training takes minutes. Sustained training rates,
# multiply-adds a second, low enough that "auto" errs towards not compiling.
RATE = {"cpu": 60e9, "cuda": 10e12, "mps": 1e12}
PAYS_AFTER_SECONDS = 300.0
RESULT = "result.json"
FIGURES = ("top1_error", "top5_error", "loss")


@dataclass(frozen=True)
class Means:
    """What "auto" became on this machine; kept in the checkpoint, so that a resumed run agrees."""

    device: str
    precision: str
    compiled: bool
    keeps_pages: bool


def run(recipe: Recipe, out: Path, *, device: str = "auto", quiet: bool = False) -> dict[str, Any]:
    """Train by `recipe` into the new folder `out`; returns the contents of its result.json.

    Data and model are opened before anything is written. Raises ConfigError where `out` holds a
    run already, DataError, Diverged, and Stopped when a signal asked the run to stop.
    """
    if (out / "recipe.toml").exists():
        raise ConfigError(f"{out} holds a run already; go on with --resume {out}, or other --out")
    splits = open_data(recipe.data)
    recipe, net, preprocessor = _prepare(recipe, splits)
    means = choose_means(recipe, net, len(splits.train), device)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    return _train(recipe, out, splits, net, preprocessor, means, resuming=False, quiet=quiet)


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
    splits = open_data(recipe.data)
    last = out / "checkpoints" / LAST
    if not last.exists():
        recipe, net, preprocessor = _prepare(recipe, splits)
    else:
        checkpoint = read_checkpoint(last)
        if tuple(checkpoint.meta["classes"]) != splits.classes:
            raise CheckpointError(f"{out}: was trained on other classes than {splits.name} has")
        # All that the initial weights gave is in the checkpoint; they need not be at hand again.
        net, preprocessor = build(recipe.model), read_preprocess(checkpoint)
        net.recompute = recipe.recompute
    means = choose_means(recipe, net, len(splits.train), device)
    return _train(recipe, out, splits, net, preprocessor, means, resuming=True, quiet=quiet)


def _prepare(recipe: Recipe, splits: Splits) -> tuple[Recipe, Net, Preprocessor]:
    """Fit the recipe to the data's classes and picture size; build the net and preprocessing."""
    data = recipe.data
    weights = None if recipe.weights is None else read_weights(recipe.weights, recipe.model)
    if data.size is None and isinstance(splits.train, FileSplit):
        data = dataclasses.replace(data, size=recipe.model.input_size)
        recipe = dataclasses.replace(recipe, data=data)
    if weights is None or weights.preprocess is None:
        preprocessor = fit_preprocess(splits.train, data, recipe.model.in_channels)
    else:
        log.info("%s: normalisation from the weights, not data.normalise", recipe.weights)
        preprocessor = fit_known(weights.preprocess, splits.train, data, recipe.model.in_channels)
    spec = dataclasses.replace(
        recipe.model, num_classes=len(splits.classes), input_size=preprocessor.spec.size
    )
    torch.manual_seed(recipe.seed)
    net = build(spec) if weights is None else net_from(weights, spec)
    net.recompute = recipe.recompute
    return dataclasses.replace(recipe, model=net.spec), net, preprocessor


def choose_means(recipe: Recipe, net: Net, examples: int, device: str) -> Means:
    """Resolve what the recipe leaves to the machine: device, precision, compilation, allocator."""
    chosen = host.pick_device(device)
    keeps = chosen.type == "cpu" and host.keep_pages()
    precision = host.pick_precision(recipe.precision, chosen)
    compiled = recipe.compile == "on"
    if recipe.compile == "auto" and (chosen.type == "cuda" or shutil.which("c++")):
        images = recipe.steps(recipe.duration, examples) * recipe.batch_size
        work = 3 * images * cost.count(net, recipe.model.input_size).multiply_adds
        compiled = work / RATE.get(chosen.type, RATE["cpu"]) > PAYS_AFTER_SECONDS
    return Means(str(chosen), precision, compiled, keeps)


def _train(
    recipe: Recipe,
    out: Path,
    splits: Splits,
    net: Net,
    preprocessor: Preprocessor,
    means: Means,
    *,
    resuming: bool,
    quiet: bool,
) -> dict[str, Any]:
    device = torch.device(means.device)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    net.to(device).to(memory_format=layout)
    stream = TrainStream(
        splits.train,
        recipe.data,
        preprocessor,
        recipe.batch_size,
        recipe.seed,
        device,
        channels_last=recipe.channels_last,
    )
    state = new_state(net, recipe, recipe.steps(recipe.duration, stream.examples))
    fixed = {
        "classes": list(splits.classes),
        "preprocess": to_dict(preprocessor.spec),
        "means": dataclasses.asdict(means),
    }
    saver = Saver(out, recipe, fixed, preprocessor.mean_image)
    if resuming and (saver.folder / LAST).exists():
        saver.restore(state)
    dump_json(host.describe(device) | dataclasses.asdict(means), out / "environment.json")
    run_log = RunLog(out, recipe.steps(recipe.duration, stream.examples), state.step, quiet)
    try:
        run_log.say(_headline(recipe, splits, means, state.step, out))
        fit(
            state,
            recipe,
            stream,
            classification(recipe.label_smoothing),
            evaluate=_evaluator(recipe, splits, preprocessor, means),
            forward=torch.compile(net) if means.compiled else net,
            autocast=_autocast(means),
            log=run_log,
            saver=saver,
        )
    finally:
        run_log.close()
    return _conclude(recipe, out, splits, state, means)


def _headline(recipe: Recipe, splits: Splits, means: Means, step: int, out: Path) -> str:
    parts = [
        f"{recipe.model.name} on {splits.name}: {len(splits.train):,} training pictures",
        f"{len(splits.val):,} validation" if splits.val is not None else "no validation split",
        means.precision,
        host.device_name(torch.device(means.device)),
    ]
    parts += ["compiled"] if means.compiled else []
    parts += ["allocator keeps its pages"] if means.keeps_pages else []
    parts += [f"going on at step {step:,}"] if step else []
    return f"{out}: " + ", ".join(parts)


def _autocast(means: Means) -> torch.autocast:
    return torch.autocast(
        torch.device(means.device).type,
        dtype=torch.bfloat16,
        enabled=means.precision == "bfloat16",
    )


def _measure(
    net: nn.Module,
    split: Split,
    preprocessor: Preprocessor,
    recipe: Recipe,
    means: Means,
    weights: str,
) -> Evaluation:
    device = torch.device(means.device)
    return evaluate_model(
        net,
        eval_batches(split, preprocessor, recipe.eval.batch_size, device),
        split.classes,
        protocol=describe_protocol(
            size=preprocessor.spec.size,
            precision=means.precision,
            weights=weights,
            data=split.description,
        ),
        precision=means.precision,
        device=device,
    )


def _evaluator(
    recipe: Recipe, splits: Splits, preprocessor: Preprocessor, means: Means
) -> Evaluate | None:
    """What the loop calls to measure a model; None where there is nothing to measure on."""
    watched = {"val": splits.val, "test": splits.test() if recipe.eval.watch_test else None}
    present = {
        name: prepare(split, preprocessor) for name, split in watched.items() if split is not None
    }

    def evaluate(model: nn.Module) -> dict[str, dict[str, float]]:
        figures = {}
        for name, split in present.items():
            measured = _measure(model, split, preprocessor, recipe, means, "training")
            figures[name] = {key: getattr(measured, key) for key in FIGURES}
        return figures

    return evaluate if present else None


def _conclude(
    recipe: Recipe, out: Path, splits: Splits, state: TrainState, means: Means
) -> dict[str, Any]:
    """Measure the run's weights on validation and, this once, on test; write result and report."""
    path = find_checkpoint(out)
    net = load(path).to(means.device)
    result: dict[str, Any] = {}
    for name, split in (("test", splits.test()), ("val", splits.val)):
        if split is None:
            continue
        measured = _measure(net, split, net.preprocess, recipe, means, net.origin).to_json()
        result[name] = {key: measured[key] for key in (*FIGURES, "examples", "protocol")}
    result["train"] = {
        **state.epoch.means(),
        "examples": state.epoch.count,
        "protocol": "mean over the last epoch while training: augmented pictures, moving weights",
    }
    result["seconds"] = state.seconds
    images = state.step * recipe.batch_size
    result["images_per_second"] = images / max(1e-9, state.seconds)
    result["net"], result["data"], result["checkpoint"] = recipe.model.name, splits.name, path.name
    dump_json(result, out / RESULT)
    write_report(out, recipe, result)
    return result
