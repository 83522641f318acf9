"""Read weights from a file or folder: tensors under their original names, and their metadata.

Nothing in a file is executed: see `resnets.data.files.unpickle`.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from resnets.config import (
    SOFTMAX,
    ConfigError,
    ModelSpec,
    Postprocess,
    Preprocess,
    Recipe,
    from_dict,
)
from resnets.data.transforms.preprocess import Preprocessor
from resnets.weights import folder
from resnets.weights.checkpoint.find import find_checkpoint
from resnets.weights.checkpoint.format import Checkpoint, CheckpointError, read_run_checkpoint
from resnets.weights.checkpoint.remote_store import display_path, remote_url
from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import LazyTensor, flatten, naming, stored
from resnets.weights.name_maps.maps import shorten
from resnets.weights.name_maps.rules import Tensors
from resnets.weights.readers import caffe, keras
from resnets.weights.readers.configs.class_names import classes_of, names_anywhere
from resnets.weights.readers.configs.stored_config import (
    NO_CONFIG,
    StoredConfig,
    read_stored_config,
)
from resnets.weights.readers.safetensors_file import read_metadata, read_safetensors, stated_in
from resnets.weights.readers.torch_file import read_pickled
from resnets.weights.readers.unsupported_file import refuse_folder, refuse_other_kinds

log = logging.getLogger("resnets")

# Fields of a model that the names and shapes of its tensors do not show.
UNSEEN = ("stride_in", "stem_pool", "shortcut_pool", "norm_eps", "blur_pool")


@dataclass(frozen=True)
class Weights:
    """Tensors under their original names, and what is known about their model.

    source: what the user gave, for messages. contents: all tensors of the file, read lazily. part:
    prefix of the names to take, if given (FILE#PART). fields: `ModelSpec` fields that names and
    shapes do not show. spec, classes, recipe: of the model, if stated. format, tensors: naming
    format and tensors, once recognized. head_note: why there is no usable head. head_rows: classes
    of the head. assumed: the preprocessing is the usual one of the format, none is stated.
    postprocess: of its own head. channels, stem_kernel: input channels and side of the first
    convolution. stored: the config that a training script wrote beside the tensors. other_names:
    lists there that may name the classes.
    """

    source: str
    contents: Mapping[str, LazyTensor]
    preprocess: Preprocessor | None = None
    postprocess: Postprocess = SOFTMAX
    fields: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    spec: ModelSpec | None = None
    recipe: Recipe | None = None
    part: str | None = None
    format: str | None = None
    tensors: Tensors = field(default_factory=dict)
    head_note: str = ""
    head_rows: int | None = None
    assumed: bool = False
    channels: int | None = None
    stem_kernel: int | None = None
    stored: StoredConfig = NO_CONFIG
    other_names: tuple[tuple[str, ...], ...] = ()


def split_part(source: str) -> tuple[str, str | None]:
    """Split FILE#PART, such as FILE#model_ema, into path or URL and prefix.

    ConfigError for an empty name, which as a path is the current folder.
    """
    if not source.strip():
        raise ConfigError("weights: the name is empty; give a file, a run or LIBRARY:NAME")
    place, _, part = source.rpartition("#")
    if not place or not part or Path(source).expanduser().exists():
        return source, None
    return place, part


def read_path(source: str) -> Weights:
    """Weights of a file, a run folder or a pushed folder; or of a file or run at a URL.

    Files: our checkpoints, .safetensors, torch's (.pth and others), detectron2's .pkl, Caffe's
    .caffemodel, Keras's .h5 and .keras. FILE#PART takes the tensors whose names begin with PART.
    Raises ConfigError if there is no such path, WeightsError or CheckpointError if it cannot be
    read.
    """
    whole, (source, part) = source, split_part(source)
    path = find_checkpoint(source) if remote_url(source) else Path(source).expanduser()
    if not path.exists():
        near = difflib.get_close_matches(path.name, _names_in(path.parent), 1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"weights: {source}: no such file{hint}")
    if (path / folder.CONFIG).is_file():
        return dataclasses.replace(read_folder(path, whole), part=part)
    if path.is_dir():
        refuse_folder(path)
        path = find_checkpoint(path)
    with naming(path):
        return _reader(path)(path, whole, part)


def _reader(path: Path) -> Callable[[Path, str, str | None], Weights]:
    """The reader for a file, by its first bytes; by its name for Caffe, which has none."""
    if path.suffix.lower() == ".caffemodel":
        return _read_caffe
    refuse_other_kinds(path)
    with open(path, "rb") as file:
        start = file.read(16)
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        return _read_keras
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return _read_safetensors
    if start[:2] == b"PK" and keras.is_keras(path):
        return _read_keras
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":  # torch's archives, and pickles
        return _read_pickled
    suffix = path.suffix.lower()
    return READERS.get(suffix, _read_pickled)


def _names_in(path: Path) -> list[str]:
    return [entry.name for entry in path.iterdir()] if path.is_dir() else []


def read_folder(path: Path, source: str) -> Weights:
    """A folder as `resnets push`, timm and transformers write it: config.json and tensors."""
    refuse_folder(path)
    described = folder.read_config(path)
    model = next((path / name for name in folder.MODELS if (path / name).is_file()), None)
    if model is None:
        raise WeightsError(f"{path}: has no {folder.MODEL} beside its {folder.CONFIG}")
    with naming(model):
        read = _reader(model)(model, source, None)
    image = None
    if described.preprocess is not None and described.preprocess.mean_image:
        with naming(path / folder.MEAN):
            image = read_safetensors(path / folder.MEAN)[1].get("mean_image")
    with naming(path / folder.CONFIG):
        seen = None if described.preprocess is None else Preprocessor(described.preprocess, image)
    return dataclasses.replace(
        read,
        preprocess=seen,
        fields={} if described.spec is None else unseen(described.spec),
        classes=described.classes,
        spec=described.spec,
        recipe=described.recipe,
        postprocess=described.postprocess,
    )


def read_preprocess(checkpoint: Checkpoint) -> Preprocessor:
    """The preprocessing in a checkpoint; CheckpointError if it is missing or incomplete."""
    said = checkpoint.meta.get("preprocess")
    if not isinstance(said, dict):
        raise checkpoint.invalid_entry("preprocess", "an object", said)
    try:
        spec = from_dict(Preprocess, said, where="preprocess")
        image = checkpoint.tensors.get("preprocess/mean_image")
        wanted = (spec.channels, spec.size, spec.size)
        if image is not None and tuple(image.shape) != wanted:
            raise ValueError(f"preprocess: its mean image is of {tuple(image.shape)}, not {wanted}")
        return Preprocessor(spec, image)
    except ValueError as error:
        raise CheckpointError(f"{display_path(checkpoint.path)}: {error}") from None


def read_postprocess(checkpoint: Checkpoint) -> Postprocess:
    """What the logits of a checkpoint mean; one class per image where it does not say.

    CheckpointError where it is incomplete.
    """
    said = checkpoint.meta.get("postprocess", {})
    if not isinstance(said, dict):
        raise checkpoint.invalid_entry("postprocess", "an object", said)
    try:
        spec = from_dict(Postprocess, said, where="postprocess")
        spec.check(len(checkpoint.classes))
        return spec
    except ValueError as error:
        raise CheckpointError(f"{display_path(checkpoint.path)}: {error}") from None


def unseen(spec: ModelSpec) -> dict[str, Any]:
    """The fields of `spec` that tensors do not show."""
    return {name: getattr(spec, name) for name in UNSEEN}


def _read_safetensors(path: Path, source: str, part: str | None) -> Weights:
    """A checkpoint of resnets (its averaged weights if it has them), or a plain state dict."""
    if "resnets" not in read_metadata(path):
        metadata, tensors = read_safetensors(path)
        return _beside(stated_in(metadata), _in_memory(tensors), path, source, part)
    checkpoint = read_run_checkpoint(path)
    recipe = checkpoint.recipe
    return Weights(
        source,
        _in_memory(chosen_group(checkpoint, part, source)),
        read_preprocess(checkpoint),
        read_postprocess(checkpoint),
        unseen(recipe.model),
        checkpoint.classes,
        recipe.model,
        recipe,
    )


def chosen_group(checkpoint: Checkpoint, part: str | None, source: str) -> Tensors:
    """The averaged weights of a checkpoint if it has them, else the trained ones; or `part`."""
    groups = {name: tensors for name in ("ema", "model") if (tensors := checkpoint.group(name))}
    if part is not None and part not in groups:
        raise WeightsError(f"{source}: has no {part!r}; it has {' and '.join(groups) or 'nothing'}")
    if not groups:
        raise WeightsError(f"{source}: a checkpoint without weights")
    return groups[part] if part is not None else next(iter(groups.values()))


def _in_memory(tensors: Mapping[str, Tensor]) -> dict[str, LazyTensor]:
    return {name: stored(tensor) for name, tensor in tensors.items()}


def _read_pickled(path: Path, source: str, part: str | None) -> Weights:
    """A file of torch's, or of detectron2's model zoo or Detectron before it ("blobs").

    The zoo's that were converted from torchvision say so, and keep its preprocessing and stride.
    """
    found = read_pickled(path)
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: not a state dict (names to tensors) but a {_kind(found)}")
    contents = flatten(found)
    if not contents:
        keys = shorten(str(key)[:40] for key in found)
        raise WeightsError(f"{path}: not a state dict (names to tensors) but keys {keys or 'none'}")
    weights = _beside(found, contents, path, source, part)
    _say_nameless(found, str(path))
    if found.get("__author__") == "torchvision":
        fields = {"stride_in": "3x3"}
        weights = dataclasses.replace(weights, preprocess=Preprocessor(Preprocess()), fields=fields)
    return weights


def _beside(
    found: Mapping[Any, Any],
    contents: Mapping[str, LazyTensor],
    path: Path,
    source: str,
    part: str | None,
) -> Weights:
    """Tensors with the metadata of the table `found` from the same file."""
    try:
        classes = classes_of(found, str(path))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    stored = read_stored_config(found, str(path), contents, part)
    return Weights(
        source,
        contents,
        fields={} if stored.spec is None else unseen(stored.spec),
        classes=classes,
        other_names=() if classes else tuple(names_anywhere(found)),
        spec=stored.spec,
        part=part,
        stored=stored,
    )


def _say_nameless(found: dict[Any, Any], source: str) -> None:
    """Log lists of tensors beside those with names, such as the averages of torch-ema."""
    for key, inner in found.items():
        for name, value in inner.items() if isinstance(inner, dict) else ((None, inner),):
            listed = isinstance(value, list | tuple) and len(value) > 1
            if listed and all(isinstance(each, LazyTensor) for each in value):
                place = shorten([f"{key}" if name is None else f"{key}.{name}"])
                log.info(
                    "%s: left out %s, a list of %d tensors without names; where they are averaged"
                    " weights, copy them into the network and save its state dict",
                    source, place, len(value),
                )  # fmt: skip


def _kind(found: Any) -> str:
    if isinstance(found, list | tuple) and found and all(isinstance(x, LazyTensor) for x in found):
        return f"{type(found).__name__} of {len(found)} tensors without names"
    return "tensor without a name" if isinstance(found, LazyTensor) else type(found).__name__


def _read_caffe(path: Path, source: str, part: str | None) -> Weights:
    contents = _in_memory(caffe.read_caffemodel(path))
    return Weights(source, contents, caffe.find_preprocess(path), part=part)


def _read_keras(path: Path, source: str, part: str | None) -> Weights:
    contents, fields = keras.read_keras(path)
    return Weights(source, contents, fields=fields, part=part)


READERS: Mapping[str, Callable[[Path, str, str | None], Weights]] = {
    ".safetensors": _read_safetensors,
    ".h5": _read_keras,
    ".hdf5": _read_keras,
    ".keras": _read_keras,
}
