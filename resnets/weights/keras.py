"""Keras's files: .h5 of old and of new, and .keras, as tensors named "layer/leaf"."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from resnets.config import ConfigError
from resnets.weights.errors import WeightsError

# Keras 3 numbers the variables of a layer; these are the kinds of layer that have any here.
VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
WEIGHTS, CONFIG = "model.weights.h5", "config.json"


def read_keras(path: Path) -> dict[str, Tensor]:
    """Tensors of a .keras or .h5 file, as its layers are named, such as "conv1_conv/kernel".

    Raises ConfigError where h5py is not installed, WeightsError for a damaged or nameless file.
    """
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read(CONFIG))
                data = io.BytesIO(archive.read(WEIGHTS))
            return _read_h5(data, path, _numbered_layers(config))
        with open(path, "rb") as file:
            return _read_h5(file, path, {})
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path}: damaged or no Keras file ({error})") from None


def _read_h5(data: BinaryIO, path: Path, layers: Mapping[str, str]) -> dict[str, Tensor]:
    try:
        import h5py
    except ImportError:
        raise ConfigError(
            f"{path}: Keras's files are read with h5py; pip install 'resnets[hub]'"
        ) from None
    arrays: dict[str, tuple[np.ndarray, str]] = {}

    def visit(where: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not where.startswith("optimizer"):
            name = item.parent.attrs.get("name", "")
            arrays[where] = item[()], name.decode() if isinstance(name, bytes) else str(name)

    try:
        with h5py.File(data, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path}: damaged or no HDF5 file ({error})") from None
    return {
        _name(where, name, layers, path): torch.from_numpy(np.array(array))
        for where, (array, name) in arrays.items()
        if array.dtype.kind == "f"
    }


def _name(where: str, name: str, layers: Mapping[str, str], path: Path) -> str:
    """ "layer/leaf" of the dataset at `where`.

    Files of old say it in full: conv1_conv/conv1_conv/kernel:0. Keras 3 has layers/conv2d_1/vars/0,
    with the layer's `name` beside it or only in config.json.
    """
    *parents, leaf = where.split("/")
    if not parents or parents[-1] != "vars":
        return f"{parents[-1] if parents else ''}/{leaf.partition(':')[0]}"
    numbered = parents[-2]
    layer = name or layers.get(numbered)
    kind = re.sub(r"_\d+$", "", numbered)
    if layer is None or kind not in VARIABLES:
        raise WeightsError(f"{path}: does not name its layers; save the whole net, as .keras")
    return f"{layer}/{VARIABLES[kind][int(leaf)]}"


def _numbered_layers(config: Mapping[str, Any]) -> dict[str, str]:
    """ "conv2d_1" -> "conv2_block1_1_conv": layers of a class, numbered as the config has them."""
    seen: Counter[str] = Counter()
    names = {}
    for layer in config["config"]["layers"]:
        kind = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", layer["class_name"]).lower()
        names[f"{kind}_{seen[kind]}" if seen[kind] else kind] = layer["config"]["name"]
        seen[kind] += 1
    return names
