"""What the functions of the API take as weights."""

from __future__ import annotations

from os import PathLike, fspath

from resnets.models import ImageClassifier

Weights = str | PathLike[str] | ImageClassifier  # a `Run` is a PathLike


def path_or_model(weights: Weights) -> str | ImageClassifier:
    """The path of weights, or a loaded model: that of a `Run` whose network is a Python object."""
    if isinstance(weights, ImageClassifier):
        return weights
    if getattr(weights, "custom_model", None) is not None:
        model: ImageClassifier = weights.model  # type: ignore[union-attr]
        return model
    return fspath(weights)
