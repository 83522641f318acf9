"""Read YAML from untrusted sources as plain values only, in bounded time.

Scalars are text as written: YAML 1.1 turns class names such as no, 007, 1.10 and 12:30 into False,
7, 1.1 and 750.
"""

from __future__ import annotations

from typing import Any, ClassVar

import yaml

MAX_SIZE = 1 << 22
MAX_DEPTH = 20
TAGS = (*(f"tag:yaml.org,2002:{kind}" for kind in ("null", "str", "seq", "map")), None)


class _Loader(yaml.SafeLoader):
    """A safe loader of text, null, lists and mappings without repeated keys, of limited depth, and
    without aliases, which can expand without bound.
    """

    depth = 0
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [pair for pair in pairs if pair[0] == TAGS[0]]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag] for tag in TAGS
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        names = [key.value for key in keys]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {twice!r} occurs twice", node.start_mark
            )
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) are not supported", event.start_mark
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.constructor.ConstructorError(None, None, f"deeper than {MAX_DEPTH} levels")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def parse_yaml(text: str | bytes) -> Any:
    """Parse YAML into text as written, None, lists and mappings.

    Raises ValueError if it is invalid, too large, nested too deeply, or has repeated keys, aliases
    or tags.
    """
    if len(text) > MAX_SIZE:
        raise ValueError(f"larger than {MAX_SIZE >> 20} MiB")
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error
