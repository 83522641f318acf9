"""Settings that decide a result: frozen, typed dataclasses that are read from and written to TOML.

Each run and checkpoint contains its `Recipe`, which is enough to repeat the run. Variants are data,
not subclasses: a plain network differs from a residual one in one field of `ModelSpec`.
"""

from resnets.config.data import AugmentSpec, DataSpec, Preprocess, parse_group
from resnets.config.detect import DetectSpec
from resnets.config.model import Block, ModelSpec
from resnets.config.optim import (
    DistillSpec,
    EvalSpec,
    FinetuneSpec,
    LossSpec,
    OptimSpec,
    ScheduleSpec,
)
from resnets.config.postprocess import SOFTMAX, Postprocess
from resnets.config.recipe import Recipe, format_duration, parse_duration
from resnets.config.sequence import SignalSpec, TransformerSpec
from resnets.config.serialization import (
    differing_fields,
    dump_json,
    explicit_fields,
    flatten_fields,
    from_dict,
    from_stored_dict,
    from_toml,
    read_field_names,
    replace_fields,
    to_dict,
    to_toml,
)
from resnets.config.unread_fields import DEFAULTS, check_explicit_fields, iter_fields
from resnets.utils.errors import ConfigError

__all__ = [
    "DEFAULTS",
    "SOFTMAX",
    "AugmentSpec",
    "Block",
    "ConfigError",
    "DataSpec",
    "DetectSpec",
    "DistillSpec",
    "EvalSpec",
    "FinetuneSpec",
    "LossSpec",
    "ModelSpec",
    "OptimSpec",
    "Postprocess",
    "Preprocess",
    "Recipe",
    "ScheduleSpec",
    "SignalSpec",
    "TransformerSpec",
    "check_explicit_fields",
    "differing_fields",
    "dump_json",
    "explicit_fields",
    "flatten_fields",
    "format_duration",
    "from_dict",
    "from_stored_dict",
    "from_toml",
    "iter_fields",
    "parse_duration",
    "parse_group",
    "read_field_names",
    "replace_fields",
    "to_dict",
    "to_toml",
]
