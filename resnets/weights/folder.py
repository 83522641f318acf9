"""Model folders: config.json and model.safetensors, in the layout of timm.

What timm has no field for is under "resnets" in config.json: the whole spec, preprocessing and
recipe. Models that torchvision and timm have too use torchvision's tensor names, which both read,
models that timm alone has use its; others use ours.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch

from resnets.config import (
    SOFTMAX,
    ConfigError,
    ModelSpec,
    Postprocess,
    Preprocess,
    dump_json,
    from_dict,
    from_stored_dict,
    lock_path,
    to_dict,
)
from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import ImageClassifier, catalog
from resnets.utils.errors import reading
from resnets.weights.errors import WeightsError
from resnets.weights.heads import read_classes
from resnets.weights.name_maps.maps import name_map
from resnets.weights.readers.configs.field_handlers import apply_handlers
from resnets.weights.readers.configs.timm import ParsedConfig, names_of, read_timm
from resnets.weights.readers.configs.timm_tags import TIMM
from resnets.weights.readers.configs.transformers import (
    PROCESSOR,
    read_transformers,
    write_transformers,
)

FORMAT = 1
CONFIG, MODEL, MEAN = "config.json", "model.safetensors", "mean_image.safetensors"
MODELS = (MODEL, "pytorch_model.bin")  # where other libraries put the tensors
# Fields without effect on what given tensors compute.
FREE = (
    *("name", "init", "zero_init_residual", "gate_bias", "dropout", "drop_path"),
    "shortcut_dropout",
    *("num_classes", "in_channels", "input_size"),
)


def published_name(spec: ModelSpec) -> str | None:
    """The name of the model `spec` in timm, and in torchvision where that has it; None if new."""
    for name in catalog.names():
        if name.replace("-", "_") in TIMM and same_net(catalog.spec(name), spec) is None:
            return name.replace("-", "_")
    return None


def torchvision_names() -> set[str]:
    """Names of torchvision's classifiers."""
    from torchvision import models

    return set(models.list_models(module=models))


def same_net(one: ModelSpec, other: ModelSpec) -> str | None:
    """The first field in which two models with equal tensors compute differently, or None."""
    fields = (entry.name for entry in dataclasses.fields(ModelSpec) if entry.name not in FREE)
    return next((name for name in fields if getattr(one, name) != getattr(other, name)), None)


def write_folder(
    net: ImageClassifier,
    out: Path,
    license: str | None,
    format: Literal["timm", "transformers"] = "timm",
    dtype: torch.dtype | None = None,
) -> None:
    """Write `net` into the existing folder `out`, with its preprocessing and classes if known.

    format: "timm", or "transformers" with its config and tensor names; both include ours. dtype: of
    the stored weights of convolutions and linear layers; None is the network's own.
    ConfigError if transformers has no such model.
    """
    theirs = published_name(net.spec)
    state = {name: tensor.cpu().contiguous() for name, tensor in net.state_dict().items()}
    if dtype is not None:
        state = {name: each.to(dtype) if each.dim() > 1 else each for name, each in state.items()}
    if format == "transformers":
        seen = None if net.preprocess is None else net.preprocess.spec
        config, processor = write_transformers(net.spec, seen, net.classes)
        state = name_map("transformers", net).to_foreign(state)
        if processor is not None:
            dump_json(processor, out / PROCESSOR)
    else:
        config = _config(net, theirs, license)
        if theirs is not None:  # timm reads torchvision's names of VGG, too
            names = "torchvision" if theirs in torchvision_names() else "timm"
            state = name_map(names, net).to_foreign(state)
            if net.spec.is_preact:  # whose head is a 1x1 convolution there
                state["head.fc.weight"] = state["head.fc.weight"][:, :, None, None]
    safetensors.torch.save_file(state, out / MODEL, metadata={"format": "pt"})
    if net.preprocess is not None and net.preprocess.mean_image is not None:
        safetensors.torch.save_file({"mean_image": net.preprocess.mean_image}, out / MEAN)
    dump_json({**config, "resnets": _own(net)}, out / CONFIG)


def _config(net: ImageClassifier, theirs: str | None, license: str | None) -> dict[str, Any]:
    """timm's config.json."""
    spec, seen = net.spec, None if net.preprocess is None else net.preprocess.spec
    layers = {}
    if theirs is not None:
        names = name_map("timm", net).foreign_names
        ours = {"first_conv": net.input_layer, "classifier": "head"}
        layers = {
            key: str(names[f"{name}.weight"]).removesuffix(".weight") for key, name in ours.items()
        }
    config: dict[str, Any] = {
        "architecture": theirs or spec.name,
        "num_classes": spec.num_classes,
        "num_features": net.head.in_features,
        "label_names": list(net.classes),
        "pretrained_cfg": {
            **({} if seen is None else _seen(spec, seen)),
            "num_classes": spec.num_classes,
            **layers,
            **({} if license is None else {"license": license}),
        },
    }
    if spec.in_channels != 3:
        config["model_args"] = {"in_chans": spec.in_channels}
    return config


def _own(net: ImageClassifier) -> dict[str, Any]:
    """Fields that timm and transformers do not have."""
    return {
        "format": FORMAT,
        "model": to_dict(net.spec),
        "preprocess": None if net.preprocess is None else to_dict(net.preprocess.spec),
        "classes": list(net.classes),
        **({} if net.postprocess == SOFTMAX else {"postprocess": to_dict(net.postprocess)}),
        **({} if net.recipe is None else {"recipe": to_dict(net.recipe)}),
    }


def _seen(spec: ModelSpec, seen: Preprocess) -> dict[str, Any]:
    return {
        "input_size": [spec.in_channels, seen.size, seen.size],
        "fixed_input_size": False,
        "interpolation": seen.interpolation,
        "crop_pct": _crop_pct(seen),
        "crop_mode": "center",
        "mean": list(seen.mean),
        "std": list(seen.std),
    }


def _crop_pct(seen: Preprocess) -> float:
    """The share from which timm gets `seen.resize` again: it rounds `size / share` down."""
    share = seen.size / seen.resize
    return share if seen.size // share == seen.resize else math.nextafter(share, 0)


def read_config(path: Path) -> ParsedConfig:
    """Read config.json in the folder `path`, written by resnets, timm or transformers.

    WeightsError if it is damaged, of a model that is not supported, or has a field that is neither
    supported nor without effect.
    """
    file = path / CONFIG
    with reading(file, WeightsError):
        try:
            return _read_config(path, file)
        except ConfigError as error:
            raise WeightsError(str(error)) from None


def _read_config(path: Path, file: Path) -> ParsedConfig:
    config = _json(file)
    if "resnets" in config:
        return _read_own(config["resnets"], str(file))
    if not _of_transformers(config):
        return read_timm(config, str(file))
    processor = path / PROCESSOR
    said = _json(processor) if processor.is_file() else None
    return read_transformers(config, said, str(file))


def is_transformers(file: Path) -> bool:
    """Whether a config.json is of transformers, which stores preprocessing in another file."""
    try:
        return _of_transformers(_json(file))
    except (ConfigError, ValueError, RecursionError):
        return False  # reading it raises the error


def _of_transformers(config: dict[str, Any]) -> bool:
    return config.get("model_type") not in (None, "timm_wrapper")


def _json(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: is not a JSON object")
    return found


def _read_own(own: dict[str, Any], where: str) -> ParsedConfig:
    if own["format"] != FORMAT:
        raise WeightsError(f"{where}: format {own['format']}, this version reads {FORMAT}")
    said = apply_handlers(
        own,
        f"{where}: resnets",
        {
            "model": lambda value: _checked(from_dict(ModelSpec, value, where), where),
            "preprocess": lambda value: value and from_dict(Preprocess, value, where),
            "classes": names_of,
            "postprocess": lambda value: from_dict(Postprocess, value, where),
            "recipe": lambda value: from_stored_dict(value, where),
        },
        frozenset({"format"}),
    )
    postprocess = said.get("postprocess", SOFTMAX)
    postprocess.check(len(said["classes"]) or said["model"].num_classes)
    return ParsedConfig(
        said["model"], said.get("preprocess"), said["classes"], said.get("recipe"), postprocess
    )


def _checked(spec: ModelSpec, where: str) -> ModelSpec:
    with reading(where):
        spec.check()
    return spec


def save_model(
    net: ImageClassifier,
    out: Path,
    *,
    classes: Sequence[str] | None = None,
    preprocess: Preprocess | Preprocessor | None = None,
) -> None:
    """See `ImageClassifier.save`."""
    named = copy.copy(net)  # shares the tensors
    if classes is not None:
        named.classes = read_classes(classes, net.spec.num_classes, "the network")
    elif net.classes and len(net.classes) != net.spec.num_classes:
        raise ConfigError(
            f"classes: the network has {net.spec.num_classes} outputs and {len(net.classes)} names"
        )
    if preprocess is not None:
        given = preprocess if isinstance(preprocess, Preprocessor) else Preprocessor(preprocess)
        named.preprocess = given
    into_new_folder(out.expanduser(), lambda made: write_folder(named, made, None), str(out))


def check_new_folder(out: Path, said: str) -> None:
    """ConfigError, with the name `said`, where `out` cannot become a new folder."""
    if out.is_symlink() and not out.exists():
        raise ConfigError(f"{said}: is a broken link; name a new folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{said}: is not empty; name a new folder")


def into_new_folder(out: Path, write: Callable[[Path], None], said: str) -> None:
    """Let `write` fill a temporary folder beside `out`, then rename it.

    ConfigError if `out` is not empty or another process writes it; `said` is its name in messages.
    """
    with lock_path(out):
        check_new_folder(out, said)
        with tempfile.TemporaryDirectory(prefix=".save-", dir=out.resolve().parent) as temporary:
            made = Path(temporary) / "net"
            made.mkdir()
            write(made)
            if out.exists():
                out.rmdir()
            made.rename(out)
