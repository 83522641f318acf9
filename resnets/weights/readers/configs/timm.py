"""Read config.json as timm writes it, completely: the network and its preprocessing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resnets.config import SOFTMAX, ConfigError, ModelSpec, Postprocess, Preprocess, Recipe
from resnets.models import catalog
from resnets.weights.readers.configs.field_handlers import (
    apply_handlers,
    only,
    positive_int,
    positive_ints,
)


@dataclass(frozen=True)
class ParsedConfig:
    """The content of config.json; None and () where it specifies nothing."""

    spec: ModelSpec | None = None
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] = ()
    recipe: Recipe | None = None
    postprocess: Postprocess = SOFTMAX


def catalog_name(published: str) -> str | None:
    """Return our name of the model that torchvision and timm call `published`."""
    return next(
        (name for name in catalog.list_models() if name.replace("-", "_") == published), None
    )


def with_catalog_name(spec: ModelSpec) -> ModelSpec:
    """Return `spec` with the catalog's name of the same architecture, else "resnet"."""
    free = ("name", "num_classes", "in_channels", "input_size", "norm_eps")
    for name in catalog.list_models():
        known = catalog.spec(name)
        if known == dataclasses.replace(spec, **{field: getattr(known, field) for field in free}):
            return dataclasses.replace(spec, name=name)
    return dataclasses.replace(spec, name="resnet")


# Fields without effect on the outputs: origin, training, and options of other functions of timm.
NO_EFFECT = frozenset(
    {
        "tag", "url", "file", "hf_hub_id", "hf_hub_filename", "source", "license", "licence",
        "paper_ids", "paper_name", "origin_url", "description", "notes", "architecture",
        "min_input_size", "fixed_input_size", "pool_size",
        "first_conv", "classifier", "num_features", "label_descriptions", "zero_init_last",
        "drop_block_rate", "tags", "library_name", "model_type", "architectures", "dtype",
        "torch_dtype", "transformers_version", "initializer_range", "do_pooling", "state_dict",
    }
)  # fmt: skip
RELU = only("relu", "ReLU", "torch.nn.ReLU", why="is not an activation of these networks")
POOL = only("avg", "fastavg", why="is not a pool of these networks")
STRIDES = {32: 0, 16: 1, 8: 2}


def read_timm(config: Mapping[str, Any], where: str) -> ParsedConfig:
    """Parse a config. Raises ConfigError for an unknown field or an unsupported value."""
    is_nested = "pretrained_cfg" in config
    top = apply_handlers(
        {name: value for name, value in config.items() if is_nested or name in _TOP},
        where,
        _TOP | {"pretrained_cfg": dict, "model_args": dict},
        NO_EFFECT,
    )
    pretrained = config["pretrained_cfg"] if is_nested else config
    place = f"{where}: pretrained_cfg" if is_nested else where
    rest = {name: value for name, value in pretrained.items() if is_nested or name not in _TOP}
    handlers = PREPROCESS_FIELDS | (_TOP if is_nested else {})
    fields = apply_handlers(rest, place, handlers, NO_EFFECT)
    args = apply_handlers(top.get("model_args", {}), f"{where}: model_args", MODEL_ARGS, NO_EFFECT)
    count = top.get("num_classes", args.get("num_classes", fields.get("num_classes")))
    label_lists = {each for each in (top.get("label_names"), fields.get("label_names")) if each}
    if len(label_lists) > 1:
        raise ConfigError(f"{where}: label_names at its top and in pretrained_cfg are different")
    names = label_lists.pop() if label_lists else ()
    spec = _parse_spec(config, pretrained, args, where)
    channels = args.get("in_chans", fields["input_size"][0] if "input_size" in fields else 3)
    if spec is not None:
        count = count or spec.num_classes
        spec = dataclasses.replace(spec, num_classes=count, in_channels=channels)
        if "input_size" in fields:
            spec = dataclasses.replace(spec, input_size=fields["input_size"][1])
    return ParsedConfig(spec, _parse_preprocess(fields, channels, place), names)


def _parse_spec(
    config: Mapping[str, Any], pretrained: Mapping[str, Any], args: Mapping[str, Any], where: str
) -> ModelSpec | None:
    architecture = config.get("architecture", pretrained.get("architecture"))
    if architecture is None:
        return None
    name = catalog_name(str(architecture).partition(".")[0])
    if name is None:
        raise ConfigError(
            f"{where}: architecture {str(architecture)[:60]!r} is not supported; if a network of "
            "the catalog computes the same, give its name with --model and the file of the tensors"
        )
    spec = catalog.spec(name)
    unsupported = sorted(_UNSUPPORTED_IN_V2 & args.keys()) if spec.is_preact else []
    if unsupported:
        raise ConfigError(f"{where}: model_args: {unsupported[0]}: is not read for {name}")
    changes = {_SPEC_FIELDS[name]: value for name, value in args.items() if name in _SPEC_FIELDS}
    return dataclasses.replace(spec, **changes)


def _parse_preprocess(fields: Mapping[str, Any], channels: int, where: str) -> Preprocess | None:
    """Return the preprocessing of timm's validate.py, at the test size (Touvron et al. 2019)."""
    if "input_size" not in fields or "mean" not in fields:
        return None
    size = fields.get("test_input_size", fields["input_size"])[1]
    name = "test_crop_pct" if "test_crop_pct" in fields else "crop_pct"
    resize = math.floor(size / fields.get(name, 0.875))
    if resize < size:
        raise ConfigError(
            f"{where}: {name} = {fields[name]}: the crop would be larger than the image"
        )
    for name in ("mean", "std"):
        if len(fields.get(name, fields["mean"])) != channels:
            raise ConfigError(f"{where}: {name}: does not have {channels} channels")
    return Preprocess(
        size=size,
        resize=resize,
        channels=channels,
        mean=fields["mean"],
        std=fields.get("std", (1.0,) * channels),
        interpolation=fields.get("interpolation", "bicubic"),
    )


def parse_square(value: Any) -> tuple[int, int, int]:
    """Handle (channels, height, width)."""
    channels, height, width = map(positive_int, value)
    if height != width:
        raise ValueError("is not square; only square images are supported")
    return channels, height, width


def parse_numbers(value: Any) -> tuple[float, ...]:
    """Handle a list of means."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("is not a list of numbers")
    values = tuple(float(each) for each in value)
    if not all(map(math.isfinite, values)):
        raise ValueError("has a value that is not finite")
    return values


def parse_std(value: Any) -> tuple[float, ...]:
    """Handle a list of standard deviations."""
    values = parse_numbers(value)
    if min(values) <= 0:
        raise ValueError("has a value that is not positive")
    return values


def _parse_fraction(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 < value < 10:
        raise ValueError("is not a fraction")
    return float(value)


def parse_class_names(value: Any) -> tuple[str, ...]:
    """Handle class names: a list, or a table from number to name."""
    if isinstance(value, Mapping):
        numbered = {int(key): name for key, name in value.items()}
        if sorted(numbered) != list(range(len(numbered))):
            raise ValueError("does not number its classes 0, 1, ...")
        value = [numbered[number] for number in range(len(numbered))]
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError("is not a list of names")
    return tuple(value)


def _parse_output_stride(value: Any) -> int:
    if value not in STRIDES:
        raise ValueError("is not 8, 16 or 32")
    return STRIDES[value]


def _must_be_empty(value: Any) -> None:
    if value:
        raise ValueError("is not supported")


def _parse_num_classes(value: Any) -> int:
    """Handle a number of classes; 0 is a network without a head."""
    return 0 if value == 0 else positive_int(value)


_TOP = {
    "num_classes": _parse_num_classes,
    "global_pool": POOL,
    "label_names": parse_class_names,
    "act_layer": RELU,
}
PREPROCESS_FIELDS = {
    "num_classes": _parse_num_classes,
    "input_size": parse_square,
    "test_input_size": parse_square,
    "test_crop_pct": _parse_fraction,
    "interpolation": only("bilinear", "bicubic", why="is not supported"),
    "crop_pct": _parse_fraction,
    "crop_mode": only("center", why="is not supported"),
    "mean": parse_numbers,
    "std": parse_std,
    "label_offset": only(0, False, why="shifts the classes"),
    # True is for timm's first files of a network (BiT's .npz), not for those with a config.
    "custom_load": only(False, True, why="needs its own loader"),
    "global_pool": POOL,
    "act_layer": RELU,
}
MODEL_ARGS = {
    "in_chans": positive_int,
    "num_classes": positive_int,
    "global_pool": POOL,
    "act_layer": RELU,
    "norm_layer": only("batchnorm2d", "BatchNorm2d", "batchnorm", "torch.nn.BatchNorm2d"),
    "output_stride": _parse_output_stride,
    "layers": positive_ints,
    "channels": positive_ints,
    "cardinality": positive_int,
    "base_width": positive_int,
    "drop_rate": float,
    "drop_path_rate": float,
    "stem_type": only(""),
    "stem_width": positive_int,  # has an effect in deep stems only
    "replace_stem_pool": only(False),
    "block_reduce_first": only(1),
    "down_kernel_size": only(1),
    "avg_down": only(False),
    "aa_layer": _must_be_empty,
    "block_args": _must_be_empty,
}
_UNSUPPORTED_IN_V2 = {"channels", "cardinality", "base_width", "norm_layer"}
_SPEC_FIELDS = {
    "output_stride": "dilate",
    "layers": "depths",
    "channels": "widths",
    "cardinality": "groups",
    "base_width": "width_per_group",
    "drop_rate": "dropout",
    "drop_path_rate": "drop_path",
}

# Tags of timm 1.0 for the networks of the catalog, so that a misspelled one is noticed offline.
# Newer ones are available as hub:timm/NAME. Networks without tags have no weights in timm.
RSB = ("a1_in1k", "a2_in1k", "a3_in1k")
SEMI = ("fb_ssl_yfcc100m_ft_in1k", "fb_swsl_ig1b_ft_in1k")
BOTH = ("tv2_in1k", "tv_in1k")
GLUON, RA2 = "gluon_in1k", "ra2_in1k"
RA4 = "ra4_e3600_r224_in1k"
BIT = ("goog_in21k", "goog_in21k_ft_in1k")
TIMM_TAGS: Mapping[str, tuple[str, ...]] = {
    "resnet18": (*RSB, *SEMI, GLUON, "tv_in1k"),
    "resnet34": (*RSB, "bt_in1k", GLUON, RA4, "tv_in1k"),
    "resnet50": (
        *RSB, *SEMI, *BOTH, "a1h_in1k", "am_in1k", "b1k_in1k", "b2k_in1k", "bamboo", "bt_in1k",
        "c1_in1k", "c2_in1k", "d_in1k", GLUON, "ra_in1k", "ram_in1k",
    ),
    "resnet101": (*RSB, *BOTH, "a1h_in1k", GLUON),
    "resnet152": (*RSB, *BOTH, "a1h_in1k", GLUON),
    "resnet10t": ("c3_in1k",),
    "resnet14t": ("c3_in1k",),
    "resnet26": ("bt_in1k",),
    "resnet200": (),
    "resnet26t": (RA2,),
    "resnet50t": (),
    "resnet18d": (RA2, RA4),
    "resnet26d": ("bt_in1k",),
    "resnet34d": (RA2,),
    "resnet50d": (*RSB, GLUON, RA2, RA4),
    "resnet101d": (GLUON, RA2),
    "resnet152d": (GLUON, RA2),
    "resnet200d": (RA2,),
    **{f"resnet{depth}{letter}": (GLUON,) for depth in (50, 101, 152) for letter in "cs"},
    "resnext50_32x4d": (*RSB, *SEMI, *BOTH, "a1h_in1k", GLUON, "ra_in1k"),
    "resnext50d_32x4d": ("bt_in1k",),
    "resnext101_32x4d": (*SEMI, GLUON),
    "resnext101_32x8d": (*SEMI, *BOTH, "fb_wsl_ig1b_ft_in1k"),
    "resnext101_32x16d": (*SEMI, "fb_wsl_ig1b_ft_in1k"),
    "resnext101_32x32d": ("fb_wsl_ig1b_ft_in1k",),
    "resnext101_64x4d": ("c1_in1k", GLUON, "tv_in1k"),
    "wide_resnet50_2": (*BOTH, "racm_in1k"),
    "wide_resnet101_2": BOTH,
    **{f"seresnet{depth}": () for depth in (18, 34, 101, 152)},
    "seresnet50": (*RSB, RA2),
    "seresnet152d": (RA2,),
    "seresnext26d_32x4d": ("bt_in1k",),
    "seresnext26t_32x4d": ("bt_in1k",),
    "seresnext50_32x4d": (GLUON, "racm_in1k"),
    "seresnext101_32x4d": (GLUON,),
    "seresnext101_32x8d": ("ah_in1k",),
    "seresnext101_64x4d": (GLUON,),
    "seresnext101d_32x8d": ("ah_in1k",),
    "ecaresnet26t": (RA2,),
    "ecaresnet50d": ("miil_in1k",),
    "ecaresnet50t": (*RSB, RA2),
    "ecaresnet101d": ("miil_in1k",),
    "ecaresnet269d": (RA2,),
    **{f"resnetrs{depth}": ("tf_in1k",) for depth in (50, 101, 152, 200, 270, 350, 420)},
    **{f"resnetv2_{each}": (RA4,) for each in ("18", "18d", "34")},
    "resnetv2_34d": (RA4, "ra4_e3600_r384_in1k"),
    "resnetv2_50": ("a1h_in1k",),
    "resnetv2_50d": (),
    "resnetv2_101": ("a1h_in1k",),
    "resnetv2_101d": (),
    "resnetv2_50x1_bit": (*BIT, "goog_distilled_in1k"),
    **{f"resnetv2_{each}_bit": BIT for each in ("50x3", "101x1", "101x3", "152x4")},
    "resnetv2_152x2_bit": (
        *BIT, "goog_teacher_in21k_ft_in1k", "goog_teacher_in21k_ft_in1k_384",
    ),
    **{f"vgg{depth}{bn}": ("tv_in1k",) for depth in (11, 13, 16, 19) for bn in ("", "_bn")},
}  # fmt: skip
