"""config.json as timm writes it, read whole: what the network and its images are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resnets.config import SOFTMAX, ConfigError, ModelSpec, Postprocess, Preprocess, Recipe
from resnets.models import catalog
from resnets.weights.readers.configs.field_handlers import apply_handlers, only, positive_int


@dataclass(frozen=True)
class ParsedConfig:
    """What config.json says of the tensors beside it; None and () where it does not say."""

    spec: ModelSpec | None = None
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()
    recipe: Recipe | None = None
    postprocess: Postprocess = SOFTMAX


def catalog_name(theirs: str) -> str | None:
    """Our name of the model that torchvision and timm call `theirs`."""
    return next((name for name in catalog.names() if name.replace("-", "_") == theirs), None)


def with_catalog_name(spec: ModelSpec) -> ModelSpec:
    """`spec` named as the catalog names the network of the same architecture, else "resnet"."""
    own = ("name", "num_classes", "in_channels", "input_size", "norm_eps")
    for name in catalog.names():
        known = catalog.spec(name)
        if known == dataclasses.replace(spec, **{field: getattr(known, field) for field in own}):
            return dataclasses.replace(spec, name=name)
    return dataclasses.replace(spec, name="resnet")


# What changes nothing in what the network computes: where it comes from, how it is trained, and
# what another call of timm's would take instead.
ABOUT = frozenset(
    {
        *("tag", "url", "file", "hf_hub_id", "hf_hub_filename", "source", "license", "licence"),
        *("paper_ids", "paper_name", "origin_url", "description", "notes", "architecture"),
        *("min_input_size", "fixed_input_size", "pool_size"),
        *("first_conv", "classifier", "num_features", "label_descriptions", "zero_init_last"),
        *("drop_block_rate", "tags", "library_name", "model_type", "architectures", "dtype"),
        *("torch_dtype", "transformers_version", "initializer_range", "do_pooling", "state_dict"),
    }
)
RELU = only("relu", "ReLU", "torch.nn.ReLU", why="is no activation of the networks here")
POOL = only("avg", "fastavg", why="is no pool of the networks here")
STRIDES = {32: 0, 16: 1, 8: 2}


def read_timm(config: Mapping[str, Any], where: str) -> ParsedConfig:
    """ConfigError names a field that is not known here or that the networks cannot express."""
    inner = "pretrained_cfg" in config
    top = apply_handlers(
        {name: value for name, value in config.items() if inner or name in _TOP},
        where,
        _TOP | {"pretrained_cfg": dict, "model_args": dict},
        ABOUT,
    )
    said = config["pretrained_cfg"] if inner else config
    place = f"{where}: pretrained_cfg" if inner else where
    rest = {name: value for name, value in said.items() if inner or name not in _TOP}
    seen = apply_handlers(rest, place, SEEN | (_TOP if inner else {}), ABOUT)
    args = apply_handlers(top.get("model_args", {}), f"{where}: model_args", ARGS, ABOUT)
    count = top.get("num_classes", args.get("num_classes", seen.get("num_classes")))
    named = {each for each in (top.get("label_names"), seen.get("label_names")) if each}
    if len(named) > 1:
        raise ConfigError(f"{where}: label_names at its top and in pretrained_cfg are different")
    names = named.pop() if named else ()
    spec = _spec(config, said, args, where)
    channels = args.get("in_chans", seen["input_size"][0] if "input_size" in seen else 3)
    if spec is not None:
        count = count or spec.num_classes
        spec = dataclasses.replace(spec, num_classes=count, in_channels=channels)
        if "input_size" in seen:
            spec = dataclasses.replace(spec, input_size=seen["input_size"][1])
    return ParsedConfig(spec, _preprocess(seen, channels, place), names)


def _spec(
    config: Mapping[str, Any], said: Mapping[str, Any], args: Mapping[str, Any], where: str
) -> ModelSpec | None:
    architecture = config.get("architecture", said.get("architecture"))
    if architecture is None:
        return None
    name = catalog_name(str(architecture).partition(".")[0])
    if name is None:
        raise ConfigError(
            f"{where}: architecture {str(architecture)[:60]!r} is none of the networks here; "
            "if one computes the same, name it and the file of the tensors alone"
        )
    spec = catalog.spec(name)
    other = sorted(_OTHER_IN_V2 & args.keys()) if spec.is_preact else []
    if other:
        raise ConfigError(f"{where}: model_args: {other[0]}: is not read for {name}")
    changes = {field: value for field, value in args.items() if field in _SPEC_FIELDS}
    fields = {_SPEC_FIELDS[field]: value for field, value in changes.items()}
    return dataclasses.replace(spec, **fields)


def _preprocess(seen: Mapping[str, Any], channels: int, where: str) -> Preprocess | None:
    """As timm's validate.py tests: at the test size, often a larger one (Touvron et al. 2019)."""
    if "input_size" not in seen or "mean" not in seen:
        return None
    size = seen.get("test_input_size", seen["input_size"])[1]
    name = "test_crop_pct" if "test_crop_pct" in seen else "crop_pct"
    resize = math.floor(size / seen.get(name, 0.875))
    if resize < size:
        raise ConfigError(f"{where}: {name} = {seen[name]}: would crop more than there is")
    for name in ("mean", "std"):
        if len(seen.get(name, seen["mean"])) != channels:
            raise ConfigError(f"{where}: {name}: is not of {channels} channels")
    return Preprocess(
        size=size,
        resize=resize,
        channels=channels,
        mean=seen["mean"],
        std=seen.get("std", (1.0,) * channels),
        interpolation=seen.get("interpolation", "bicubic"),
    )


def square(value: Any) -> tuple[int, int, int]:
    """A handler of (channels, height, width)."""
    channels, height, width = map(positive_int, value)
    if height != width:
        raise ValueError("is not square, and the networks here see squares")
    return channels, height, width


def numbers(value: Any) -> tuple[float, ...]:
    """A handler of means and deviations."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("is no list of numbers")
    found = tuple(float(each) for each in value)
    if not all(map(math.isfinite, found)):
        raise ValueError("has a value that is no number")
    return found


def deviations(value: Any) -> tuple[float, ...]:
    """A handler of what images are divided by."""
    found = numbers(value)
    if min(found) <= 0:
        raise ValueError("has a value that is not above 0")
    return found


def _share(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 < value < 10:
        raise ValueError("is no share")
    return float(value)


def names_of(value: Any) -> tuple[str, ...]:
    """A handler of class names: a list, or a table from number to name."""
    if isinstance(value, Mapping):
        numbered = {int(key): name for key, name in value.items()}
        if sorted(numbered) != list(range(len(numbered))):
            raise ValueError("does not number its classes 0, 1, ...")
        value = [numbered[place] for place in range(len(numbered))]
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError("is no list of names")
    return tuple(value)


def _dilated(value: Any) -> int:
    if value not in STRIDES:
        raise ValueError("is none of 8, 16, 32")
    return STRIDES[value]


def _widths(value: Any) -> tuple[int, ...]:
    return tuple(map(positive_int, value))


def _nothing(value: Any) -> None:
    if value:
        raise ValueError("is something that the networks here do not have")


def _count(value: Any) -> int:
    """A handler of a number of classes; 0 is a network without a head."""
    return 0 if value == 0 else positive_int(value)


_TOP = {
    "num_classes": _count,
    "global_pool": POOL,
    "label_names": names_of,
    "act_layer": RELU,
}
SEEN = {
    "num_classes": _count,
    "input_size": square,
    "test_input_size": square,
    "test_crop_pct": _share,
    "interpolation": only("bilinear", "bicubic", why="is not how images are resized here"),
    "crop_pct": _share,
    "crop_mode": only("center", why="is not how images are cropped here"),
    "mean": numbers,
    "std": deviations,
    "label_offset": only(0, False, why="shifts the classes"),
    # True is for timm's first files of the network (BiT's .npz); those with a config are tensors.
    "custom_load": only(False, True, why="asks for a loader of its own"),
    "global_pool": POOL,
    "act_layer": RELU,
}
ARGS = {
    "in_chans": positive_int,
    "num_classes": positive_int,
    "global_pool": POOL,
    "act_layer": RELU,
    "norm_layer": only("batchnorm2d", "BatchNorm2d", "batchnorm", "torch.nn.BatchNorm2d"),
    "output_stride": _dilated,
    "layers": _widths,
    "channels": _widths,
    "cardinality": positive_int,
    "base_width": positive_int,
    "drop_rate": float,
    "drop_path_rate": float,
    "stem_type": only(""),
    "stem_width": positive_int,  # decides in deep stems alone
    "replace_stem_pool": only(False),
    "block_reduce_first": only(1),
    "down_kernel_size": only(1),
    "avg_down": only(False),
    "aa_layer": _nothing,
    "block_args": _nothing,
}
_OTHER_IN_V2 = {"channels", "cardinality", "base_width", "norm_layer"}  # or meant otherwise
_SPEC_FIELDS = {
    "output_stride": "dilate",
    "layers": "depths",
    "channels": "widths",
    "cardinality": "groups",
    "base_width": "width_per_group",
    "drop_rate": "dropout",
    "drop_path_rate": "drop_path",
}
