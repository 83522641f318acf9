"""Numbers that the environment gives, as torchrun does."""

from __future__ import annotations

import os

from resnets.config.errors import ConfigError


def environment_int(name: str, default: int | None = None) -> int:
    """The whole number in variable `name`; ConfigError where it is another text, or missing."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        said = "is not set" if text is None else f"is {text!r}, which is no whole number"
        raise ConfigError(
            f"the variable {name} {said}; torchrun sets it. For a single process unset WORLD_SIZE"
        ) from None
