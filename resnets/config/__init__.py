"""Everything that decides a result, as frozen, typed values that read from and print as TOML.

A `Recipe` is written into each run and each checkpoint and is enough to repeat the run. Variants
are data, not subclasses: a plain model differs from its residual twin in one field of `ModelSpec`.
"""

from resnets.config.data import AugmentSpec, DataSpec, Preprocess, split_group
from resnets.config.detect import DetectSpec
from resnets.config.loss import LossSpec
from resnets.config.model import Block, ModelSpec
from resnets.config.optim import DistillSpec, EvalSpec, FinetuneSpec, OptimSpec, ScheduleSpec
from resnets.config.postprocess import SOFTMAX, Postprocess
from resnets.config.recipe import Recipe, parse_duration
from resnets.config.signal import SignalSpec
from resnets.config.text import (
    dump_json,
    fields_in,
    flat_fields,
    from_dict,
    from_toml,
    replace_fields,
    stated_fields,
    stored_recipe,
    to_dict,
    to_toml,
)
from resnets.config.transformer import TransformerSpec
from resnets.config.unread_fields import DEFAULTS, check_stated, leaves
from resnets.utils import printable  # makes what our loggers say printable
from resnets.utils.errors import BusyError, ConfigError, RemoteError
from resnets.utils.files import (
    atomic_write,
    is_locked,
    lock_file,
    lock_folder,
    lock_path,
    new_folder,
)

__all__ = [
    "DEFAULTS",
    "SOFTMAX",
    "AugmentSpec",
    "Block",
    "BusyError",
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
    "RemoteError",
    "ScheduleSpec",
    "SignalSpec",
    "TransformerSpec",
    "atomic_write",
    "check_stated",
    "dump_json",
    "fields_in",
    "flat_fields",
    "from_dict",
    "from_toml",
    "is_locked",
    "leaves",
    "lock_file",
    "lock_folder",
    "lock_path",
    "new_folder",
    "parse_duration",
    "printable",
    "replace_fields",
    "split_group",
    "stated_fields",
    "stored_recipe",
    "to_dict",
    "to_toml",
]
