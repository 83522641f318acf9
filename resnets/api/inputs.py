"""Data sets and weights as arguments of the API; `resnets.open_data`."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike, fspath
from typing import Any

from resnets.config import ConfigError, DataSpec
from resnets.config.data import data_source
from resnets.data import Splits
from resnets.data import open_data as open_spec
from resnets.data.sources.objects import open_objects
from resnets.models import ImageClassifier
from resnets.utils.argument_names import names_arguments

LOADED = "is for weights in a file; leave it out for a loaded model"
Weights = str | PathLike[str] | ImageClassifier  # a `Run` is a PathLike


@names_arguments
def open_data(data: str | PathLike[str] | DataSpec | Any, **fields: Any) -> Splits:
    """Open the images of a data set as a run does: `.train`, `.val`, `.test()`, `.classes`.

        splits = resnets.open_data("digits", val_fraction=0.2)
        len(splits.train), splits.train.labels  # (N,) int64

    data: a name, a path, a `DataSpec`, or a Python object as `resnets.train` takes it. fields: of
    `DataSpec`, such as val_fraction or split_seed. Raises DataError.
    """
    if isinstance(data, DataSpec):
        return open_spec(replace(data, **fields))
    if isinstance(data, str | PathLike):
        return open_spec(DataSpec(source=data_source(data), **fields))
    source = open_objects(data)
    return open_spec(DataSpec(source=source.name, **fields), source=source)


def path_or_model(weights: Weights) -> str | ImageClassifier:
    """Return the path of weights, or the model if it cannot be loaded from a path alone.

    That is a loaded model, and that of a `Run` whose network is from outside the package.
    """
    if isinstance(weights, ImageClassifier):
        return weights
    if getattr(weights, "custom_model", None) is not None:
        model: ImageClassifier = weights.model  # type: ignore[union-attr]
        return model
    return fspath(weights)


def refuse_options(why: str, **options: object) -> None:
    """Raise ConfigError for the first option that is set."""
    for name, value in options.items():
        if value:
            raise ConfigError(f"--{name.replace('_', '-')} {why}")
