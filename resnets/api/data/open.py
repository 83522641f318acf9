"""`resnets.open_data`: the images of a data set, as a run opens them."""

from __future__ import annotations

from os import PathLike
from typing import Any

from resnets.config import ConfigError, DataSpec, from_dict, to_dict
from resnets.config.data import data_source
from resnets.data import Splits
from resnets.data import open_data as open_spec
from resnets.data.dataset.source import Source
from resnets.data.sources.objects import open_objects
from resnets.utils.api_function import api_function


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
