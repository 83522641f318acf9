"""Names of models in a grid, with OPTION or FIELD=VALUE after colons, and what they stand for."""

from __future__ import annotations

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
    """The spec of the model called NAME, with OPTION or FIELD=VALUE after colons.

    That is also the name of the spec. Raises ConfigError for an unknown name, option or field, and
    for an option of a model without blocks.
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
    """`model_spec`, or that of a transformer: an option is then a residual form."""
    name = model.partition(":")[0]
    if not catalog.is_transformer(name):
        return model_spec(model)
    changes = {
        path: each for path, each in model_fields(model).items() if path.startswith("transformer.")
    }
    base = Recipe(task="text", transformer=catalog.transformer_spec(name))
    return replace_fields(base, {"transformer.name": model, **changes}, where=model).transformer


def model_fields(model: str) -> dict[str, str]:
    """The recipe fields that the words after the colons of a model's name set, as text."""
    name, *words = model.split(":")
    is_text = catalog.is_transformer(name)
    table, option = ("transformer", "residual") if is_text else ("model", "shortcut")
    found: dict[str, str] = {}
    for word in words:
        path, equals, value = word.partition("=")
        path, value = (path, value) if equals else (option, f'"{word}"')
        path = path if "." in path else f"{table}.{path}"
        if path == "model.block" and value not in get_args(Block):
            continue  # `custom_block`
        if path in found:
            raise ConfigError(f"{model}: {path} is given twice")
        if path in GRID_FIELDS and path != "model.shortcut":
            raise ConfigError(f"{model}: the grid decides {path}; use {GRID_FIELDS[path]}")
        found[path] = value
    return found


def custom_block(model: str) -> str | None:
    """The name of the block from outside the package that a model's name asks for, if any."""
    words = (word.partition("=") for word in model.split(":")[1:])
    named = [value for path, _, value in words if path in ("block", "model.block")]
    return next((value for value in named if value not in get_args(Block)), None)


# How a family of transformers is called.
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
# How a family of models is called by its fields, from the most telling one on.
ORDER_NAMES = {
    "": "residual",
    "preact": "pre-activation",
    "relu-preact": "ReLU-only pre-activation",
    "norm-after-add": "BN after addition",
    "relu-before-add": "ReLU before addition",
}


def family(spec: Spec) -> str:
    """The form of a network in words, the same for all depths and shortcut options."""
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
