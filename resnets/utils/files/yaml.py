"""Read YAML from untrusted sources as plain values only, in bounded time."""

from __future__ import annotations

from typing import Any

import yaml

MAX_SIZE = 1 << 22
MAX_DEPTH = 20


class _Loader(yaml.SafeLoader):
    """A safe loader without repeated keys, of limited depth, and without aliases, which can expand
    without bound.
    """

    depth = 0

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        names = [(key.tag, key.value) for key in keys]  # 1 and "1" are two
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)[1]
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice!r} occurs twice", node.start_mark
            )
        return super().construct_mapping(node, deep)

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


def parse_yaml(text: str | bytes) -> Any:
    """Parse YAML; raises ValueError if it is invalid, too large, nested too deeply, or has repeated
    keys, aliases or tags.
    """
    if len(text) > MAX_SIZE:
        raise ValueError(f"larger than {MAX_SIZE >> 20} MiB")
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error
