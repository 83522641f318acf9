"""Messages of the Python API name its arguments, those of the command line name options.

Messages are written for the command line: "give --model NAME". Where a function of the API was not
called by a command, `names_arguments` writes "give model=NAME" in its errors, log and output.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Parameters = Mapping[str, inspect.Parameter]

# Parameters of the function of the API that is running; {} in a command, whose options are named.
_parameters: ContextVar[Parameters] = ContextVar("_parameters")
# Words in backticks, which are commands; an option and, unless prose follows, its value.
COMMAND = re.compile(r"(`[^`]*`)")
OPTION = re.compile(
    r"(?<![\w-])--([a-z][a-z0-9-]*)"
    r"(?: (?!--)(?!(?:and|or|of|out|is|are|sets?|cannot|in|for|with|which|excludes?)\b)"
    r"((?:[^\s;:()]|:(?=\S))*[^\s;:,.()]))?"
)
# Options that are values of an argument of another name.
VALUES = {
    "int8": ("precision", "int8"),
    "bf16": ("precision", "bfloat16"),
    "fp16": ("precision", "float16"),
}


@contextmanager
def names_options() -> Iterator[None]:
    """Context of a command: messages name its options."""
    token = _parameters.set({})
    try:
        yield
    finally:
        _parameters.reset(token)


def names_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator of a function of the API: its messages name its arguments, except in a command."""
    parameters = inspect.signature(function).parameters

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if _parameters.get(None) is not None:  # in a command, or within another function
            return function(*args, **kwargs)
        token = _parameters.set(parameters)
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            error.args = tuple(
                in_caller_terms(each) if isinstance(each, str) else each for each in error.args
            )
            raise
        finally:
            _parameters.reset(token)

    return call


def in_caller_terms(text: str) -> str:
    """Return a message with the options in it as arguments of the running function of the API.

    Options that the function does not have, and commands in backticks, stay.
    """
    parameters = _parameters.get({})
    if not parameters or "--" not in text:
        return text

    def replace(match: re.Match[str]) -> str:
        option, value = match[1], match[2]
        rest = f" {value}" if value else ""
        if option == "set" and any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            return value or match[0]
        if option in VALUES and VALUES[option][0] in parameters:
            return "{}={}".format(*VALUES[option]) + rest
        if option == "resume" and value:
            return f"out={value}" + (", resume=True" if "resume" in parameters else "")
        name = option.replace("-", "_")
        if name not in parameters:
            return match[0]
        if isinstance(parameters[name].default, bool):
            return f"{name}=True{rest}"
        return f"{name}={value}" if value else name

    parts = COMMAND.split(text)
    return "".join(part if part[:1] == "`" else OPTION.sub(replace, part) for part in parts)
