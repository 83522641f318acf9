"""Files of class names: text with one name per line, or YAML.

YAML from untrusted sources is read as plain values only, in bounded time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from resnets.data.errors import DataError
from resnets.data.layout.class_spelling import indexed_names
from resnets.detect.data.documents import decode_text
from resnets.detect.data.values import read_name
from resnets.detect.images.store import Store

MAX_BYTES = 1 << 22
MAX_DEPTH = 20


class _Loader(yaml.SafeLoader):
    """A safe YAML loader without repeated keys or aliases, and of limited depth."""

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


def load_yaml(data: bytes, where: str) -> Any:
    """Parse YAML; DataError if it is invalid, too large, or has repeated keys, aliases or tags."""
    if len(data) > MAX_BYTES:
        raise DataError(f"{where}: {len(data):,} bytes, too large for a file of names")
    try:
        return yaml.load(data.removeprefix(b"\xef\xbb\xbf"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        message = " ".join(str(error).split())[:200]
        raise DataError(f"{where}: invalid or unsupported YAML ({message})") from error


def read_class_names(store: Store, path: str) -> list[str]:
    """Read the class names of a file, in the order of its lines or of the numbers in them.

    DataError if a blank line makes the numbers ambiguous.
    """
    where = store.display_path(path)
    text = decode_text(store.read(path), where)
    lines = [read_name(line) for line in strip_trailing_blanks(text.splitlines(), where)]
    return indexed_names(lines) or lines


def strip_trailing_blanks(lines: Sequence[str], where: str) -> list[str]:
    """Return the stripped lines without blank ones at the end.

    DataError for a blank line before a name: it may or may not count as a class.
    """
    stripped = [line.lstrip("\ufeff").strip() for line in lines]
    while stripped and not stripped[-1]:
        stripped.pop()
    if "" in stripped:
        raise DataError(
            f"{where}: line {stripped.index('') + 1} is blank, and class numbers are counted by"
            " line; remove the line, or write a name there if it has a number of its own"
        )
    return stripped
