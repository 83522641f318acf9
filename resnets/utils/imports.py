"""Lazy exports of packages (PEP 562), names of objects, optional packages, and their telemetry."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any

# Environment variables that disable the telemetry of libraries.
TELEMETRY_VARIABLES = {
    "DO_NOT_TRACK": "1",  # https://donottrack.sh: huggingface_hub and others
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
}
# OpenVINO and NNCF report through this package, which resolves host names and writes a client id
# before it can be disabled. Both work without it if it cannot be imported.
TELEMETRY_PACKAGE = "openvino_telemetry"
PREFIX = "python:"  # marks the name of a Python object in a recipe


class _LazyPackage(ModuleType):
    """A package whose exported functions are not replaced by subpackages of the same name.

    `resnets` exports the function `train` and has a subpackage `train`. Importing a subpackage
    binds it to its parent, so without this class `resnets.train` would become the subpackage as
    soon as any code imports `resnets.train.loop`.
    """

    _exports: Mapping[str, str]

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in self._exports and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in self._exports:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = importlib.import_module(self._exports[name])
        if self._exports[name] != f"{self.__name__}.{name}":
            value = getattr(value, name)
        self.__dict__[name] = value
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._exports})


def lazy_exports(package: str, exports: Mapping[str, str]) -> None:
    """Let the module `package` export names: from each name to the module that defines it.

    A name whose module is PACKAGE.NAME is that subpackage itself.
    """
    module = sys.modules[package]
    module.__dict__["_exports"] = exports
    module.__class__ = _LazyPackage


def qualified_name(thing: object) -> str:
    """Return the module and name of a class, function or object's class: "my_nets.TinyNet"."""
    if isinstance(thing, functools.partial):
        thing = thing.func
    named = thing if isinstance(thing, type | FunctionType) else type(thing)
    return f"{named.__module__}.{named.__qualname__}"


def require_package(package: str, what: str, extra: str = "deploy") -> None:
    """Raise ConfigError, with the pip command, if `package` is not installed."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        from resnets.utils.errors import ConfigError  # imports rich, which --help does not need

        raise ConfigError(f"{what} needs {package}; pip install 'resnets[{extra}]'")


def disable_telemetry() -> None:
    """Disable the telemetry of libraries in this process and its children, before their import.

    Environment variables that the user has set are kept.
    """
    for name, value in TELEMETRY_VARIABLES.items():
        os.environ.setdefault(name, value)
    if TELEMETRY_PACKAGE not in sys.modules:
        sys.modules[TELEMETRY_PACKAGE] = None  # type: ignore[assignment]  # makes its import an ImportError
