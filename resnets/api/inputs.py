"""Images and weights as arguments of the API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from os import PathLike, fspath
from typing import TYPE_CHECKING, Union

import numpy as np
from PIL import Image
from torch import Tensor, nn

from resnets.config import ConfigError, ModelSpec
from resnets.data.dataset.probe_split import warn_unread_frames
from resnets.data.dataset.summary import announce_folders
from resnets.data.decode.arrays import describe_array
from resnets.data.errors import DataError
from resnets.data.files.walk import SkippedFiles
from resnets.data.transforms.preprocess import ImageInput
from resnets.evaluate.predict import find_images
from resnets.models import ImageClassifier
from resnets.sequence.load import SequenceModel
from resnets.utils.files.local_paths import check_path
from resnets.utils.printable import echo, format_count
from resnets.weights.checkpoint.find import read_task
from resnets.weights.given import check_names, path_or_model

if TYPE_CHECKING:
    from resnets.detect.models.base import DetectionModel

AnyWeights = str | PathLike[str] | nn.Module  # a loaded model of any task
AnyModel = Union[ImageClassifier, SequenceModel, "DetectionModel"]


def path_or_any_model(weights: AnyWeights, *, named: bool = True) -> str | AnyModel:
    """Return the path of the weights or a loaded model of any task; see `path_or_model`.

    Raises ConfigError for a module that `resnets.load` does not return.
    """
    if isinstance(weights, ImageClassifier) or not isinstance(weights, nn.Module):
        return path_or_model(weights, named=named)
    from resnets.detect.models.base import DetectionModel  # takes a second to import

    kind = type(weights).__name__
    if not isinstance(weights, DetectionModel | SequenceModel):
        raise ConfigError(f"weights: {kind} is not a model returned by resnets.load")
    if weights.recipe is None:
        raise ConfigError(
            f"{kind} ({weights.origin}) has no recipe; give a model returned by resnets.load, or "
            "its path"
        )
    if isinstance(weights, DetectionModel):
        count = weights.num_classes
    else:
        spec = weights.spec
        count = spec.num_classes if isinstance(spec, ModelSpec) else spec.vocabulary
    check_names(weights.classes, count, f"{kind} ({weights.origin})")
    return weights


def task_of(model: str | AnyModel) -> str:
    """Return the task of weights at a path, or of a loaded model."""
    if isinstance(model, str):
        return read_task(model)
    if isinstance(model, ImageClassifier):
        return "classify"
    assert model.recipe is not None  # see `path_or_any_model`
    task: str = model.recipe.task
    return task


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
        elif isinstance(each, np.ndarray | Tensor):
            expanded.extend(each if each.ndim == 4 else [each])
        elif isinstance(each, Image.Image):
            expanded.append(each)
        else:
            raise ConfigError(
                f"images: {type(each).__name__} is not an image; give a path, a PIL image, an array"
                " or a tensor"
            )
    if not quiet:
        folders = [fspath(each) for each in inputs if isinstance(each, str | PathLike)]
        announce_folders(folders, len(expanded), skipped)
        _announce_arrays(expanded)
    warn_unread_frames(expanded)
    return expanded


def _announce_arrays(images: Sequence[ImageInput]) -> None:
    """Print how arrays and tensors are understood; errors are those of their predictions."""
    forms: Counter[str] = Counter()
    for each in images:
        if isinstance(each, np.ndarray | Tensor):
            with suppress(DataError):
                forms[describe_array(each, "image")] += 1
    for form, count in forms.items():
        echo(f"{format_count(count, 'image')} in memory: {form}", error=True)
