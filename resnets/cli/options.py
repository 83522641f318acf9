"""Options that several commands have: their types and how their text is parsed."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import tyro

from resnets.cli.process import log_to_stderr
from resnets.config import ConfigError
from resnets.config.aliases import current_path

if TYPE_CHECKING:
    from resnets.study.grid.cells import Grid
    from resnets.weights.load import LoadOptions

log = logging.getLogger("resnets")

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
Settings = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]  # --set, repeatable
Fields = Annotated[Settings, tyro.conf.arg(name="set")]


def load_options(model: str | None, classes: str | None) -> LoadOptions:
    """Return the options --model and --classes; from now on, the log of loading is printed."""
    from resnets.weights.load import LoadOptions

    log_to_stderr()
    return LoadOptions(model, classes)


def parse_settings(texts: Iterable[str]) -> dict[str, str]:
    """Return the values of "path=value" by path; ConfigError for anything else.

    Of a path that is given twice the last value is used, which is logged. Names that fields had
    before are the same path.
    """
    settings: dict[str, str] = {}
    for text in texts:
        path, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ConfigError(f"--set {text}: must be path=value, such as optim.lr=0.05")
        if settings.get(current_path(path), value) != value:
            log.warning("--set %s: given twice; using %s", path, value)
        settings[current_path(path)] = value
    return settings


def refuse_unread(
    command: Callable[..., Any], values: Mapping[str, Any], read: str, why: str
) -> None:
    """Raise ConfigError for the first option that is set although the command does not read it.

    A list of what is read, not of what is not: a new option is refused until it is listed.

    command: the function or dataclass whose parameters are the options. values: of the options, by
    name of the parameter. read: names of those that are read, separated by spaces. why: the reason
    why others are not.
    """
    for name, parameter in inspect.signature(command).parameters.items():
        default = () if parameter.default is parameter.empty else parameter.default
        if name not in read.split() and values[name] != default:
            hint = get_type_hints(command, include_extras=True)[name]
            renamed = [getattr(each, "name", None) for each in getattr(hint, "__metadata__", ())]
            shown = next((each for each in renamed if isinstance(each, str)), name)
            is_option = parameter.kind is not parameter.POSITIONAL_ONLY
            option = f"--{shown.replace('_', '-')}" if is_option else shown.upper()
            raise ConfigError(f"{option}: {why}; omit it")


def read_resumed(command: Callable[..., Any], values: Mapping[str, Any]) -> Grid | None:
    """Return the grid of the study that --resume names; None without that option.

    command, values: as for `refuse_unread`. ConfigError if other options than --jobs and --device
    are set.
    """
    from resnets.study.grid.cells import read_grid

    if values["resume"] is None:
        return None
    why = "--resume continues a study unchanged; only --jobs and --device can be given with it"
    refuse_unread(command, values, "resume jobs device", why)
    return read_grid(values["resume"])
