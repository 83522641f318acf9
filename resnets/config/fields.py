"""Another library's config read whole: every field is honoured, without effect, or refused."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from resnets.utils.errors import ConfigError

Handler = Callable[[Any], Any]


def take_fields(
    said: Any, where: str, handlers: Mapping[str, Handler], no_effect: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """What `handlers` make of the fields of `said`, by name.

    A handler returns what its field means, or raises ValueError with the reason why this cannot be
    expressed. `no_effect` are fields that change nothing in what a network computes. ConfigError
    names `where` and the field that is neither, or that its handler refused.
    """
    if not isinstance(said, Mapping):
        raise ConfigError(f"{where}: is no table of fields but {_shown(said)}")
    found = {}
    for name, value in said.items():
        if name in no_effect or value is None:  # null says nothing
            continue
        if name not in handlers:
            near = difflib.get_close_matches(str(name), [*handlers, *no_effect], 1)
            hint = f" (known: {near[0]})" if near else ""
            raise ConfigError(
                f"{where}: field {_shown(name)} = {_shown(value)} is not known here{hint}, and may "
                "change what the network computes"
            )
        try:
            found[name] = handlers[name](value)
        except ConfigError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            why = str(error) if type(error) is ValueError else "has an unexpected form"
            raise ConfigError(f"{where}: {name} = {_shown(value)}: {why}") from None
    return found


def only(*allowed: Any, why: str = "is not what the networks here compute") -> Handler:
    """A handler of a field that must have one of these values."""

    def handle(value: Any) -> Any:
        if not any(type(value) is type(each) and value == each for each in allowed):
            raise ValueError(f"{why}; only {' or '.join(map(repr, allowed))}")
        return value

    return handle


def whole_number(value: Any) -> int:
    """A handler of a count, at least 1."""
    if type(value) is not int or value < 1:
        raise ValueError("is no whole number above 0")
    return value


def _shown(value: Any) -> str:
    text = "".join(char if char.isprintable() else "?" for char in str(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
