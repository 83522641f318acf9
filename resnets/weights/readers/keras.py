"""Reader of Keras's files (.h5 of all versions, .keras) as tensors "layer/leaf", and their config.

Fields of the config that tensors do not show are returned, all others are checked.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnets.config import ConfigError
from resnets.utils.files.json import parse_json
from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import LazyTensor, reading_weights
from resnets.weights.readers.configs.field_handlers import Handler, apply_handlers, only

# Keras 3 numbers the variables of a layer: their names by the kind of layer.
VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
WEIGHTS, CONFIG = "model.weights.h5", "config.json"
MAX_RATIO = 4  # size of a file over that of its archive; weights hardly compress
MAX_CONFIG_SIZE = 1 << 26  # bytes
MAX_OBJECTS = 100_000  # data sets and groups; ResNet-152 has some two thousand
MAX_LAYERS = 10_000
# Fields of any layer without effect on outputs: names, types, settings of training.
NO_EFFECT = frozenset(
    {
        "name", "trainable", "dtype", "units", "filters", "kernel_size", "use_bias", "momentum",
        "kernel_initializer", "bias_initializer", "beta_initializer", "gamma_initializer",
        "moving_mean_initializer", "moving_variance_initializer", "kernel_regularizer",
        "bias_regularizer", "beta_regularizer", "gamma_regularizer", "activity_regularizer",
        "kernel_constraint", "bias_constraint", "beta_constraint", "gamma_constraint",
        "synchronized", "renorm_momentum", "rate", "seed", "noise_shape", "batch_input_shape",
        "ragged", "batch_shape", "sparse", "optional", "keepdims", "quantization_config",
    }
)  # fmt: skip
CHANNELS_LAST = only("channels_last")
LINEAR = only("linear", None)
ONES = only([1, 1], 1)
LAYERS: Mapping[str, Mapping[str, Handler]] = {
    "InputLayer": {},
    "Dropout": {},
    "Add": {},
    "ZeroPadding2D": {
        "padding": only([[3, 3], [3, 3]], [[1, 1], [1, 1]]),
        "data_format": CHANNELS_LAST,
    },
    "Conv2D": {
        "strides": only([1, 1], [2, 2]),
        "padding": only("valid", "same"),
        "data_format": CHANNELS_LAST,
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
        "data_format": CHANNELS_LAST,
    },
    "GlobalAveragePooling2D": {"data_format": CHANNELS_LAST},
    "Dense": {"activation": only("softmax", "linear", None)},
    "Flatten": {"data_format": CHANNELS_LAST},
}


def is_keras(path: Path) -> bool:
    """Return whether a zip archive is of Keras."""
    try:
        with zipfile.ZipFile(path) as archive:
            return WEIGHTS in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def read_keras(path: Path) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """Return tensors of a .keras or .h5 file by layer, such as "conv1_conv/kernel", and fields.

    The second value are `ModelSpec` fields from the model's config in the file. Raises ConfigError
    if h5py is not installed, WeightsError for a damaged file, one without names of layers, and a
    model that computes otherwise than those of this package.
    """
    with reading_weights(path):
        if path.suffix == ".keras" or zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                config = parse_json(_read_member(archive, CONFIG, MAX_CONFIG_SIZE))
                limit = MAX_RATIO * path.stat().st_size + MAX_CONFIG_SIZE
                data = _read_member(archive, WEIGHTS, limit)
            return _read_h5(data, path, _number_layers(config)), read_fields(config, path)
        contents = _read_h5(path, path, {})
        config = _read_model_config(path)
        return contents, {} if config is None else read_fields(config, path)


def _read_member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    if archive.getinfo(name).file_size > limit:
        raise ValueError(f"its {name} is far longer than the archive; not read")
    return archive.read(name)


def _open_h5(data: bytes | Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise ConfigError("reading Keras's files needs h5py; pip install 'resnets[hub]'") from None
    return h5py.File(data if isinstance(data, Path) else io.BytesIO(data), "r")


def _read_model_config(path: Path) -> Any:
    """Return the config in an .h5 file of a whole model, None without one."""
    with _open_h5(path) as file:
        config = file.attrs.get("model_config")
    return None if config is None else parse_json(config)


def _read_h5(data: bytes | Path, path: Path, layers: Mapping[str, str]) -> dict[str, LazyTensor]:
    """Return the tensors of an .h5 file, whose values are read on demand."""
    tensors: dict[str, LazyTensor] = {}
    count = 0
    with _open_h5(data) as file:
        import h5py

        def visit(key: str, item: Any) -> None:
            nonlocal count
            count += 1
            if count > MAX_OBJECTS:
                raise ValueError(f"it has more than {MAX_OBJECTS:,} objects")
            if not isinstance(item, h5py.Dataset) or key.startswith("optimizer"):
                return
            if item.external or item.is_virtual:
                raise WeightsError(
                    f"{path}: {key} is stored in other files, which is not supported; save the "
                    "whole model again"
                )
            if item.dtype.kind != "f" or item.dtype.itemsize > 8:
                return
            layer = item.parent.attrs.get("name", "")
            layer = layer.decode() if isinstance(layer, bytes) else str(layer)
            name = _tensor_name(key, layer, layers, path)
            tensors[name] = LazyTensor(tuple(item.shape), _make_reader(data, key, path))

        file.visititems(visit)
    if any("_preact_bn/" in name for name in tensors):
        raise WeightsError(
            f"{path}: is a Keras ResNetV2, whose pre-activation blocks are not supported"
        )
    return tensors


def _make_reader(data: bytes | Path, key: str, path: Path) -> Any:
    def read() -> Tensor:
        with reading_weights(path), _open_h5(data) as file:
            values = file[key][()]
        return torch.from_numpy(np.array(values, values.dtype.newbyteorder("=")))

    return read


def _tensor_name(key: str, name: str, layers: Mapping[str, str], path: Path) -> str:
    """Return "layer/leaf" for the dataset `key`.

    Old files have conv1_conv/conv1_conv/kernel:0. Keras 3 has layers/conv2d_1/vars/0, with the
    `name` of the layer in an attribute or only in config.json.
    """
    *parents, leaf = key.split("/")
    if not parents or parents[-1] != "vars":
        return f"{parents[-1] if parents else ''}/{leaf.partition(':')[0]}"
    numbered = parents[-2] if len(parents) > 1 else ""
    layer = name or layers.get(numbered)
    kind = VARIABLES.get(re.sub(r"_\d+$", "", numbered), ())
    if layer is None or not leaf.isdecimal() or int(leaf) >= len(kind):
        raise WeightsError(f"{path}: contains no layer names; save the whole model as .keras")
    return f"{layer}/{kind[int(leaf)]}"


def _number_layers(config: Mapping[str, Any]) -> dict[str, str]:
    """Return "conv2d_1" -> "conv2_block1_1_conv": layers of a class in the config's order."""
    counts: Counter[str] = Counter()
    names = {}
    for layer in config["config"]["layers"]:
        kind = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", layer["class_name"]).lower()
        names[f"{kind}_{counts[kind]}" if counts[kind] else kind] = layer["config"]["name"]
        counts[kind] += 1
    return names


def read_fields(config: Any, path: Path) -> dict[str, Any]:
    """Return the `ModelSpec` fields of a Keras config: the norms' epsilon and where strides are.

    Raises WeightsError for a layer that is not supported.
    """
    epsilons: set[float] = set()
    strided: set[str] = set()
    try:
        for kind, fields_in_file in _iter_layers(config, 0):
            name = str(fields_in_file.get("name", kind))[:60]
            if kind not in LAYERS:
                raise WeightsError(f"{path}: layer {name} is a {kind[:40]}, which is not supported")
            found = apply_handlers(fields_in_file, f"{path}: layer {name}", LAYERS[kind], NO_EFFECT)
            if "epsilon" in found:
                epsilons.add(found["epsilon"])
            if found.get("strides") == [2, 2] and "_block" in name:
                strided.add(name.rpartition("_block1_")[2])
    except ConfigError as error:
        raise WeightsError(str(error)) from None
    fields: dict[str, Any] = {}
    if len(epsilons) > 1:
        raise WeightsError(
            f"{path}: has norms with {len(epsilons)} different epsilons; models of this package "
            "have one"
        )
    if epsilons:
        fields["norm_eps"] = epsilons.pop()
    strided -= {"0_conv"}
    if strided and strided <= {"1_conv"}:
        fields["stride_in"] = "1x1"
    elif strided and strided <= {"2_conv"}:
        fields["stride_in"] = "3x3"
    elif strided:
        raise WeightsError(f"{path}: strides in {', '.join(sorted(strided))}; not of a ResNet")
    return fields


def _iter_layers(config: Any, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield class and fields of each layer, also of models within the model."""
    if depth > 3:
        raise ValueError("models are nested too deeply")
    layers = config["config"]["layers"]
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise ValueError("no list of layers, or too many")
    for layer in layers:
        kind, fields = layer["class_name"], layer["config"]
        if not isinstance(kind, str) or not isinstance(fields, dict):
            raise ValueError("a layer without class or fields")
        if kind in ("Functional", "Model", "Sequential"):
            yield from _iter_layers(layer, depth + 1)
        else:
            yield kind, fields
