"""Lazy exports of packages (PEP 562), names of Python objects, and packages that are optional."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any

PREFIX = "python:"  # marks the name of a Python object in a recipe


class _LazyPackage(ModuleType):
    """A package whose exported functions are not hidden by its subpackages.

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
    """Let the module `package` export names, each with the module that defines it.

    A name whose module is PACKAGE.NAME is that subpackage itself.
    """
    module = sys.modules[package]
    module.__dict__["_exports"] = exports
    module.__class__ = _LazyPackage


def qualified_name(thing: object) -> str:
    """Where a class or function, or the class of an object, is defined: "my_nets.TinyNet"."""
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
