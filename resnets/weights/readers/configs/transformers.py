"""config.json and preprocessor_config.json of transformers: ResNet (read, written), BiT (read)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from resnets.config import ConfigError, ModelSpec, Preprocess
from resnets.weights.readers.configs.field_handlers import (
    apply_handlers,
    only,
    positive_int,
    positive_ints,
)
from resnets.weights.readers.configs.timm import (
    ParsedConfig,
    parse_class_names,
    parse_numbers,
    parse_std,
    with_catalog_name,
)

PROCESSOR = "preprocessor_config.json"
DEFAULT_CROP_PCT = 224 / 256  # of ConvNext's processor
MIN_SQUASHED_SIZE = 384  # px; from this size ConvNext's processor ignores the aspect ratio
RESAMPLE = {2: "bilinear", 3: "bicubic"}
# Fields of all configs of transformers, of training, and of outputs of backbones.
NO_EFFECT = frozenset(
    {
        "architectures", "model_type", "torch_dtype", "dtype", "transformers_version",
        "_name_or_path", "_commit_hash", "out_features", "out_indices",
        "stage_names", "finetuning_task", "return_dict", "output_hidden_states", "use_cache",
        "output_attentions", "is_encoder_decoder", "initializer_range", "torchscript",
        "resnets", "chunk_size_feed_forward",
    }
)  # fmt: skip
PROCESSOR_NO_EFFECT = frozenset(
    {
        "feature_extractor_type", "image_processor_type", "processor_class", "do_convert_rgb",
        "_valid_processor_keys", "return_tensors", "disable_grouping", "device", "data_format",
        "input_data_format", "image_seq_length",
    }
)  # fmt: skip


def read_transformers(
    config: Mapping[str, Any], processor: Mapping[str, Any] | None, where: str
) -> ParsedConfig:
    """Parse the configs. Raises ConfigError for an unknown field or an unsupported value."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _MODEL_FIELDS:
        raise ConfigError(f"{where}: model_type {str(kind)[:40]!r} is not supported")
    fields = apply_handlers(config, where, _MODEL_FIELDS[kind], NO_EFFECT)
    block = fields.get("layer_type", "bottleneck")
    sizes = fields.get("hidden_sizes", (256, 512, 1024, 2048))
    expansion = 1 if block == "basic" else 4
    if any(size % expansion for size in sizes):
        raise ConfigError(f"{where}: hidden_sizes = {sizes}: not four times a width")
    classes = fields.get("id2label", ())
    if "label2id" in fields:
        if classes and fields["label2id"] != classes:
            raise ConfigError(f"{where}: label2id is not the inverse of id2label")
        classes = fields["label2id"]
    spec = ModelSpec(
        block=block,
        depths=fields.get("depths", (3, 4, 6, 3)),
        widths=tuple(size // expansion for size in sizes),
        stem_width=fields.get("embedding_size", 64),
        stride_in="1x1" if fields.get("downsample_in_bottleneck") else "3x3",
        num_classes=fields.get("num_labels", len(classes) or 2),
        in_channels=fields.get("num_channels", 3),
    )
    if kind == "bit":
        spec = _as_bit(spec, fields)
    spec = with_catalog_name(spec)
    if all(re.fullmatch(r"LABEL_\d+", name) for name in classes):
        classes = ()
    if processor is None:
        return ParsedConfig(spec, None, classes)
    preprocess = read_processor(processor, f"{where}: {PROCESSOR}")
    spec = dataclasses.replace(spec, input_size=preprocess.size)
    return ParsedConfig(spec, preprocess, classes)


def _as_bit(spec: ModelSpec, fields: Mapping[str, Any]) -> ModelSpec:
    """Return BiT's network (Kolesnikov et al. 2020) with the sizes of `spec`."""
    return dataclasses.replace(
        spec,
        block="preact-bottleneck",
        stem_norm=False,
        stem_pool="zeros",
        norm="group+ws",
        norm_groups=fields.get("num_groups", 32),
        drop_path=fields.get("drop_path_rate", 0.0),
    )


def read_processor(config: Mapping[str, Any], where: str) -> Preprocess:
    """Return the preprocessing of an image processor that resizes, center-crops and normalizes."""
    kind = str(config.get("image_processor_type", config.get("feature_extractor_type", "")))
    kind = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast)?$", "", kind)
    if kind not in ("ConvNext", "Bit", "CLIP"):
        raise ConfigError(
            f"{where}: image_processor_type {kind[:40]!r} is not supported; only ConvNext, Bit "
            "and CLIP are known to keep the aspect ratio"
        )
    fields = apply_handlers(config, where, _PROCESSOR_FIELDS, PROCESSOR_NO_EFFECT)
    for name in ("size", "image_mean", "image_std", "resample"):  # defaults differ by version
        if name not in fields:
            raise ConfigError(f"{where}: does not specify {name}")
    if fields.get("default_to_square") and not isinstance(config["size"], Mapping):
        raise ConfigError(f"{where}: default_to_square = True: images are squashed to a square")
    for name in ("image_mean", "image_std"):
        if len(fields[name]) != 3:
            raise ConfigError(f"{where}: {name}: has {len(fields[name])} channels, images have 3")
    edge = fields["size"]
    if kind == "ConvNext":
        if edge >= MIN_SQUASHED_SIZE:
            raise ConfigError(
                f"{where}: size = {edge}: images of {MIN_SQUASHED_SIZE} px and more are squashed"
            )
        size, resize = edge, int(edge / fields.get("crop_pct", DEFAULT_CROP_PCT))
    else:
        if "crop_size" not in fields:  # transformers then uses 224, regardless of the size
            raise ConfigError(f"{where}: does not specify crop_size")
        size, resize = fields["crop_size"], edge
    if resize < size:
        raise ConfigError(f"{where}: crop of {size} px of a shorter side of {resize} px")
    return Preprocess(
        size=size,
        resize=resize,
        mean=fields["image_mean"],
        std=fields["image_std"],
        interpolation=fields["resample"],
    )


def write_transformers(
    spec: ModelSpec, preprocess: Preprocess | None, classes: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the two configs of a model; ConfigError if transformers has none like it."""
    nearest = ModelSpec(
        **{
            field.name: getattr(spec, field.name)
            for field in dataclasses.fields(ModelSpec)
            if field.name in SUPPORTED_FIELDS
        }
    )
    for field in dataclasses.fields(ModelSpec):
        if getattr(nearest, field.name) != getattr(spec, field.name):
            raise ConfigError(
                f"transformers has no network like {spec.name}: its {field.name} is "
                f"{getattr(spec, field.name)!r}, there {getattr(nearest, field.name)!r}"
            )
    if not spec.is_resnet or len(spec.depths) != 4:
        raise ConfigError(f"transformers has no network like {spec.name}")
    names = classes or [f"LABEL_{number}" for number in range(spec.num_classes)]
    config = {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification"],
        "layer_type": spec.block,
        "depths": list(spec.depths),
        "hidden_sizes": [width * spec.expansion for width in spec.widths],
        "embedding_size": spec.stem_width,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": spec.stride_in == "1x1" and spec.is_bottleneck,
        "num_channels": spec.in_channels,
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }
    return config, None if preprocess is None else _processor_config(preprocess)


# Fields that transformers' networks can express, or that matter only in training.
SUPPORTED_FIELDS = frozenset(
    {
        "name", "block", "depths", "widths", "stem_width", "stride_in", "num_classes",
        "in_channels", "input_size", "init", "zero_init_residual", "dropout", "drop_path",
    }
)  # fmt: skip


def _processor_config(preprocess: Preprocess) -> dict[str, Any]:
    if preprocess.mean_image or preprocess.channel_order != "rgb" or preprocess.channels != 3:
        raise ConfigError("transformers has no processor of mean images, BGR or gray planes")
    if preprocess.value_range is not None:
        raise ConfigError("transformers has no processor of images with more than 8 bits")
    resample = {name: number for number, name in RESAMPLE.items()}
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": preprocess.resize},
        "resample": resample[preprocess.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": preprocess.size, "width": preprocess.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
        "do_convert_rgb": True,
    }


def _parse_side(value: Any) -> int:
    """Handle a size: a number, a shortest edge, or a square."""
    if isinstance(value, Mapping):
        given = {name: each for name, each in value.items() if each is not None}
        if set(given) == {"shortest_edge"}:
            return positive_int(given["shortest_edge"])
        if set(given) != {"height", "width"} or given["height"] != given["width"]:
            raise ValueError("is neither a shortest edge nor a square")
        return positive_int(given["height"])
    return positive_int(value)


def _parse_edge(value: Any) -> int:
    if isinstance(value, Mapping) and "shortest_edge" not in value:
        raise ValueError("squashes images to a square")
    return _parse_side(value)


def _parse_label2id(value: Any) -> tuple[str, ...]:
    """Handle a table from name to number: names in the order of their numbers."""
    if not isinstance(value, Mapping) or len(set(value.values())) != len(value):
        raise ValueError("is not a table from names to different numbers")
    return parse_class_names({number: name for name, number in value.items()})


def _parse_resample(value: Any) -> str:
    if value not in RESAMPLE:
        raise ValueError("is not supported; only 2 (bilinear) and 3 (bicubic)")
    return RESAMPLE[value]


def _parse_factor(value: Any) -> float:
    if abs(float(value) * 255 - 1) > 1e-6:
        raise ValueError("is not 1/255")
    return float(value)


_COMMON_FIELDS = {
    "depths": positive_ints,
    "hidden_sizes": positive_ints,
    "embedding_size": positive_int,
    "hidden_act": only("relu", why="is not an activation of these networks"),
    "num_channels": positive_int,
    "num_labels": positive_int,
    "id2label": parse_class_names,
    "label2id": _parse_label2id,
    "problem_type": only("single_label_classification", why="is not supported"),
}
_MODEL_FIELDS = {
    "resnet": {
        **_COMMON_FIELDS,
        "layer_type": only("basic", "bottleneck"),
        "downsample_in_first_stage": only(
            False, why="puts a stride where these networks have none"
        ),
        "downsample_in_bottleneck": only(False, True),
    },
    "bit": {
        **_COMMON_FIELDS,
        "layer_type": only("preactivation"),
        "global_padding": only(None, why="pads otherwise"),
        "num_groups": positive_int,
        "drop_path_rate": float,
        "embedding_dynamic_padding": only(False, why="pads otherwise"),
        "output_stride": only(32),
        "width_factor": only(1),
    },
}
_PROCESSOR_FIELDS = {
    "do_resize": only(True),
    "size": _parse_edge,
    "crop_pct": float,
    "resample": _parse_resample,
    "do_center_crop": only(True),
    "crop_size": _parse_side,
    "do_rescale": only(True),
    "rescale_factor": _parse_factor,
    "do_normalize": only(True),
    "image_mean": parse_numbers,
    "image_std": parse_std,
    "do_pad": only(False),
    "default_to_square": only(True, False),
}
