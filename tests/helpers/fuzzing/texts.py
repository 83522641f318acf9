# ruff: noqa: E501 (tables of bytes)
"""Changes of documents that keep most of their syntax: JSON, XML, tables, YAML, TOML, lists."""

from __future__ import annotations

import copy
import json
import random
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63),
    2**64,
    10**400,
    1e308,
    5e-324,
    0.5,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    " ",
    "0",
    "nan",
    "\0",
    "a\nb",
    "\x1b[2J",
    "\ud800",
    "\u202e",
    "é",
    "../../etc/passwd",
    "/etc/passwd",
    "x" * 5000,
    "a/b",
    ".",
    "..",
    "-",
    [],
    {},
    [[]],
    {"": None},
    [None],
    [1, 2, 3],
    {"a": {"a": {}}},
    ["x"],
    [[0, 0, 1, 1]],
    [1e400] * 4,
    [-1] * 8,
    list(range(100)),
)
ENTITIES = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;"><!ENTITY x SYSTEM "/etc/passwd">]>'
ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "utf-7", "cp037", "gb18030")
DECLARED = (*ENCODINGS, "rot13", "zlib", "hex", "undefined", "idna", "unicode_escape", "x" * 50)
CELLS = ("", " ", '"', "'", '"a', "=1+1", "\t", "\0", "\r", "a,b", "a;b", "nan", "NA", "[1, 2]", "-1",
         "1e9", "../x", "/etc/passwd", "x" * 3000, "\ufeff", "\u2028", "*x", "&a", "!!python/tuple", "a: b",
         "{", "[", "#", "- -", "? a", "%", "|", ">", "<<: *a", "0x", "1_0", "true", "~", "é")  # fmt: skip


def change(data: bytes, name: str, draw: random.Random) -> bytes | None:
    """A text with one change; None where `data` is no text."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if draw.random() < 0.04:
        return text.encode(draw.choice(ENCODINGS), "replace")
    start = text.lstrip()[:1]
    if start in ("{", "[") and (changed := _json(text, draw)) is not None:
        return changed
    if start == "<" and (changed := _xml(text, draw)) is not None:
        return changed
    return _lines(text, name, draw).encode("utf-8", "surrogatepass")


def _json(text: str, draw: random.Random) -> bytes | None:
    if draw.random() < 0.03:
        deep = draw.choice((200, 3000, 100_000))
        return draw.choice(("[", '{"a":')).encode() * deep
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    for _ in range(draw.choice((1, 1, 2, 5))):
        document = changed_value(document, draw)
    return json.dumps(document).encode()


def changed_value(document: Any, draw: random.Random) -> Any:
    """`document` with one of its values changed, removed, doubled or moved."""
    holders: list[tuple[Any, Any]] = []  # a container, and a key of it

    def visit(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            holders.append((node, key))
            if isinstance(value, dict | list):
                visit(value)

    if isinstance(document, dict | list):
        visit(document)
    if not holders or draw.random() < 0.02:
        return copy.deepcopy(draw.choice(VALUES))
    holder, key = draw.choice(holders)
    value, kind = holder[key], draw.randrange(9)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        other, there = draw.choice(holders)
        if there in other if isinstance(other, dict) else there < len(other):
            holder[key] = json.loads(json.dumps(other[there]))
    elif kind == 2 and isinstance(holder, list):
        holder[key:key] = [value] * draw.choice((1, 2, 300))
    elif kind == 2 and isinstance(holder, dict):
        holder[draw.choice((f"{key}x", key.upper(), "", "\x1b[2J", "__class__"))] = holder.pop(key)
    elif kind == 3 and isinstance(value, int | float | str):
        holder[key] = draw.choice((str(value), [value], {"a": value}, f"{value}{value}"))
    elif kind == 4 and isinstance(value, int | float):
        holder[key] = draw.choice((-value, value + 1, value * 1000, value / 3, value + 0.5))
    elif kind == 5 and isinstance(value, dict | list) and value:
        holder[key] = draw.choice((list(value), {str(k): v for k, v in enumerate(value)}))
    elif kind == 6:
        nested: Any = value
        for _ in range(draw.choice((1, 5, 300))):
            nested = [nested] if draw.random() < 0.5 else {"a": nested}
        holder[key] = nested
    else:
        holder[key] = copy.deepcopy(draw.choice(VALUES))
    return document


def _xml(text: str, draw: random.Random) -> bytes | None:
    kind = draw.random()
    if kind < 0.06:
        return f'<?xml version="1.0" encoding="{draw.choice(DECLARED)}"?>{text}'.encode()
    if kind < 0.1:
        at = text.find("</")
        return f"{ENTITIES}{text[:at]}{draw.choice(('&b;', '&x;', '&y;', ''))}{text[at:]}".encode()
    if kind < 0.12:
        return b"<a>" * draw.choice((90, 5000))
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return None
    pairs = [(parent, child) for parent in root.iter() for child in parent]
    for _ in range(draw.choice((1, 1, 2, 4))):
        parent, child = draw.choice(pairs) if pairs else (root, root)
        kind = draw.randrange(7)
        if kind == 0 and child in parent:
            parent.remove(child)
        elif kind == 1 and child is not root:
            parent.extend([child] * draw.choice((1, 2, 50)))
        elif kind == 2 and child.attrib:
            key = draw.choice(list(child.attrib))
            if draw.random() < 0.3:
                del child.attrib[key]
            else:
                child.attrib[key] = _word(draw)
        elif kind == 3:
            child.tag = draw.choice(("x", "bndbox", "name", "object", "size", "image", "polygon"))
        elif kind == 4:
            child.attrib[draw.choice(("a", "id", "width", "points", "label"))] = _word(draw)
        else:
            child.text = _word(draw)
    return ElementTree.tostring(root, encoding="unicode").encode("utf-8", "replace")


def _word(draw: random.Random) -> str:
    value = draw.choice((draw.choice(CELLS), str(draw.choice(VALUES))))
    return re.sub("[\0\ud800]", "?", value)[:6000]


def _lines(text: str, name: str, draw: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    if not lines:
        return _word(draw)
    at, kind = draw.randrange(len(lines)), draw.randrange(8)
    if draw.random() < 0.3:
        at = 0
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines[at:at] = [lines[at]] * draw.choice((1, 2, 500))
    elif kind == 2:
        other = draw.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        lines[at] = f"{_word(draw)}\n"
    elif kind == 4:
        end = draw.choice(("", "\r", "\r\n", "\n\n", "\0", "\u2028", " \n"))
        lines[at] = lines[at].rstrip("\r\n") + end
    elif lines[at].lstrip()[:1] in ("{", "[") and (row := _json(lines[at], draw)) is not None:
        lines[at] = row.decode("utf-8", "replace") + "\n"
    else:  # one word or cell of the line
        parts = re.split(r"([,;\t =:]+)", lines[at].rstrip("\n"))
        place = draw.randrange(len(parts))
        parts[place] = draw.choice((_word(draw), "", parts[place] * 2, draw.choice(parts)))
        lines[at] = "".join(parts) + "\n"
    return "".join(lines)
