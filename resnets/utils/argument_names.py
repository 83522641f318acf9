"""Messages name arguments in the Python API and options on the command line.

Messages are written for the command line: "give --model NAME". In a call from Python,
`api_function` replaces this by "give model=NAME" in errors, log and output.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

Parameters = Mapping[str, inspect.Parameter]

# Parameters of the function of the API that is running; {} in a command, whose options are named.
_parameters: ContextVar[Parameters] = ContextVar("_parameters")
# Words in backticks, which are commands; an option and, unless prose follows, its value.
COMMAND = re.compile(r"(`[^`]*`)")
OPTION = re.compile(
    r"(?<![\w-])--([a-z][a-z0-9-]*)"
    r"(?: (?!--)(?!(?:and|or|of|out|is|are|sets?|cannot|in|for|with|which|excludes?)\b(?!\.\w))"
    r"((?:[^\s;:()]|:(?=\S))*[^\s;:,.()]))?"
)
# Options that are values of an argument of another name.
VALUES = {
    "int8": ("precision", "int8"),
    "bf16": ("precision", "bfloat16"),
    "fp16": ("precision", "float16"),
}


@contextmanager
def options_in_messages() -> Iterator[None]:
    """Context of a command: messages name its options."""
    token = _parameters.set({})
    try:
        yield
    finally:
        _parameters.reset(token)


@contextmanager
def arguments_in_messages(parameters: Parameters) -> Iterator[None]:
    """Context of a function of the API: messages name its `parameters`."""
    token = _parameters.set(parameters)
    try:
        yield
    except ValueError as error:
        error.args = tuple(
            options_to_arguments(each) if isinstance(each, str) else each for each in error.args
        )
        raise
    finally:
        _parameters.reset(token)


def is_nested() -> bool:
    """Whether this is called in a command, or in another function of the API."""
    return _parameters.get(None) is not None


def options_to_arguments(text: str) -> str:
    """Return a message with the options in it as arguments of the running function of the API.

    Options that the function does not have, and commands in backticks, stay.
    """
    parameters = _parameters.get({})
    if not parameters or "--" not in text:
        return text

    def replace(match: re.Match[str]) -> str:
        option, value = match[1], match[2]
        rest = f" {value}" if value else ""
        fields = next((k for k, each in parameters.items() if each.kind is each.VAR_KEYWORD), "")
        if option == "set" and fields:
            return value or fields
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
