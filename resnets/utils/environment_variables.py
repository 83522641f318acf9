"""Numbers that the environment gives, as torchrun does."""

from __future__ import annotations

import os

from resnets.utils.errors import ConfigError


def environment_int(name: str, default: int | None = None, least: int = 0) -> int:
    """The whole number in variable `name`; ConfigError where it is another text, less, or none."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is not None and text.isdecimal() and int(text) >= least:
        return int(text)
    said = "is not set" if text is None else f"is {text!r}, not a whole number from {least} on"
    raise ConfigError(
        f"the variable {name} {said}; torchrun sets it. For a single process unset WORLD_SIZE"
    )
