"""Weights from a file or folder: tensors as their maker named them, and what he said of their use.

Nothing in a file is executed: torch files are read with `weights_only`, pickles by a reader that
knows arrays only.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from resnets.config import ConfigError, ModelSpec, Preprocess, Recipe, from_dict, stored_recipe
from resnets.data.preprocess import Preprocessor
from resnets.data.unpickle import PickleError, unpickle
from resnets.data.unpickle_numpy import ARRAYS
from resnets.weights import caffe, folder, keras
from resnets.weights.checkpoint import Checkpoint, find_checkpoint, read_checkpoint
from resnets.weights.errors import WeightsError
from resnets.weights.maps import shorten
from resnets.weights.rules import Tensors
from resnets.weights.store_url import url_of

# Where training scripts put the state dict in what they save, and what wrappers put before names.
WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
# Harmless classes beside tensors in such files: options, and the best error as a numpy number.
SCALAR = np.float64(0).__reduce__()[0]  # the function that makes numpy numbers
HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    (SCALAR, "numpy.core.multiarray.scalar"),
    (SCALAR, "numpy._core.multiarray.scalar"),
]
# Fields of a net that the names and shapes of its tensors do not show.
UNSEEN = ("stride_in", "stem_pool", "norm_eps", "blur_pool")


@dataclass(frozen=True)
class Weights:
    """Tensors as their maker named them, and what is known of the net they are of.

    source: what the user asked for, for messages. fields: `ModelSpec` fields that names and shapes
    do not show. spec, classes, recipe: of that net, where the source says. format: how the tensors
    are named, once that is recognised.
    """

    source: str
    tensors: Tensors
    preprocess: Preprocessor | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    spec: ModelSpec | None = None
    recipe: Recipe | None = None
    format: str | None = None


def read_path(source: str) -> Weights:
    """Weights of a file, a run folder or a pushed folder; or of a file or run behind a URL.

    Files: our checkpoints, .safetensors, torch's (.pth and others), detectron2's .pkl, Caffe's
    .caffemodel, Keras's .h5 and .keras. Raises ConfigError where there is no such path,
    WeightsError or CheckpointError where it cannot be read.
    """
    path = find_checkpoint(source) if url_of(source) else Path(source).expanduser()
    if not path.exists():
        near = difflib.get_close_matches(path.name, _names_in(path.parent), 1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"weights: {source}: no such file{hint}")
    if (path / folder.CONFIG).is_file():
        return read_folder(path, source)
    if path.is_dir():
        path = find_checkpoint(path)
    return READERS.get(path.suffix.lower(), _read_torch)(path, source)


def _names_in(path: Path) -> list[str]:
    return [entry.name for entry in path.iterdir()] if path.is_dir() else []


def read_folder(path: Path, source: str) -> Weights:
    """A folder as `resnets push` and timm write it: config.json beside model.safetensors."""
    described = folder.read_config(path)
    tensors = _state_dict(_load_safetensors(path / folder.MODEL), path / folder.MODEL)
    image = None
    if described.preprocess is not None and described.preprocess.mean_image:
        image = _load_safetensors(path / folder.MEAN).get("mean_image")
    return Weights(
        source,
        tensors,
        None if described.preprocess is None else Preprocessor(described.preprocess, image),
        {} if described.spec is None else unseen(described.spec),
        described.classes,
        described.spec,
        described.recipe,
    )


def read_preprocess(checkpoint: Checkpoint) -> Preprocessor:
    """The preprocessing stored with the weights."""
    spec = from_dict(Preprocess, checkpoint.meta["preprocess"], where=str(checkpoint.path))
    return Preprocessor(spec, checkpoint.tensors.get("preprocess/mean_image"))


def unseen(spec: ModelSpec) -> dict[str, Any]:
    """The fields of `spec` that its tensors do not show."""
    return {name: getattr(spec, name) for name in UNSEEN}


def _read_safetensors(path: Path, source: str) -> Weights:
    """A checkpoint of ours (averaged weights where it has them), or a plain state dict."""
    tensors = _load_safetensors(path)
    with safetensors.safe_open(path, framework="pt") as file:
        ours = "resnets" in (file.metadata() or {})
    if not ours:
        return Weights(source, _state_dict(tensors, path))
    checkpoint = read_checkpoint(path)
    recipe = stored_recipe(checkpoint.meta["recipe"], where=str(path))
    return Weights(
        source,
        checkpoint.group("ema") or checkpoint.group("model"),
        read_preprocess(checkpoint),
        unseen(recipe.model),
        tuple(checkpoint.meta["classes"]),
        recipe.model,
        recipe,
    )


def _load_safetensors(path: Path) -> Tensors:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be read as weights: {_reason(error)}") from None


def _read_torch(path: Path, source: str) -> Weights:
    """A torch file: a state dict, or one among what a training script saved."""
    try:
        with torch.serialization.safe_globals(HARMLESS):
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # arbitrary bytes make the reader raise errors of any kind
        raise WeightsError(f"{path}: cannot be read as weights: {_reason(error)}") from None
    return Weights(source, _state_dict(found, path))


def _read_detectron(path: Path, source: str) -> Weights:
    """A .pkl of detectron2's model zoo, or of Detectron before it (arrays by name, or "blobs").

    Those converted from torchvision say so, and keep its preprocessing and stride.
    """
    try:
        found = unpickle(path.read_bytes(), ARRAYS)
    except PickleError as error:
        raise WeightsError(f"{path}: {error}") from None
    author = found.get("__author__") if isinstance(found, dict) else None
    if isinstance(found, dict):
        found = found.get("model", found.get("blobs", found))
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: not a dict of arrays but {type(found).__name__}")
    tensors = {
        str(name): torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))
        for name, array in found.items()
        if isinstance(array, np.ndarray)
    }
    tensors = _state_dict(tensors, path)
    if author == "torchvision":
        return Weights(source, tensors, Preprocessor(Preprocess()), {"stride_in": "3x3"})
    return Weights(source, tensors)


def _read_caffe(path: Path, source: str) -> Weights:
    tensors = caffe.read_caffemodel(path)
    return Weights(source, tensors, caffe.find_preprocess(path))


def _read_keras(path: Path, source: str) -> Weights:
    return Weights(source, keras.read_keras(path))


READERS: Mapping[str, Callable[[Path, str], Weights]] = {
    ".safetensors": _read_safetensors,
    ".pkl": _read_detectron,
    ".caffemodel": _read_caffe,
    ".h5": _read_keras,
    ".hdf5": _read_keras,
    ".keras": _read_keras,
}


def _state_dict(found: Any, path: Path) -> Tensors:
    """The names and tensors in what a file held, without wrappers and common prefixes."""
    if isinstance(found, dict):
        inner = (found[key] for key in WRAPPERS if isinstance(found.get(key), dict))
        found = next(inner, found)
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(item, Tensor) for item in found.values())
    ):
        kind = f"keys {shorten(map(str, found))}" if isinstance(found, dict) else type(found)
        raise WeightsError(f"{path}: not a state dict (names to tensors) but {kind}")
    tensors = dict(found)
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _reason(error: Exception) -> str:
    """First line of what a reader said."""
    return (str(error).splitlines() or [type(error).__name__])[0]
