"""Hugging Face's ResNets (transformers): config.json and preprocessor_config.json, both ways."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from resnets.config import ConfigError, ModelSpec, Preprocess
from resnets.weights.readers.configs.field_handlers import apply_handlers, only, positive_int
from resnets.weights.readers.configs.timm import (
    ParsedConfig,
    deviations,
    names_of,
    numbers,
    with_catalog_name,
)

PROCESSOR = "preprocessor_config.json"
SHARE = 224 / 256  # crop_pct where ConvNext's processor is not told one
LARGE = 384  # px from which on that processor squashes images
RESAMPLE = {2: "bilinear", 3: "bicubic"}
# Fields of every config of theirs, of training, and of their backbones' outputs.
ABOUT = frozenset(
    {
        *("architectures", "model_type", "torch_dtype", "dtype", "transformers_version"),
        *("_name_or_path", "_commit_hash", "out_features", "out_indices"),
        *("stage_names", "finetuning_task", "return_dict", "output_hidden_states", "use_cache"),
        *("output_attentions", "is_encoder_decoder", "initializer_range", "torchscript"),
        *("resnets", "chunk_size_feed_forward"),
    }
)
SEEN_ABOUT = frozenset(
    {
        *("feature_extractor_type", "image_processor_type", "processor_class", "do_convert_rgb"),
        *("_valid_processor_keys", "return_tensors", "disable_grouping", "device", "data_format"),
        *("input_data_format", "image_seq_length"),
    }
)


def read_transformers(
    config: Mapping[str, Any], processor: Mapping[str, Any] | None, where: str
) -> ParsedConfig:
    """ConfigError names a field that is not known here or that the networks cannot express."""
    kind = config.get("model_type")
    if kind != "resnet":
        raise ConfigError(f"{where}: model_type {str(kind)[:40]!r} is none of the networks here")
    said = apply_handlers(config, where, _NET, ABOUT)
    block = said.get("layer_type", "bottleneck")
    sizes = said.get("hidden_sizes", (256, 512, 1024, 2048))
    expansion = 4 if block == "bottleneck" else 1
    if any(size % expansion for size in sizes):
        raise ConfigError(f"{where}: hidden_sizes = {sizes}: not four times a width")
    classes = said.get("id2label", ())
    if "label2id" in said:
        if classes and said["label2id"] != classes:
            raise ConfigError(f"{where}: label2id is not the inverse of id2label")
        classes = said["label2id"]
    spec = ModelSpec(
        block=block,
        depths=said.get("depths", (3, 4, 6, 3)),
        widths=tuple(size // expansion for size in sizes),
        stem_width=said.get("embedding_size", 64),
        stride_in="1x1" if said.get("downsample_in_bottleneck") else "3x3",
        num_classes=said.get("num_labels", len(classes) or 2),
        in_channels=said.get("num_channels", 3),
    )
    spec = with_catalog_name(spec)
    if all(re.fullmatch(r"LABEL_\d+", name) for name in classes):
        classes = ()
    seen = None if processor is None else read_processor(processor, f"{where}: {PROCESSOR}")
    if seen is not None:
        spec = dataclasses.replace(spec, input_size=seen.size)
    return ParsedConfig(spec, seen, classes)


def read_processor(said: Mapping[str, Any], where: str) -> Preprocess:
    """What an image processor does, if it is a resize, a center crop and a normalization."""
    kind = str(said.get("image_processor_type", said.get("feature_extractor_type", "")))
    kind = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast)?$", "", kind)
    if kind not in ("ConvNext", "Bit", "CLIP"):
        raise ConfigError(
            f"{where}: image_processor_type {kind[:40]!r} is not known to keep an image's shape; "
            "known are ConvNext, Bit and CLIP"
        )
    found = apply_handlers(said, where, _SEEN, SEEN_ABOUT)
    for name in ("size", "image_mean", "image_std", "resample"):  # defaults differ by version
        if name not in found:
            raise ConfigError(f"{where}: does not say {name}")
    if found.get("default_to_square") and not isinstance(said["size"], Mapping):
        raise ConfigError(f"{where}: default_to_square = True: images are squashed to a square")
    for name in ("image_mean", "image_std"):
        if len(found[name]) != 3:
            raise ConfigError(f"{where}: {name}: is of {len(found[name])} channels, images have 3")
    edge = found["size"]
    if kind == "ConvNext":
        if edge >= LARGE:
            raise ConfigError(f"{where}: size = {edge}: images of {LARGE} px and more are squashed")
        size, resize = edge, int(edge / found.get("crop_pct", SHARE))
    else:
        if "crop_size" not in found:  # theirs is 224 then, whatever the size
            raise ConfigError(f"{where}: does not say crop_size")
        size, resize = found["crop_size"], edge
    if resize < size:
        raise ConfigError(f"{where}: crop of {size} px of a shorter side of {resize} px")
    return Preprocess(
        size=size,
        resize=resize,
        mean=found["image_mean"],
        std=found["image_std"],
        interpolation=found["resample"],
    )


def write_transformers(
    spec: ModelSpec, seen: Preprocess | None, classes: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Their two configs of a model of ours; ConfigError where they have none like it."""
    plain = ModelSpec(
        **{
            field.name: getattr(spec, field.name)
            for field in dataclasses.fields(ModelSpec)
            if field.name in FREE
        }
    )
    for field in dataclasses.fields(ModelSpec):
        if getattr(plain, field.name) != getattr(spec, field.name):
            raise ConfigError(
                f"transformers has no network like {spec.name}: its {field.name} is "
                f"{getattr(spec, field.name)!r}, and theirs {getattr(plain, field.name)!r}"
            )
    if not spec.is_resnet or len(spec.depths) != 4:
        raise ConfigError(f"transformers has no network like {spec.name}")
    names = classes or [f"LABEL_{place}" for place in range(spec.num_classes)]
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
        "id2label": {str(place): name for place, name in enumerate(names)},
        "label2id": {name: place for place, name in enumerate(names)},
    }
    return config, None if seen is None else _processor(seen)


# Fields in which their networks may differ, or that matter in training alone.
FREE = frozenset(
    {
        *("name", "block", "depths", "widths", "stem_width", "stride_in", "num_classes"),
        *("in_channels", "input_size", "init", "zero_init_residual", "dropout", "drop_path"),
    }
)


def _processor(seen: Preprocess) -> dict[str, Any]:
    if seen.mean_image or seen.channel_order != "rgb" or seen.channels != 3:
        raise ConfigError("transformers has no processor of mean images, BGR or gray planes")
    if seen.value_range is not None:
        raise ConfigError("transformers has no processor of images with more than 8 bits")
    order = {name: number for number, name in RESAMPLE.items()}
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": seen.resize},
        "resample": order[seen.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": seen.size, "width": seen.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(seen.mean),
        "image_std": list(seen.std),
        "do_convert_rgb": True,
    }


def _side(value: Any) -> int:
    """A size: a number, a shortest edge, or a square."""
    if isinstance(value, Mapping):
        known = {name: each for name, each in value.items() if each is not None}
        if set(known) == {"shortest_edge"}:
            return positive_int(known["shortest_edge"])
        if set(known) != {"height", "width"} or known["height"] != known["width"]:
            raise ValueError("is neither a shortest edge nor a square")
        return positive_int(known["height"])
    return positive_int(value)


def _edge(value: Any) -> int:
    if isinstance(value, Mapping) and "shortest_edge" not in value:
        raise ValueError("squashes images to a square")
    return _side(value)


def _by_number(value: Any) -> tuple[str, ...]:
    """Names in the order of their numbers, of a table from name to number."""
    if not isinstance(value, Mapping) or len(set(value.values())) != len(value):
        raise ValueError("is no table from names to numbers, each of them once")
    return names_of({number: name for name, number in value.items()})


def _resample(value: Any) -> str:
    if value not in RESAMPLE:
        raise ValueError("is not how images are resized here; only 2 (bilinear) and 3 (bicubic)")
    return RESAMPLE[value]


def _factor(value: Any) -> float:
    if abs(float(value) * 255 - 1) > 1e-6:
        raise ValueError("is not 1/255")
    return float(value)


def _counts(value: Any) -> tuple[int, ...]:
    return tuple(map(positive_int, value))


_NET = {
    "layer_type": only("basic", "bottleneck"),
    "depths": _counts,
    "hidden_sizes": _counts,
    "embedding_size": positive_int,
    "hidden_act": only("relu", why="is another activation than the networks here have"),
    "downsample_in_first_stage": only(False, why="puts a stride where the networks here have none"),
    "downsample_in_bottleneck": only(False, True),
    "num_channels": positive_int,
    "num_labels": positive_int,
    "id2label": names_of,
    "label2id": _by_number,
    "problem_type": only("single_label_classification", why="is another question"),
}
_SEEN = {
    "do_resize": only(True),
    "size": _edge,
    "crop_pct": float,
    "resample": _resample,
    "do_center_crop": only(True),
    "crop_size": _side,
    "do_rescale": only(True),
    "rescale_factor": _factor,
    "do_normalize": only(True),
    "image_mean": numbers,
    "image_std": deviations,
    "do_pad": only(False),
    "default_to_square": only(True, False),
}
