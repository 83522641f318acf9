"""Keras's files: .h5 of old and of new, and .keras, as tensors named "layer/leaf"."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnets.config import ConfigError
from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import LazyTensor, naming
from resnets.weights.readers.configs.keras import read_fields

# Keras 3 numbers the variables of a layer; these are the kinds of layer that have any here.
VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
WEIGHTS, CONFIG = "model.weights.h5", "config.json"
INFLATES = 4  # times its archive that a file in it may be long; weights hardly compress
LONGEST_CONFIG = 1 << 26  # bytes
MOST_OBJECTS = 100_000  # data sets and groups; ResNet-152 has some two thousand


def is_keras(path: Path) -> bool:
    """Whether a zip archive is Keras's."""
    try:
        with zipfile.ZipFile(path) as archive:
            return WEIGHTS in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def read_keras(path: Path) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """Tensors of a .keras or .h5 file, as its layers are named, such as "conv1_conv/kernel".

    And the `ModelSpec` fields that the model's description in the file tells. Raises ConfigError
    where h5py is not installed, WeightsError for a damaged or nameless file, and for a model that
    computes otherwise than those here.
    """
    with naming(path):
        if path.suffix == ".keras" or zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                config = json.loads(_member(archive, CONFIG, LONGEST_CONFIG))
                limit = INFLATES * path.stat().st_size + LONGEST_CONFIG
                data = _member(archive, WEIGHTS, limit)
            return _read_h5(data, path, _numbered_layers(config)), read_fields(config, path)
        contents = _read_h5(path, path, {})
        said = _model_config(path)
        return contents, {} if said is None else read_fields(said, path)


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    if archive.getinfo(name).file_size > limit:
        raise ValueError(f"{name} in it is far longer than the archive; not read")
    return archive.read(name)


def _open(data: bytes | Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise ConfigError("Keras's files are read with h5py; pip install 'resnets[hub]'") from None
    return h5py.File(data if isinstance(data, Path) else io.BytesIO(data), "r")


def _model_config(path: Path) -> Any:
    """The model's description in a whole model of old."""
    with _open(path) as file:
        said = file.attrs.get("model_config")
    return None if said is None else json.loads(said)


def _read_h5(data: bytes | Path, path: Path, layers: Mapping[str, str]) -> dict[str, LazyTensor]:
    """The tensors' shapes now, their values when they are asked for."""
    found: dict[str, LazyTensor] = {}
    count = 0
    with _open(data) as file:
        import h5py

        def visit(where: str, item: Any) -> None:
            nonlocal count
            count += 1
            if count > MOST_OBJECTS:
                raise ValueError(f"more than {MOST_OBJECTS:,} objects in it")
            if not isinstance(item, h5py.Dataset) or where.startswith("optimizer"):
                return
            if item.external or item.is_virtual:
                raise WeightsError(
                    f"{path}: {where} takes its values from other files; not read. Save the model "
                    "again, whole"
                )
            if item.dtype.kind != "f" or item.dtype.itemsize > 8:
                return
            said = item.parent.attrs.get("name", "")
            said = said.decode() if isinstance(said, bytes) else str(said)
            name = _name(where, said, layers, path)
            found[name] = LazyTensor(tuple(item.shape), _reader(data, where, path))

        file.visititems(visit)
    return found


def _reader(data: bytes | Path, where: str, path: Path) -> Any:
    def read() -> Tensor:
        with naming(path), _open(data) as file:
            values = file[where][()]
        return torch.from_numpy(np.array(values, values.dtype.newbyteorder("=")))

    return read


def _name(where: str, name: str, layers: Mapping[str, str], path: Path) -> str:
    """ "layer/leaf" of the dataset at `where`.

    Files of old say it in full: conv1_conv/conv1_conv/kernel:0. Keras 3 has layers/conv2d_1/vars/0,
    with the layer's `name` beside it or only in config.json.
    """
    *parents, leaf = where.split("/")
    if not parents or parents[-1] != "vars":
        return f"{parents[-1] if parents else ''}/{leaf.partition(':')[0]}"
    numbered = parents[-2] if len(parents) > 1 else ""
    layer = name or layers.get(numbered)
    kind = VARIABLES.get(re.sub(r"_\d+$", "", numbered), ())
    if layer is None or not leaf.isdecimal() or int(leaf) >= len(kind):
        raise WeightsError(f"{path}: does not name its layers; save the whole model, as .keras")
    return f"{layer}/{kind[int(leaf)]}"


def _numbered_layers(config: Mapping[str, Any]) -> dict[str, str]:
    """ "conv2d_1" -> "conv2_block1_1_conv": layers of a class, numbered as the config has them."""
    seen: Counter[str] = Counter()
    names = {}
    for layer in config["config"]["layers"]:
        kind = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", layer["class_name"]).lower()
        names[f"{kind}_{seen[kind]}" if seen[kind] else kind] = layer["config"]["name"]
        seen[kind] += 1
    return names
