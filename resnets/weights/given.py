"""Weights as arguments of the Python API: a path, or a model that `resnets.load` returned."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from os import PathLike, fspath
from typing import TypeVar

from torch import nn

from resnets.config import ConfigError
from resnets.models import ImageClassifier

LOADED = "only for weights in a file; omit it for a loaded model"
Weights = str | PathLike[str] | ImageClassifier  # a `Run` is a PathLike
M = TypeVar("M", bound=nn.Module)


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
                check_names(weights.classes, weights.spec.num_classes, _describe(weights))
        return weights
    if getattr(weights, "custom_model", None) is not None:
        model: ImageClassifier = weights.model  # type: ignore[union-attr]
        return model
    return fspath(weights)


def check_preprocess(model: ImageClassifier) -> None:
    """Raise ConfigError if `model` has no preprocessing."""
    if model.preprocess is None:
        raise ConfigError(
            f"{model.spec.name} ({model.origin}) has no preprocessing; save it with "
            ".save(FOLDER, classes=..., preprocess=resnets.Preprocess(...)) and give the folder"
        )


def check_names(classes: Sequence[str], count: int, model: str) -> None:
    """Raise ConfigError unless there are `count` class names; `model` describes the model."""
    if len(classes) != count:
        raise ConfigError(
            f"{model} has {len(classes)} class names for {count} classes; set its .classes"
        )


def _describe(model: ImageClassifier) -> str:
    return f"{model.spec.name} ({model.origin})"


def copy_for_inference(model: M) -> M:
    """Return a copy of a loaded model in eval mode, so that device, mode and values of it stay.

    The copy shares the record of the run's images.
    """
    record = getattr(model, "fingerprint", None)
    return copy.deepcopy(model, {id(record): record}).eval()
