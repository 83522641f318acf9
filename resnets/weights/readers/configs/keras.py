"""What a Keras file says of its network: fields that tensors do not show, the rest checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resnets.config import ConfigError
from resnets.weights.errors import WeightsError
from resnets.weights.readers.configs.field_handlers import Handler, apply_handlers, only

MOST_LAYERS = 10_000
# Of every layer: names, types and what matters in training alone.
ANY = frozenset(
    {
        *("name", "trainable", "dtype", "units", "filters", "kernel_size", "use_bias", "momentum"),
        *("kernel_initializer", "bias_initializer", "beta_initializer", "gamma_initializer"),
        *("moving_mean_initializer", "moving_variance_initializer", "kernel_regularizer"),
        *("bias_regularizer", "beta_regularizer", "gamma_regularizer", "activity_regularizer"),
        *("kernel_constraint", "bias_constraint", "beta_constraint", "gamma_constraint"),
        *(
            "synchronized",
            "renorm_momentum",
            "rate",
            "seed",
            "noise_shape",
            "batch_input_shape",
            "ragged",
        ),
        *("batch_shape", "sparse", "optional", "keepdims", "quantization_config"),
    }
)
LAST = only("channels_last")
LINEAR = only("linear", None)
ONES = only([1, 1], 1)
LAYERS: Mapping[str, Mapping[str, Handler]] = {
    "InputLayer": {},
    "Dropout": {},
    "Add": {},
    "ZeroPadding2D": {"padding": only([[3, 3], [3, 3]], [[1, 1], [1, 1]]), "data_format": LAST},
    "Conv2D": {
        "strides": only([1, 1], [2, 2]),
        "padding": only("valid", "same"),
        "data_format": LAST,
        "dilation_rate": ONES,
        "groups": only(1),
        "activation": LINEAR,
    },
    "BatchNormalization": {
        "axis": only(3, -1, [3]),
        "epsilon": float,
        "center": only(True),
        "scale": only(True),
        "renorm": only(False),
    },
    "Activation": {"activation": only("relu", "linear", "softmax")},
    "ReLU": {"max_value": only(None), "negative_slope": only(0.0, 0), "threshold": only(0.0, 0)},
    "MaxPooling2D": {
        "pool_size": only([3, 3]),
        "strides": only([2, 2]),
        "padding": only("valid"),
        "data_format": LAST,
    },
    "GlobalAveragePooling2D": {"data_format": LAST},
    "Dense": {"activation": only("softmax", "linear", None)},
    "Flatten": {"data_format": LAST},
}


def read_fields(config: Any, path: Path) -> dict[str, Any]:
    """`ModelSpec` fields of a Keras config; WeightsError names a layer that is not supported.

    Its epsilon is that of all norms; the stride is in a block's first 1x1 or in its 3x3.
    """
    epsilons: set[float] = set()
    strided: set[str] = set()
    try:
        for kind, said in _layers(config, 0):
            name = str(said.get("name", kind))[:60]
            if kind not in LAYERS:
                raise WeightsError(
                    f"{path}: layer {name} is a {kind[:40]}, which the networks here do not have"
                )
            found = apply_handlers(said, f"{path}: layer {name}", LAYERS[kind], ANY)
            if "epsilon" in found:
                epsilons.add(found["epsilon"])
            if found.get("strides") == [2, 2] and "_block" in name:
                strided.add(name.rpartition("_block1_")[2])
    except ConfigError as error:
        raise WeightsError(str(error)) from None
    fields: dict[str, Any] = {}
    if len(epsilons) > 1:
        raise WeightsError(f"{path}: norms of {len(epsilons)} epsilons; the models here have one")
    if epsilons:
        fields["norm_eps"] = epsilons.pop()
    strided -= {"0_conv"}
    if strided and strided <= {"1_conv"}:
        fields["stride_in"] = "1x1"
    elif strided and strided <= {"2_conv"}:
        fields["stride_in"] = "3x3"
    elif strided:
        raise WeightsError(f"{path}: strides in {', '.join(sorted(strided))}; not a ResNet's")
    return fields


def _layers(config: Any, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Class and fields of each layer, of models inside a model too."""
    if depth > 3:
        raise ValueError("models in models in models")
    layers = config["config"]["layers"]
    if not isinstance(layers, list) or len(layers) > MOST_LAYERS:
        raise ValueError("no list of layers")
    for layer in layers:
        kind, said = layer["class_name"], layer["config"]
        if not isinstance(kind, str) or not isinstance(said, dict):
            raise ValueError("a layer without class or fields")
        if kind in ("Functional", "Model", "Sequential"):
            yield from _layers(layer, depth + 1)
        else:
            yield kind, said
