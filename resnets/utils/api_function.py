"""`api_function`, the decorator of the functions of the Python API."""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from resnets.utils.argument_names import arguments_in_messages, is_nested
from resnets.utils.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")


def api_function(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function of the API: its messages name its arguments, whose types are checked.

    Has no effect in a command, which names and parses its options, or in a call by another function
    of the API.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if is_nested():
            return function(*args, **kwargs)
        with arguments_in_messages(signature.parameters):
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return function(*args, **kwargs)  # whose own message names the function
            for name, value in bound.arguments.items():
                parameter = signature.parameters[name]
                if name == "device":
                    bound.arguments[name] = value = _device_name(value)
                if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                    _check_type(name, value, parameter.annotation, function)
            return function(*bound.args, **bound.kwargs)

    return call


def _device_name(device: object) -> object:
    """Return the name of a `torch.device`; other values as they are."""
    import torch  # deferred: list_models does not need it

    return str(device) if isinstance(device, torch.device) else device


# Types as messages call them; others by the name of their class.
TYPE_NAMES: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    PathLike: "a path",
    Mapping: "a dictionary",
}


def _check_type(name: str, value: object, annotation: Any, function: Callable[..., Any]) -> None:
    """Raise ConfigError unless `value` is of the type that argument `name` is annotated with."""
    if annotation is inspect.Parameter.empty:  # self
        return
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, function.__globals__)
        except NameError:  # imported for type checkers only
            return
    members = list(_union_members(annotation))
    if any(_fits(value, each) for each in members):
        return
    is_short = value is None or isinstance(value, str | int | float | tuple)
    shown = repr(value) if is_short else f"<{type(value).__name__}>"
    choices = [each for member in members for each in _choices(member)]
    if choices:
        raise ConfigError(f"{name}={shown}: must be one of {', '.join(map(repr, choices))}")
    expected = dict.fromkeys(_type_name(each) for each in members if each is not NoneType)
    *others, last = expected
    raise ConfigError(
        f"{name}={shown}: must be {', '.join(others)}{' or ' if others else ''}{last}"
    )


def _union_members(annotation: Any) -> Iterator[Any]:
    """Yield the types of a union, or the type itself."""
    if get_origin(annotation) in (Union, UnionType):
        for each in get_args(annotation):
            yield from _union_members(each)
    else:
        yield NoneType if annotation is None else annotation


def _fits(value: object, annotation: Any) -> bool:
    """Return whether a value is of a type, as far as that can be seen without iterating."""
    if annotation is Any or isinstance(annotation, TypeVar):
        return True
    kind, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if kind is Literal:
        return value in arguments
    if kind is float:
        return isinstance(value, numbers.Real)
    if kind is int:
        return isinstance(value, numbers.Integral)
    if kind is bool:
        import numpy as np  # deferred: list_models does not need it

        return isinstance(value, numbers.Integral | np.bool_)
    if kind is Sequence:
        items = list(_union_members(arguments[0]))
        if isinstance(value, list | tuple):
            return all(any(_fits(each, item) for item in items) for each in value)
        return isinstance(value, Iterable) and (str in items or not isinstance(value, str))
    return not isinstance(kind, type) or isinstance(value, kind)


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _type_name(annotation: Any) -> str:
    kind = get_origin(annotation) or annotation
    if kind in TYPE_NAMES:
        return TYPE_NAMES[kind]
    if kind is Sequence:
        (item,) = get_args(annotation)
        items = {int: " of numbers", float: " of numbers", str: " of text"}.get(item, "")
        return f"a sequence{items}"
    name = "function" if kind is Callable else getattr(kind, "__name__", str(kind))
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"
