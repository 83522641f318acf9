"""`resnets.open_data`: the images of a data set as a run sees them."""

from __future__ import annotations

from os import PathLike
from typing import Any

from resnets.api.recipe import data_source
from resnets.config import DataSpec
from resnets.data import Splits
from resnets.data import open_data as open_spec
from resnets.data.sources.objects import source_of


def open_data(data: str | PathLike[str] | DataSpec | Any, **fields: Any) -> Splits:
    """Training, validation and test images of a data set: `.train`, `.val`, `.test()`, `.classes`.

        splits = resnets.open_data("digits", val_fraction=0.2)
        len(splits.train), splits.train.labels  # (N,) int64

    data: a name, a path, a `DataSpec`, or a Python object as `resnets.train` takes it. fields: of
    `DataSpec`, such as val_fraction or split_seed. Raises DataError.
    """
    if isinstance(data, DataSpec):
        return open_spec(data)
    if isinstance(data, str | PathLike):
        return open_spec(DataSpec(source=data_source(data), **fields))
    source = source_of(data)
    return open_spec(DataSpec(source=source.name, **fields), source=source)
