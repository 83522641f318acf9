"""Model folders: config.json and model.safetensors, in the layout of timm.

Entries without a field of timm are under "resnets" in config.json: the whole spec, preprocessing
and recipe. Models of torchvision have torchvision's tensor names, which timm reads too, other
models of timm have timm's names; all others have those of this package.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import nn

from resnets.config import (
    SOFTMAX,
    ConfigError,
    ModelSpec,
    Postprocess,
    Preprocess,
    dump_json,
    from_dict,
    from_stored_dict,
    to_dict,
)
from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import ImageClassifier, catalog
from resnets.utils.errors import reading
from resnets.utils.files.json import parse_json
from resnets.utils.files.local_paths import output_path
from resnets.utils.files.locks import lock_path
from resnets.weights.errors import WeightsError
from resnets.weights.heads import parse_classes
from resnets.weights.name_maps.maps import build_name_map
from resnets.weights.readers.configs.field_handlers import apply_handlers
from resnets.weights.readers.configs.timm import (
    TIMM_TAGS,
    ParsedConfig,
    parse_class_names,
    read_timm,
)
from resnets.weights.readers.configs.transformers import (
    PROCESSOR,
    read_transformers,
    write_transformers,
)

FORMAT = 1
CONFIG, MODEL, MEAN = "config.json", "model.safetensors", "mean_image.safetensors"
MODELS = (MODEL, "pytorch_model.bin")  # files of the tensors, also of other libraries
# Fields without effect on the outputs of given tensors.
IGNORED_FIELDS = (
    "name",
    "init",
    "zero_init_residual",
    "gate_bias",
    "dropout",
    "drop_path",
    "shortcut_dropout",
    "num_classes",
    "in_channels",
    "input_size",
)


def published_name(spec: ModelSpec) -> str | None:
    """Return the name of the model `spec` in timm or torchvision; None if they do not have it."""
    for name in catalog.list_models():
        if (
            name.replace("-", "_") in TIMM_TAGS
            and first_difference(catalog.spec(name), spec) is None
        ):
            return name.replace("-", "_")
    return None


def torchvision_names() -> set[str]:
    """Return the names of torchvision's classifiers."""
    from torchvision import models

    return set(models.list_models(module=models))


def first_difference(one: ModelSpec, other: ModelSpec) -> str | None:
    """Return the first field by which two models of equal tensors compute differently, or None."""
    fields = (
        entry.name for entry in dataclasses.fields(ModelSpec) if entry.name not in IGNORED_FIELDS
    )
    return next((name for name in fields if getattr(one, name) != getattr(other, name)), None)


def write_folder(
    net: ImageClassifier,
    out: Path,
    license: str | None,
    format: Literal["timm", "transformers"] = "timm",
    dtype: torch.dtype | None = None,
) -> None:
    """Write `net` into the existing folder `out`, with its preprocessing and classes if known.

    format: "timm", or "transformers" with its config and tensor names; both include the "resnets"
    entry. dtype: of the stored weights of convolutions and linear layers; None keeps that of `net`.
    Raises ConfigError if transformers has no such model.
    """
    published = published_name(net.spec)
    state = {name: tensor.cpu().contiguous() for name, tensor in net.state_dict().items()}
    if dtype is not None:
        state = {name: each.to(dtype) if each.dim() > 1 else each for name, each in state.items()}
    if format == "transformers":
        preprocess = None if net.preprocess is None else net.preprocess.spec
        config, processor = write_transformers(net.spec, preprocess, net.classes)
        state = build_name_map("transformers", net).to_foreign(state)
        if processor is not None:
            dump_json(processor, out / PROCESSOR)
    else:
        config = _timm_config(net, published, license)
        if published is not None:  # timm reads torchvision's names of VGG, too
            names = "torchvision" if published in torchvision_names() else "timm"
            state = build_name_map(names, net).to_foreign(state)
            if net.spec.is_preact:  # timm's head is a 1x1 convolution
                state["head.fc.weight"] = state["head.fc.weight"][:, :, None, None]
    safetensors.torch.save_file(state, out / MODEL, metadata={"format": "pt"})
    if net.preprocess is not None and net.preprocess.mean_image is not None:
        safetensors.torch.save_file({"mean_image": net.preprocess.mean_image}, out / MEAN)
    dump_json({**config, "resnets": _resnets_config(net)}, out / CONFIG)


def _timm_config(
    net: ImageClassifier, published: str | None, license: str | None
) -> dict[str, Any]:
    """Return the fields of timm's config.json."""
    spec, preprocess = net.spec, None if net.preprocess is None else net.preprocess.spec
    layers = {}
    if published is not None:
        names = build_name_map("timm", net).foreign_names
        ours = {"first_conv": net.input_layer, "classifier": "head"}
        layers = {
            key: str(names[f"{name}.weight"]).removesuffix(".weight") for key, name in ours.items()
        }
    config: dict[str, Any] = {
        "architecture": published or spec.name,
        "num_classes": spec.num_classes,
        "num_features": net.head.in_features,
        "label_names": list(net.classes),
        "pretrained_cfg": {
            **({} if preprocess is None else _timm_preprocess(spec, preprocess)),
            "num_classes": spec.num_classes,
            **layers,
            **({} if license is None else {"license": license}),
        },
    }
    if spec.in_channels != 3:
        config["model_args"] = {"in_chans": spec.in_channels}
    return config


def _resnets_config(net: ImageClassifier) -> dict[str, Any]:
    """Return the "resnets" entry: fields that timm and transformers do not have."""
    return {
        "format": FORMAT,
        "model": to_dict(net.spec),
        "preprocess": None if net.preprocess is None else to_dict(net.preprocess.spec),
        "classes": list(net.classes),
        **({} if net.postprocess == SOFTMAX else {"postprocess": to_dict(net.postprocess)}),
        **({} if net.recipe is None else {"recipe": to_dict(net.recipe)}),
    }


def _timm_preprocess(spec: ModelSpec, preprocess: Preprocess) -> dict[str, Any]:
    return {
        "input_size": [spec.in_channels, preprocess.size, preprocess.size],
        "fixed_input_size": False,
        "interpolation": preprocess.interpolation,
        "crop_pct": _crop_pct(preprocess),
        "crop_mode": "center",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
    }


def _crop_pct(preprocess: Preprocess) -> float:
    """Return the `crop_pct` of which timm computes `resize` as floor(size / crop_pct)."""
    crop_pct = preprocess.size / preprocess.resize
    exact = preprocess.size // crop_pct == preprocess.resize
    return crop_pct if exact else math.nextafter(crop_pct, 0)


def read_config(path: Path) -> ParsedConfig:
    """Read config.json in the folder `path`, written by resnets, timm or transformers.

    Raises WeightsError if it is damaged, of an unsupported model, or has an unsupported field.
    """
    file = path / CONFIG
    with reading(file, WeightsError):
        try:
            return _read_config(path, file)
        except ConfigError as error:
            raise WeightsError(str(error)) from None


def _read_config(path: Path, file: Path) -> ParsedConfig:
    config = _read_object(file)
    if "resnets" in config:
        return _read_resnets_config(config["resnets"], str(file))
    if not _is_of_transformers(config):
        return read_timm(config, str(file))
    processor = path / PROCESSOR
    processor_config = _read_object(processor) if processor.is_file() else None
    return read_transformers(config, processor_config, str(file))


def is_transformers(file: Path) -> bool:
    """Return whether a config.json is of transformers, which has preprocessing in another file."""
    try:
        return _is_of_transformers(_read_object(file))
    except (ConfigError, ValueError, RecursionError):
        return False  # reading it raises the error


def _is_of_transformers(config: dict[str, Any]) -> bool:
    return config.get("model_type") not in (None, "timm_wrapper")


def _read_object(file: Path) -> dict[str, Any]:
    content = parse_json(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: is not a JSON object")
    return content


def _read_resnets_config(config: dict[str, Any], where: str) -> ParsedConfig:
    if config["format"] != FORMAT:
        raise WeightsError(f"{where}: format {config['format']}, this version reads {FORMAT}")
    fields = apply_handlers(
        config,
        f"{where}: resnets",
        {
            "model": lambda value: _parse_spec(value, where),
            "preprocess": lambda value: value and from_dict(Preprocess, value, where),
            "classes": parse_class_names,
            "postprocess": lambda value: from_dict(Postprocess, value, where),
            "recipe": lambda value: from_stored_dict(value, where),
        },
        frozenset({"format"}),
    )
    postprocess = fields.get("postprocess", SOFTMAX)
    postprocess.check(len(fields["classes"]) or fields["model"].num_classes)
    return ParsedConfig(
        fields["model"],
        fields.get("preprocess"),
        fields["classes"],
        fields.get("recipe"),
        postprocess,
    )


def _parse_spec(value: Any, where: str) -> ModelSpec:
    spec = from_dict(ModelSpec, value, where)
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
    """Do what `ImageClassifier.save` describes."""
    if not isinstance(getattr(net, "head", None), nn.Linear):
        raise ConfigError(f"{net.spec.name}: has no linear head, which a saved model needs")
    saved = copy.copy(net)  # shares the tensors
    if classes is not None:
        saved.classes = parse_classes(classes, net.spec.num_classes, "the network")
    elif net.classes and len(net.classes) != net.spec.num_classes:
        raise ConfigError(
            f"classes: the network has {net.spec.num_classes} outputs and {len(net.classes)} names"
        )
    if preprocess is not None:
        if isinstance(preprocess, Preprocess):
            preprocess = Preprocessor(preprocess)
        saved.preprocess = preprocess
    write_new_folder(
        output_path(out, "path"), lambda path: write_folder(saved, path, None), str(out)
    )


def check_new_folder(out: Path, name: str) -> None:
    """Raise ConfigError, which calls it `name`, if `out` cannot become a new folder."""
    if out.is_symlink() and not out.exists():
        raise ConfigError(f"{name}: is a broken link; name a new folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{name}: is not empty; name a new folder")


def write_new_folder(out: Path, write: Callable[[Path], None], name: str) -> None:
    """Call `write` with a temporary folder next to `out`, then rename it to `out`.

    Raises ConfigError if `out` is not empty or another process writes it. name: of `out`, for
    messages.
    """
    with lock_path(out):
        check_new_folder(out, name)
        with tempfile.TemporaryDirectory(prefix=".save-", dir=out.resolve().parent) as temporary:
            folder = Path(temporary) / "net"
            folder.mkdir()
            write(folder)
            if out.exists():
                out.rmdir()
            folder.rename(out)
