"""Read JSON in which no key has two values.

Python's parser keeps the last value of a repeated key, so that the others would be lost unnoticed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from resnets.utils.errors import ConfigError, ResnetsError, reading


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; raises ValueError if it is invalid, or if a key of an object has two values."""
    return json.loads(text, object_pairs_hook=_unique_keys)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if value != found[key]:
                raise ValueError(f"the key {key!r} occurs twice, with different values")
    return found


def read_object(
    path: Path, error: type[ResnetsError] = ConfigError, remedy: str = ""
) -> dict[str, Any]:
    """Read the JSON object in a file; raises `error` if it cannot be read or is not an object."""
    with reading(path, error, "as JSON", remedy):
        value = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise TypeError(f"{type(value).__name__}, not an object")
        return value
