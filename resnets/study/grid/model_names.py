"""Names of models in a grid, with OPTION or FIELD=VALUE after colons: specs, fields, families."""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from typing import Literal, get_args

from resnets.config import Block, ConfigError, ModelSpec, Recipe, TransformerSpec, replace_fields
from resnets.models import catalog

Spec = ModelSpec | TransformerSpec

OPTIONS: tuple[Literal["A", "B", "C", "none"], ...] = ("A", "B", "C", "none")
# Fields of a cell's recipe that the grid decides, and the option that sets each.
GRID_FIELDS = {
    "seed": "--seeds",
    "task": "--recipe",
    "duration": "--budget",
    "data.source": "--data",
    "data.train_fraction": "--subsets of resnets study data",
    "data.folds": "--k of resnets folds",
    "data.fold": "--k of resnets folds",
    "model.shortcut": "the model's name, such as cifar-resnet20:B",
    "model.name": "the model's name",
    "transformer.name": "the model's name",
}


def split_names(text: str) -> tuple[str, ...]:
    """Split names or values at commas, except for commas inside brackets."""
    parts = re.split(r",(?![^\[]*\])", text)
    return tuple(part.strip() for part in parts if part.strip())


@cache
def model_spec(model: str) -> ModelSpec:
    """Return the spec of the model NAME, with OPTION or FIELD=VALUE after colons.

    `model` is also the name of the spec. Raises ConfigError for an unknown name, option or field,
    and for an option of a model without blocks.
    """
    name, *words = model.split(":")
    spec = catalog.spec(name)
    for option in (word for word in words if "=" not in word):
        if option not in OPTIONS:
            raise ConfigError(
                f"{model}: unknown shortcut option {option!r}; options: {', '.join(OPTIONS)}, or "
                "FIELD=VALUE"
            )
        if not spec.residual:
            raise ConfigError(f"{model}: {name} has no shortcuts to choose an option for")
    if not words:
        return spec
    changes = {path: each for path, each in model_fields(model).items() if path[:6] == "model."}
    changed = replace_fields(Recipe(model=spec), {"model.name": model, **changes}, where=model)
    return changed.model


@cache
def network_spec(model: str) -> Spec:
    """Return the spec of an image classifier or transformer, whose options are residual forms."""
    name = model.partition(":")[0]
    if not catalog.is_transformer(name):
        return model_spec(model)
    changes = {
        path: each for path, each in model_fields(model).items() if path.startswith("transformer.")
    }
    base = Recipe(task="text", transformer=catalog.transformer_spec(name))
    return replace_fields(base, {"transformer.name": model, **changes}, where=model).transformer


def field_path(model: str, path: str) -> str:
    """Return the path in a recipe of a field in a model's name or a sweep.

    A name without a dot is a field of the model or, if that has none of this name, of the recipe:
    norm is model.norm (transformer.norm of a transformer), batch_size is batch_size.
    """
    is_text = catalog.is_transformer(model.partition(":")[0])
    table, spec = ("transformer", TransformerSpec) if is_text else ("model", ModelSpec)
    own = {field.name for field in dataclasses.fields(spec)}
    top = {
        field.name
        for field in dataclasses.fields(Recipe)
        if not dataclasses.is_dataclass(field.default_factory)  # a table
    }
    return path if "." in path or path in top - own else f"{table}.{path}"


def model_fields(model: str) -> dict[str, str]:
    """Return the recipe fields set after the colons of a model's name: path -> value as text."""
    name, *words = model.split(":")
    option = "residual" if catalog.is_transformer(name) else "shortcut"
    fields: dict[str, str] = {}
    for word in words:
        path, equals, value = word.partition("=")
        path, value = (path, value) if equals else (option, f'"{word}"')
        path = field_path(name, path)
        if path == "model.block" and value not in get_args(Block):
            continue  # `custom_block`
        if path in fields:
            raise ConfigError(f"{model}: {path} is given twice")
        if path in GRID_FIELDS and path != "model.shortcut":
            raise ConfigError(f"{model}: the grid decides {path}; use {GRID_FIELDS[path]}")
        fields[path] = value
    return fields


def custom_block(model: str) -> str | None:
    """Return the name of the block from outside the package in a model's name, if any."""
    words = (word.partition("=") for word in model.split(":")[1:])
    blocks = [value for path, _, value in words if path in ("block", "model.block")]
    return next((value for value in blocks if value not in get_args(Block)), None)


# Names of families of transformers.
RESIDUAL_NAMES = {
    "none": "plain",
    "pre-norm": "residual",
    "post-norm": "post-norm",
    "rezero": "ReZero",
    "deepnorm": "DeepNorm",
    "hyper": "hyper-connections",
    "mhc": "mHC",
    "attention": "attention residuals",
}
# Names of families of convolutional networks by the order of a block's layers.
ORDER_NAMES = {
    "": "residual",
    "preact": "pre-activation",
    "relu-preact": "ReLU-only pre-activation",
    "norm-after-add": "BN after addition",
    "relu-before-add": "ReLU before addition",
}


def family_name(spec: Spec) -> str:
    """Return the family of a network in words, the same for all depths and shortcut options."""
    if isinstance(spec, TransformerSpec):
        return RESIDUAL_NAMES[spec.residual]
    words = [ORDER_NAMES[spec.order] if spec.residual else "VGG" if spec.is_vgg else "plain"]
    if not spec.residual and spec.order:
        words.append(ORDER_NAMES[spec.order])
    if spec.is_bottleneck:
        words.append("bottleneck")
    if spec.shortcut_gate != "none":
        gate = "highway" if spec.shortcut_gate == "highway" else f"{spec.shortcut_gate} gate"
        words.append(f"{gate} {spec.gate_bias:g}")
    if spec.shortcut_scale != 1:
        words.append(f"{spec.shortcut_scale:g} x")
    if spec.shortcut_dropout:
        words.append(f"dropout {spec.shortcut_dropout:g}")
    scale = spec.branch_scale
    if scale != 1:
        words.append(scale if isinstance(scale, str) else f"{scale:g} F")
    if (label := custom_block(spec.name)) is not None:
        words.append(label)
    if spec.norm != "batch" and not spec.is_vgg:
        words.append("no norm" if spec.norm == "none" else "group norm")
    return ", ".join(words)
