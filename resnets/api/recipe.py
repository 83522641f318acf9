"""Select a recipe by name or file, and apply the options of a command or call.

This module must not import torch: `resnets train` prints its first line before it does.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from resnets import recipes
from resnets.config import (
    DEFAULTS,
    ConfigError,
    ModelSpec,
    Recipe,
    check_explicit_fields,
    explicit_fields,
    flatten_fields,
    from_toml,
    iter_fields,
    parse_duration,
    read_field_names,
    replace_fields,
)
from resnets.config.aliases import current_path
from resnets.config.data import data_source
from resnets.models import catalog
from resnets.recipes.detection import split_name
from resnets.utils.printable import without_log

log = logging.getLogger("resnets")

# Options that set a field of the recipe.
OPTIONS = {"data.source": "--data", "duration": "--epochs or --iterations", "seed": "--seed"}


def choose_recipe(
    recipe: str | Path | Recipe,
    *,
    data: str | PathLike[str] | None = None,
    model: str | ModelSpec | None = None,
    duration: str | None = None,
    seed: int | None = None,
    fields: Mapping[str, Any] | None = None,
    where: str = "--set",
) -> Recipe:
    """Return `recipe` (a name, .toml file or value) with the changes applied.

    Args:
        recipe: A name (see `resnets.recipes`), a .toml file or a `Recipe`.
        data: Data set: a name or a path.
        model: A catalog name (for a detector with its head, such as resnet50-fpn) or a `ModelSpec`.
        duration: Such as "30ep" or "6400it".
        seed: Random seed.
        fields: Other recipe fields, dotted ("optim.lr": 0.1) or nested ("optim": {"lr": 0.1}).
            Strings are parsed as TOML where possible.
        where: Name of `fields` in error messages.

    Raises ConfigError, also for fields that the recipe's task does not read
    (`check_explicit_fields`). Logs warnings about fields without effect.
    """
    is_name = isinstance(recipe, str) and not recipe.endswith(".toml")
    if isinstance(recipe, Recipe):
        chosen = recipe
    elif is_name:
        chosen = recipes.recipe(str(recipe), model if isinstance(model, str) else None)
        if recipe == "qat" and (weights := dict(flatten_fields(fields or {})).get("weights")):
            named = model if isinstance(model, str) else None
            path = fspath(weights) if isinstance(weights, PathLike) else str(weights)
            chosen = _fine_tune_int8(path, chosen, named, has_data=data is not None)
    else:
        chosen = from_toml(recipe)
    if isinstance(model, ModelSpec) or (model is not None and not is_name):
        chosen = _with_model(chosen, model)
    changes: dict[str, Any] = {}
    if data is not None:
        changes["data.source"] = data_source(data)
    if duration is not None:
        changes["duration"] = duration
    if seed is not None:
        changes["seed"] = seed
    chosen = replace_fields(chosen, changes)
    for path in map(current_path, dict(flatten_fields(fields or {}))):
        if path in changes:
            raise ConfigError(f"{where} {path}: also set by {OPTIONS[path]}; omit one of them")
    chosen = replace_fields(chosen, dict(flatten_fields(fields or {})), where)
    warnings = check_explicit_fields(chosen, list(explicit_fields(fields or {})), where)
    if isinstance(recipe, Recipe):
        # A Recipe has all fields: only those that its task never reads are refused.
        changed = [path for path, value in iter_fields(recipe) if value != DEFAULTS[path]]
        check_explicit_fields(chosen, (), "recipe", changed)
    elif not is_name:
        warnings += check_explicit_fields(chosen, (), str(recipe), read_field_names(recipe))
    for warning in warnings:
        log.warning("%s", warning)
    return chosen


def _fine_tune_int8(weights: str, qat: Recipe, model: str | None, *, has_data: bool) -> Recipe:
    """Return recipe `qat` for `weights`, completed from the recipe of their run.

    The learning rate and duration are a tenth of the run's. model: catalog name of weights that do
    not specify their model; other weights must be of this model.
    """
    from resnets.weights.load import LoadOptions, load_classifier  # deferred: slow to import

    with without_log():  # training reads them again
        net = load_classifier(weights, LoadOptions(model), need="head")
    run = net.recipe
    if run is None:
        if not has_data:
            raise ConfigError(f"{weights}: does not state its training data; add --data")
        return dataclasses.replace(qat, model=net.spec, weights=weights)
    amount, unit = parse_duration(run.duration, "duration")
    if unit == "it":
        amount = max(10.0, amount)
    return dataclasses.replace(
        qat,
        task=run.task,
        model=run.model,
        data=run.data,
        loss=run.loss,
        optim=dataclasses.replace(run.optim, lr=run.optim.lr / 10),
        duration=f"{round(amount / 10) if unit == 'it' else amount / 10:g}{unit}",
        batch_size=run.batch_size,
        micro_batch=run.micro_batch,
        norm_batch=run.norm_batch,
        sync_norm=run.sync_norm,
        weights=weights,
    )


def choose_duration(epochs: float | None, iterations: int | None) -> str | None:
    """Return the length of a run as in recipes ("30ep", "6400it"), or None if neither is set."""
    if epochs is not None and iterations is not None:
        raise ConfigError("--epochs and --iterations cannot be combined; give one of them")
    if epochs is None and iterations is None:
        return None
    duration = f"{iterations}it" if epochs is None else f"{epochs:g}ep"
    parse_duration(duration, "--epochs/--iterations")
    return duration


def _with_model(recipe: Recipe, model: str | ModelSpec) -> Recipe:
    """Return the recipe for another model; data set, classes and channels do not change."""
    current, detect = recipe.model, recipe.detect
    if recipe.task == "text":
        if isinstance(model, ModelSpec):
            raise ConfigError(f"model: {model.name} is for images; task 'text' needs a transformer")
        base = catalog.transformer_spec(model)
        transformer = dataclasses.replace(
            recipe.transformer, name=base.name, depth=base.depth, residual=base.residual
        )
        return dataclasses.replace(recipe, transformer=transformer)
    if isinstance(model, ModelSpec):
        spec = model
    elif recipe.task in ("classify", "signals"):
        spec = dataclasses.replace(catalog.spec(model), dims=current.dims)
    else:
        spec, head = split_name(model, detect.head)
        detect = dataclasses.replace(detect, head=head)
    spec = dataclasses.replace(
        spec, num_classes=current.num_classes, in_channels=current.in_channels
    )
    return dataclasses.replace(recipe, model=spec, detect=detect)
