"""Read weights from a file or folder: tensors under their original names, and their metadata.

Nothing in a file is executed: see `resnets.data.files.unpickle`.
"""

from __future__ import annotations

import dataclasses
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
from resnets.utils.printable import join_names
from resnets.utils.suggest import suggest_path
from resnets.weights import folder
from resnets.weights.checkpoint.find import find_checkpoint
from resnets.weights.checkpoint.format import Checkpoint, read_run_checkpoint
from resnets.weights.checkpoint.store import display_path, remote_url
from resnets.weights.errors import CheckpointError, WeightsError
from resnets.weights.lazy_tensors import LazyTensor, flatten_tensors, reading_weights, to_lazy
from resnets.weights.name_maps.formats.bit import published_preprocess
from resnets.weights.name_maps.formats.spec import Tensors
from resnets.weights.readers import caffe, keras, npz
from resnets.weights.readers.configs.class_names import find_classes, iter_name_lists
from resnets.weights.readers.configs.stored_config import (
    NO_CONFIG,
    StoredConfig,
    read_stored_config,
)
from resnets.weights.readers.safetensors_file import parse_metadata, read_metadata, read_safetensors
from resnets.weights.readers.torch_file import read_pickled
from resnets.weights.readers.unsupported_file import check_file_kind, check_folder_kind

log = logging.getLogger("resnets")

# Fields of a model that names and shapes of its tensors do not show.
HIDDEN_FIELDS = ("stride_in", "stem_pool", "shortcut_pool", "norm_eps", "blur_pool")


@dataclass(frozen=True)
class Weights:
    """Tensors under their original names, and what is known about their model.

    source: what the user gave, for messages. contents: all tensors of the file, read lazily. part:
    prefix of the names to use, if given (FILE#PART). fields: `ModelSpec` fields that names and
    shapes do not show. spec, classes, recipe: of the model, if stated. format, tensors: naming
    format and tensors, once recognized. head_note: why there is no usable head. head_rows: classes
    of the head. preprocess_assumed: whether the preprocessing is the usual one of the format, since
    the file specifies none. postprocess: of the file's own head. channels, stem_kernel: input
    channels and side of the first convolution. stored_config: the config that a training script
    stored with the tensors. other_names: lists in the file that may name the classes.
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
    preprocess_assumed: bool = False
    channels: int | None = None
    stem_kernel: int | None = None
    stored_config: StoredConfig = NO_CONFIG
    other_names: tuple[tuple[str, ...], ...] = ()


def split_part(source: str) -> tuple[str, str | None]:
    """Split FILE#PART, such as FILE#model_ema, into path or URL and prefix.

    Raises ConfigError for an empty name, which as a path would be the current folder.
    """
    if not source.strip():
        raise ConfigError("weights: the name is empty; give a file, a run or LIBRARY:NAME")
    path, _, part = source.rpartition("#")
    if not path or not part or Path(source).expanduser().exists():
        return source, None
    return path, part


def read_path(source: str) -> Weights:
    """Read the weights of a file, a run folder, a pushed folder, or a file or run at a URL.

    Files: checkpoints of this package, .safetensors, torch's (.pth and others), detectron2's .pkl,
    Caffe's .caffemodel, Keras's .h5 and .keras, BiT's .npz. FILE#PART uses the tensors whose names
    begin with PART. Raises ConfigError if there is no such path, WeightsError or CheckpointError if
    it cannot be read.
    """
    place, part = split_part(source)
    path = find_checkpoint(place) if remote_url(place) else Path(place).expanduser()
    if not path.exists():
        raise ConfigError(f"weights: {place}: no such file{suggest_path(path)}")
    if (path / folder.CONFIG).is_file():
        return dataclasses.replace(read_folder(path, source), part=part)
    if path.is_dir():
        check_folder_kind(path)
        path = find_checkpoint(path)
    with reading_weights(path):
        return _select_reader(path)(path, source, part)


def _select_reader(path: Path) -> Callable[[Path, str, str | None], Weights]:
    """Return the reader for a file, by its first bytes; by its suffix for Caffe, which has none."""
    if path.suffix.lower() == ".caffemodel":
        return _read_caffe
    check_file_kind(path)
    with open(path, "rb") as file:
        start = file.read(16)
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        return _read_keras
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return _read_safetensors
    if start[:2] == b"PK" and keras.is_keras(path):
        return _read_keras
    if start[:2] == b"PK" and npz.is_npz(path):
        return _read_npz
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":  # torch's archives, and pickles
        return _read_pickled
    suffix = path.suffix.lower()
    return READERS.get(suffix, _read_pickled)


def read_folder(path: Path, source: str) -> Weights:
    """Read a folder as `resnets push`, timm and transformers write it: config.json and tensors."""
    check_folder_kind(path)
    config = folder.read_config(path)
    model = next((path / name for name in folder.MODELS if (path / name).is_file()), None)
    if model is None:
        raise WeightsError(f"{path}: has {folder.CONFIG} but no {folder.MODEL}")
    with reading_weights(model):
        weights = _select_reader(model)(model, source, None)
    image = None
    if config.preprocess is not None and config.preprocess.mean_image:
        with reading_weights(path / folder.MEAN):
            image = read_safetensors(path / folder.MEAN)[1].get("mean_image")
    with reading_weights(path / folder.CONFIG):
        preprocess = None if config.preprocess is None else Preprocessor(config.preprocess, image)
    return dataclasses.replace(
        weights,
        preprocess=preprocess,
        fields={} if config.spec is None else hidden_fields(config.spec),
        classes=config.classes,
        spec=config.spec,
        recipe=config.recipe,
        postprocess=config.postprocess,
    )


def read_preprocess(checkpoint: Checkpoint) -> Preprocessor:
    """Return the preprocessing in a checkpoint; CheckpointError if it is missing or incomplete."""
    entry = checkpoint.meta.get("preprocess")
    if not isinstance(entry, dict):
        raise checkpoint.invalid_entry("preprocess", "an object", entry)
    try:
        spec = from_dict(Preprocess, entry, where="preprocess")
        image = checkpoint.tensors.get("preprocess/mean_image")
        shape = (spec.channels, spec.size, spec.size)
        if image is not None and tuple(image.shape) != shape:
            raise ValueError(f"preprocess: its mean image is {tuple(image.shape)}, not {shape}")
        return Preprocessor(spec, image)
    except ValueError as error:
        raise CheckpointError(f"{display_path(checkpoint.path)}: {error}") from None


def read_postprocess(checkpoint: Checkpoint) -> Postprocess:
    """Return the postprocessing in a checkpoint; without an entry, one class per image.

    Raises CheckpointError if it is incomplete.
    """
    entry = checkpoint.meta.get("postprocess", {})
    if not isinstance(entry, dict):
        raise checkpoint.invalid_entry("postprocess", "an object", entry)
    try:
        spec = from_dict(Postprocess, entry, where="postprocess")
        spec.check(len(checkpoint.classes))
        return spec
    except ValueError as error:
        raise CheckpointError(f"{display_path(checkpoint.path)}: {error}") from None


def hidden_fields(spec: ModelSpec) -> dict[str, Any]:
    """Return the fields of `spec` that names and shapes of tensors do not show."""
    return {name: getattr(spec, name) for name in HIDDEN_FIELDS}


def _read_safetensors(path: Path, source: str, part: str | None) -> Weights:
    """Read a checkpoint of this package, or a plain state dict."""
    if "resnets" not in read_metadata(path):
        metadata, tensors = read_safetensors(path)
        return _with_metadata(parse_metadata(metadata), _to_lazy(tensors), path, source, part)
    checkpoint = read_run_checkpoint(path)
    recipe = checkpoint.recipe
    return Weights(
        source,
        _to_lazy(select_group(checkpoint, part, source)),
        read_preprocess(checkpoint),
        read_postprocess(checkpoint),
        hidden_fields(recipe.model),
        checkpoint.classes,
        recipe.model,
        recipe,
    )


def select_group(checkpoint: Checkpoint, part: str | None, source: str) -> Tensors:
    """Return the averaged weights of a checkpoint, the trained ones if it has none; or `part`."""
    groups = {name: tensors for name in ("ema", "model") if (tensors := checkpoint.group(name))}
    if part is not None and part not in groups:
        raise WeightsError(f"{source}: has no {part!r}; it has {' and '.join(groups) or 'nothing'}")
    if not groups:
        raise WeightsError(f"{source}: a checkpoint without weights")
    return groups[part] if part is not None else next(iter(groups.values()))


def _to_lazy(tensors: Mapping[str, Tensor]) -> dict[str, LazyTensor]:
    return {name: to_lazy(tensor) for name, tensor in tensors.items()}


def _read_pickled(path: Path, source: str, part: str | None) -> Weights:
    """Read a file of torch, of detectron2's model zoo, or of Detectron ("blobs").

    Models of the zoo that were converted from torchvision specify it, and keep torchvision's
    preprocessing and stride.
    """
    table = read_pickled(path)
    if not isinstance(table, dict):
        kind = _describe_type(table)
        raise WeightsError(f"{path}: not a state dict (names to tensors) but a {kind}")
    contents = flatten_tensors(table)
    if not contents:
        keys = join_names(str(key)[:40] for key in table)
        raise WeightsError(f"{path}: not a state dict (names to tensors) but keys {keys or 'none'}")
    weights = _with_metadata(table, contents, path, source, part)
    _log_unnamed_tensors(table, str(path))
    if table.get("__author__") == "torchvision":
        fields = {"stride_in": "3x3"}
        weights = dataclasses.replace(weights, preprocess=Preprocessor(Preprocess()), fields=fields)
    return weights


def _with_metadata(
    table: Mapping[Any, Any],
    contents: Mapping[str, LazyTensor],
    path: Path,
    source: str,
    part: str | None,
) -> Weights:
    """Return the tensors of a file with the metadata in its `table`."""
    try:
        classes = find_classes(table, str(path))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    config = read_stored_config(table, str(path), contents, part)
    return Weights(
        source,
        contents,
        fields={} if config.spec is None else hidden_fields(config.spec),
        classes=classes,
        other_names=() if classes else tuple(iter_name_lists(table)),
        spec=config.spec,
        part=part,
        stored_config=config,
    )


def _log_unnamed_tensors(table: dict[Any, Any], source: str) -> None:
    """Log lists of tensors without names, such as the averages of torch-ema."""
    for key, inner in table.items():
        for name, value in inner.items() if isinstance(inner, dict) else ((None, inner),):
            is_list = isinstance(value, list | tuple) and len(value) > 1
            if is_list and all(isinstance(each, LazyTensor) for each in value):
                key_path = join_names([f"{key}" if name is None else f"{key}.{name}"])
                log.info(
                    "%s: ignored %s, a list of %d tensors without names; if they are averaged"
                    " weights, copy them into the network and save its state dict",
                    source, key_path, len(value),
                )  # fmt: skip


def _describe_type(value: Any) -> str:
    if isinstance(value, list | tuple) and value and all(isinstance(x, LazyTensor) for x in value):
        return f"{type(value).__name__} of {len(value)} tensors without names"
    return "tensor without a name" if isinstance(value, LazyTensor) else type(value).__name__


def _read_caffe(path: Path, source: str, part: str | None) -> Weights:
    contents = _to_lazy(caffe.read_caffemodel(path))
    return Weights(source, contents, caffe.find_preprocess(path), part=part)


def _read_keras(path: Path, source: str, part: str | None) -> Weights:
    contents, fields = keras.read_keras(path)
    return Weights(source, contents, fields=fields, part=part)


def _read_npz(path: Path, source: str, part: str | None) -> Weights:
    preprocess = published_preprocess(path.stem)
    preprocessor = None if preprocess is None else Preprocessor(preprocess)
    return Weights(source, npz.read_npz(path), preprocessor, part=part)


READERS: Mapping[str, Callable[[Path, str, str | None], Weights]] = {
    ".safetensors": _read_safetensors,
    ".h5": _read_keras,
    ".hdf5": _read_keras,
    ".keras": _read_keras,
}
