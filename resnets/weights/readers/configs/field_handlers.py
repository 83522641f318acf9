"""Read every field of another library's config: each is handled, has no effect, or is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resnets.utils.errors import ConfigError
from resnets.utils.suggest import suggest

Handler = Callable[[Any], Any]


def apply_handlers(
    config: Any,
    where: str,
    handlers: Mapping[str, Handler],
    no_effect: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Return the values of the fields of `config` as converted by `handlers`, by field name.

    A handler returns the converted value, or raises ValueError with the reason why the value is
    not supported. `no_effect`: fields that do not change what a network computes. Raises
    ConfigError, which names `where` and the field, for unknown fields and unsupported values.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"{where}: is not a table of fields but {_format(config)}")
    found = {}
    for name, value in config.items():
        if name in no_effect or value is None:  # null is as good as a missing field
            continue
        if name not in handlers:
            hint = suggest(str(name), [*handlers, *no_effect], otherwise="")
            raise ConfigError(
                f"{where}: field {_format(name)} = {_format(value)} is not known here, and may"
                f" change what the network computes{hint and f'; {hint}'}"
            )
        try:
            found[name] = handlers[name](value)
        except ConfigError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            why = str(error) if type(error) is ValueError else "has an unexpected form"
            raise ConfigError(f"{where}: {name} = {_format(value)}: {why}") from None
    return found


def only(*allowed: Any, why: str = "is not what the networks here compute") -> Handler:
    """Return a handler of a field that must have one of the values `allowed`."""

    def handle(value: Any) -> Any:
        if not any(type(value) is type(each) and value == each for each in allowed):
            raise ValueError(f"{why}; only {' or '.join(map(repr, allowed))}")
        return value

    return handle


def positive_int(value: Any) -> int:
    """Check that a field is an integer of at least 1."""
    if type(value) is not int or value < 1:
        raise ValueError("is not an integer of at least 1")
    return value


def positive_ints(value: Any) -> tuple[int, ...]:
    """Check that a field is a list of such integers."""
    return tuple(map(positive_int, value))


def _format(value: Any) -> str:
    text = "".join(char if char.isprintable() else "?" for char in str(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
