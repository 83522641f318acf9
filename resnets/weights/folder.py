"""The folder in which a net travels: config.json beside model.safetensors, as timm has it.

What timm has no word for stands under "resnets" in config.json: the whole spec, preprocessing,
recipe. Nets that torchvision and timm have too carry torchvision's tensor names, which both
read; others carry ours.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from resnets.config import (
    ConfigError,
    ModelSpec,
    Preprocess,
    Recipe,
    dump_json,
    from_dict,
    stored_recipe,
    to_dict,
)
from resnets.models import Net, catalog
from resnets.weights.errors import WeightsError
from resnets.weights.maps import name_map

FORMAT = 1
CONFIG, MODEL, MEAN = "config.json", "model.safetensors", "mean_image.safetensors"
MODELS = (MODEL, "pytorch_model.bin")  # where other libraries put the tensors
# Fields that change nothing in what given tensors compute.
FREE = (
    *("name", "init", "zero_init_residual", "dropout", "drop_path"),
    *("num_classes", "in_channels", "input_size"),
)


@dataclass(frozen=True)
class Described:
    """What config.json says of the tensors beside it; None and () where it does not say."""

    spec: ModelSpec | None = None
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()
    recipe: Recipe | None = None


def published_name(spec: ModelSpec) -> str | None:
    """What torchvision and timm call the net that `spec` builds; None where they have none."""
    from torchvision import models

    theirs = set(models.list_models(module=models))
    for name in catalog.names():
        if name.replace("-", "_") in theirs and same_net(catalog.spec(name), spec) is None:
            return name.replace("-", "_")
    return None


def same_net(one: ModelSpec, other: ModelSpec) -> str | None:
    """The first field in which two nets compute otherwise, given fitting tensors; None if none."""
    fields = (entry.name for entry in dataclasses.fields(ModelSpec) if entry.name not in FREE)
    return next((name for name in fields if getattr(one, name) != getattr(other, name)), None)


def catalog_name(theirs: str) -> str | None:
    """Our name of the net that torchvision and timm call `theirs`."""
    return next((name for name in catalog.names() if name.replace("-", "_") == theirs), None)


def write_folder(net: Net, out: Path, licence: str | None) -> None:
    """Write `net` (as `resnets.load` gives it) into the existing folder `out`."""
    theirs = published_name(net.spec)
    state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    if theirs is not None:
        state = name_map("torchvision", net).to_foreign(state)
    safetensors.torch.save_file(state, out / MODEL, metadata={"format": "pt"})
    if net.preprocess.mean_image is not None:
        safetensors.torch.save_file({"mean_image": net.preprocess.mean_image}, out / MEAN)
    dump_json(_config(net, theirs, licence), out / CONFIG)


def _config(net: Net, theirs: str | None, licence: str | None) -> dict[str, Any]:
    """timm's config.json, and ours in it."""
    spec, seen = net.spec, net.preprocess.spec
    layers = {"first_conv": "conv1", "classifier": "fc"}
    if spec.block == "vgg":
        layers = {"first_conv": "features.0", "classifier": "head.fc"}
    config: dict[str, Any] = {
        "architecture": theirs or spec.name,
        "num_classes": spec.num_classes,
        "num_features": net.head.in_features,
        "label_names": list(net.classes),
        "pretrained_cfg": {
            "input_size": [spec.in_channels, seen.size, seen.size],
            "fixed_input_size": False,
            "interpolation": seen.interpolation,
            "crop_pct": seen.size / seen.resize,
            "crop_mode": "center",
            "mean": list(seen.mean),
            "std": list(seen.std),
            "num_classes": spec.num_classes,
            **layers,
            **({} if licence is None else {"license": licence}),
        },
    }
    if spec.in_channels != 3:
        config["model_args"] = {"in_chans": spec.in_channels}
    config["resnets"] = {
        "format": FORMAT,
        "model": to_dict(spec),
        "preprocess": to_dict(seen),
        "classes": list(net.classes),
        **({} if net.recipe is None else {"recipe": to_dict(net.recipe)}),
    }
    return config


def read_config(path: Path) -> Described:
    """What config.json in the folder `path` says, written by us or by timm; WeightsError if broken.

    A config.json of another library says nothing that is read here.
    """
    file = path / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if "resnets" in config:
            return _read_own(config["resnets"], str(file))
        return _read_timm(config)
    except ConfigError as error:
        raise WeightsError(str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{file}: cannot be read ({type(error).__name__}: {error})") from None


def _read_own(own: dict[str, Any], where: str) -> Described:
    if own["format"] != FORMAT:
        raise WeightsError(f"{where}: format {own['format']}, this version reads {FORMAT}")
    return Described(
        from_dict(ModelSpec, own["model"], where),
        from_dict(Preprocess, own["preprocess"], where),
        tuple(own["classes"]),
        stored_recipe(own["recipe"], where) if "recipe" in own else None,
    )


def _read_timm(config: dict[str, Any]) -> Described:
    """timm's: names of classes may be a list or a dict from index to name."""
    known = config.get("pretrained_cfg", config)
    if "input_size" not in known or "mean" not in known:
        return Described()
    channels, size, _ = known["input_size"]
    preprocess = Preprocess(
        size=size,
        resize=math.floor(size / known.get("crop_pct", 0.875)),
        channels=channels,
        mean=tuple(known["mean"]),
        std=tuple(known["std"]),
        interpolation="bicubic" if known.get("interpolation") == "bicubic" else "bilinear",
    )
    name = catalog_name(config.get("architecture", ""))
    labels = config.get("label_names", known.get("label_names", ()))
    labels = (
        [labels[key] for key in sorted(labels, key=int)] if isinstance(labels, dict) else labels
    )
    if name is None:
        return Described(None, preprocess, tuple(labels))
    classes = config.get("num_classes", known.get("num_classes", 1000))
    spec = catalog.spec(name, num_classes=classes, in_channels=channels)
    return Described(spec, preprocess, tuple(labels))
