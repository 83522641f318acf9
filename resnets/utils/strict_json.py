"""JSON in which a key may not have two values.

Python's parser keeps the last value of a repeated key, so that the others would be lost unnoticed.
"""

from __future__ import annotations

import json
from typing import Any


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
