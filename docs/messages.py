"""Templates of all messages of the package: what it raises, logs, warns of and prints.

A change of a message shows in the diff of tests/messages.txt, which `make reference` writes, and
breaks no test of what the code does.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = ROOT / "tests" / "messages.txt"
LOGGED = {"debug", "info", "warning", "error", "exception", "critical"}
PRINTED = {"echo", "print", "warn"}


def messages() -> str:
    """One line per message, `module: ERROR or function: template`, in the order of the code."""
    lines = []
    for path in sorted((ROOT / "resnets").rglob("*.py")):
        module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        lines += [f"{module}: {kind}: {text}\n" for kind, text in _found(tree)]
    return "".join(lines)


def _found(node: ast.AST) -> Iterator[tuple[str, str]]:
    """The messages of a module, depth first."""
    for child in ast.iter_child_nodes(node):
        call = child.exc if isinstance(child, ast.Raise) else child
        if isinstance(call, ast.Call) and (kind := _kind(call, isinstance(child, ast.Raise))):
            text = next((text for each in call.args if (text := _template(each))), "")
            if any(letter.isalpha() for letter in text):
                yield kind, text.replace("\n", r"\n")
        yield from _found(child)


def _kind(call: ast.Call, raised: bool) -> str:
    """The exception, log method or function of a message; "" for other calls."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if raised:
        return name
    on = getattr(function, "value", None)
    logs = isinstance(on, ast.Name) and on.id.strip("_") in ("log", "logger")
    return name if name in PRINTED or (logs and name in LOGGED) else ""


def _template(node: ast.expr) -> str:
    """A string as it is written, with the names of the values in braces; "" if it has no text."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_template(each) for each in values)
        case ast.FormattedValue(value=value):
            return _template(value) if isinstance(value, ast.IfExp) else f"{{{_name(value)}}}"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            texts = _template(left), _template(right)
            return "".join(
                text or f"{{{_name(each)}}}"
                for text, each in zip(texts, (left, right), strict=True)
            ) * any(texts)
        case ast.BinOp(left=left, op=ast.Mod()):
            return _template(left)
        case ast.IfExp(body=body, orelse=orelse):
            return "|".join(filter(None, (_template(body), _template(orelse))))
    return ""


def _name(node: ast.expr) -> str:
    """The last part of a dotted name; "" for other expressions."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
