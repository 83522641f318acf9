"""YAML of a data set, as text that nobody vouches for: plain values only, and bounded work."""

from __future__ import annotations

from typing import Any

import yaml

from resnets.data.errors import DataError

MAX_BYTES = 1 << 22
MAX_DEPTH = 20


class _Loader(yaml.SafeLoader):
    """Without aliases, which a few bytes can repeat without end, and of limited depth."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) are not read", event.start_mark
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.constructor.ConstructorError(None, None, f"deeper than {MAX_DEPTH} levels")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def load_yaml(data: bytes, where: str) -> Any:
    """The document in `data`; DataError where it is no YAML, too large, or has aliases or tags."""
    if len(data) > MAX_BYTES:
        raise DataError(f"{where}: {len(data):,} bytes, too large for a file of names")
    try:
        return yaml.load(data.removeprefix(b"\xef\xbb\xbf"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(f"{where}: is no YAML that is read here ({said})") from error
