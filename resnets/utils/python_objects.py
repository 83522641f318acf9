"""Names of Python objects that were given where a recipe has text."""

from __future__ import annotations

import functools
from types import FunctionType

PREFIX = "python:"


def qualified_name(thing: object) -> str:
    """Where a class or function, or the class of an object, is defined: "my_nets.TinyNet"."""
    if isinstance(thing, functools.partial):
        thing = thing.func
    named = thing if isinstance(thing, type | FunctionType) else type(thing)
    return f"{named.__module__}.{named.__qualname__}"
