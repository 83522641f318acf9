"""Options that several commands have: their types and how their text is parsed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import tyro

from resnets.cli.process import log_to_stderr
from resnets.config import ConfigError

if TYPE_CHECKING:
    from resnets.weights.load import LoadOptions

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Settings = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]  # --set, repeatable
Fields = Annotated[Settings, tyro.conf.arg(name="set")]


def load_options(model: str | None, classes: str | None) -> LoadOptions:
    """Return the options --model and --classes; from now on, the log of loading is printed."""
    from resnets.weights.load import LoadOptions

    log_to_stderr()
    return LoadOptions(model, classes)


def split_setting(text: str) -> tuple[str, str]:
    """Return path and value of "path=value"; ConfigError for anything else."""
    path, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: write it as path=value, such as optim.lr=0.05")
    return path.strip(), value.strip()
