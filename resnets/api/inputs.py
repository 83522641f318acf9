"""Data sets, images and weights as arguments of the API, and `resnets.open_data`."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import nn

from resnets.config import ConfigError, DataSpec, from_dict, to_dict
from resnets.config.data import data_source
from resnets.data import Splits
from resnets.data import open_data as open_spec
from resnets.data.dataset.probe_split import warn_unread_frames
from resnets.data.dataset.source import Source
from resnets.data.dataset.summary import announce_folders
from resnets.data.files.walk import SkippedFiles
from resnets.data.sources.objects import open_objects
from resnets.data.transforms.preprocess import ImageInput
from resnets.evaluate.predict import find_images
from resnets.models import ImageClassifier
from resnets.utils.api_function import api_function
from resnets.utils.files.write import check_path
from resnets.weights.checkpoint.find import read_task

if TYPE_CHECKING:
    from resnets.detect.models.base import DetectionModel
    from resnets.sequence.predict import SequenceModel

LOADED = "only for weights in a file; omit it for a loaded model"
Weights = str | PathLike[str] | ImageClassifier  # a `Run` is a PathLike
AnyWeights = str | PathLike[str] | nn.Module  # includes detectors, segmenters and localizers


@api_function
def open_data(data: str | PathLike[str] | DataSpec | Any, **fields: Any) -> Splits:
    """Open the images of a data set as a run does.

        splits = resnets.open_data("digits", val_fraction=0.2)
        len(splits.train), splits.train.labels  # (N,) int64

    Args:
        data: A name, a path, a `DataSpec`, or a Python object, as for `resnets.train`.
        **fields: Fields of `DataSpec`, such as val_fraction or split_seed.

    Returns `Splits` with `.train`, `.val`, `.test()` and `.classes`. Raises DataError, and
    ConfigError for an unknown field.
    """
    source: Source | None = None
    if isinstance(data, DataSpec):
        spec = data
    elif isinstance(data, str | PathLike):
        spec = DataSpec(source=data_source(data))
    else:
        source = open_objects(data)
        spec = DataSpec(source=source.name)
    if "source" in fields:
        raise ConfigError("source: already set by the first argument; omit one of them")
    return open_spec(from_dict(DataSpec, to_dict(spec) | fields, "open_data"), source=source)


def path_or_model(
    weights: Weights, *, complete: bool = True, named: bool = True
) -> str | ImageClassifier:
    """Return the path of the weights, or the model if a path is not enough to load it.

    The model is returned if it was loaded before, or if it belongs to a `Run` of a custom network.
    Raises ConfigError for a model without head or preprocessing if `complete`, and also for a model
    without class names if `named`.
    """
    if isinstance(weights, ImageClassifier):
        if complete:
            if isinstance(weights.head, nn.Identity):
                raise ConfigError(
                    f"{weights.spec.name} ({weights.origin}) has no head; give a model with a head"
                )
            check_preprocess(weights)
            if named:
                _check_names(weights)
        return weights
    if getattr(weights, "custom_model", None) is not None:
        model: ImageClassifier = weights.model  # type: ignore[union-attr]
        return model
    return fspath(weights)


def path_or_any_model(
    weights: AnyWeights, *, named: bool = True
) -> str | ImageClassifier | DetectionModel:
    """Return the path of the weights or a loaded model of any image task; see `path_or_model`.

    Raises ConfigError for a module that `resnets.load` does not return.
    """
    if isinstance(weights, ImageClassifier) or not isinstance(weights, nn.Module):
        return path_or_model(weights, named=named)
    from resnets.detect.models.base import DetectionModel  # takes a second to import

    kind = type(weights).__name__
    if not isinstance(weights, DetectionModel):
        raise ConfigError(f"weights: {kind} is not an image model returned by resnets.load")
    if weights.preprocess is None or weights.recipe is None:
        raise ConfigError(
            f"{kind} ({weights.origin}) has no preprocessing; give a model returned by "
            "resnets.load, or its path"
        )
    if len(weights.classes) != weights.num_classes:
        raise ConfigError(
            f"{kind} ({weights.origin}) has {len(weights.classes)} class names for "
            f"{weights.num_classes} classes; set its .classes"
        )
    return weights


def task_of(model: str | ImageClassifier | DetectionModel | SequenceModel) -> str:
    """Return the task of weights at a path, or of a loaded model."""
    if isinstance(model, str):
        return read_task(model)
    if isinstance(model, ImageClassifier):
        return "classify"
    assert model.recipe is not None  # see `path_or_any_model`
    return model.recipe.task


def check_loaded_runtime(backend: str, precision: str) -> None:
    """Raise ConfigError for a backend or precision that loaded models do not support."""
    if backend not in ("auto", "torch") or precision == "int8":
        raise ConfigError(
            "a loaded model always runs in torch and never in int8; give its path to use "
            "another backend"
        )


def check_preprocess(model: ImageClassifier) -> None:
    """Raise ConfigError if `model` has no preprocessing."""
    if model.preprocess is None:
        raise ConfigError(
            f"{model.spec.name} ({model.origin}) has no preprocessing; save it with "
            ".save(FOLDER, classes=..., preprocess=resnets.Preprocess(...)) and give the folder"
        )


def _check_names(model: ImageClassifier) -> None:
    if len(model.classes) != model.spec.num_classes:
        raise ConfigError(
            f"{model.spec.name} ({model.origin}) has {len(model.classes)} class names for "
            f"{model.spec.num_classes} classes; set its .classes"
        )


def refuse_options(why: str, **options: object) -> None:
    """Raise ConfigError for the first option that is set."""
    for name, value in options.items():
        if value:
            raise ConfigError(f"--{name.replace('_', '-')}: {why}")


def list_inputs(images: ImageInput | Sequence[ImageInput]) -> list[ImageInput]:
    """Return one image or a sequence of images as a list."""
    if isinstance(images, str) or not isinstance(images, Sequence):
        return [images]
    return list(images)


def expand_folders(images: ImageInput | Sequence[ImageInput], quiet: bool) -> list[ImageInput]:
    """Return images as a list in which each folder is replaced by the images in it."""
    inputs = list_inputs(images)
    expanded: list[ImageInput] = []
    skipped = SkippedFiles()
    for each in inputs:
        if isinstance(each, str | PathLike):
            check_path(fspath(each))
            expanded.extend(find_images([fspath(each)], skipped))
        elif isinstance(each, Image.Image | np.ndarray):
            expanded.append(each)
        else:
            raise ConfigError(
                f"images: {type(each).__name__} is not an image; give a path, a PIL image or a"
                " uint8 array (H, W[, C])"
            )
    if not quiet:
        folders = [fspath(each) for each in inputs if isinstance(each, str | PathLike)]
        announce_folders(folders, len(expanded), skipped)
    warn_unread_frames(expanded)
    return expanded
