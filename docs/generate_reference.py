"""Write docs/reference/: recipe fields, commands and public names, from the code that defines them;
the tables of results in the other pages (result_tables.py); and tests/messages.txt (messages.py).

    make reference

The tests fail while a committed page differs from what this writes.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

from docstring_parser import parse

import resnets
from resnets.cli.main import COMMANDS
from resnets.cli.usage.arguments import Argument, Command, read_command
from resnets.config import aliases
from resnets.config.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parent))

import messages
import result_tables

FOLDER = Path(__file__).parent / "reference"
HEADER = "<!-- Written by docs/generate_reference.py; change the docstrings, not this page. -->\n"
TABLES = '\n<div class="reference" markdown>\n', "\n</div>\n"  # site.css widens their second column
UNIT = re.compile(r"^\[([^\]]+)\] ")
# A citation: the paper with a section, or names with a year.
SOURCE = re.compile(r" ?\(([^()]*(?:\b(?:19|20)\d\d\b|the paper, )[^()]*)\)")

RECIPE_INTRO = f"""{HEADER}
# Recipe fields

Set any field with `--set path=value`, or in a TOML file that is given to `resnets train`. Values
are written as in TOML: `--set optim.lr=0.05`, `--set model.shortcut=B`,
`--set schedule.milestones=[0.5,0.75]`; `--set weights=none` is None.
`resnets train --list` shows the recipes; `recipe.toml` in a run folder has the values of that run.

"The paper" is He, Zhang, Ren, Sun: *Deep Residual Learning for Image Recognition*, CVPR 2016.
"""

COMMANDS_INTRO = f"""{HEADER}
# Commands

Every command prints the same with `--help`. `resnets --version` prints the version. Exit codes: 0
done, 1 failed, 2 bad usage, 3 an artifact or data set that failed verification, 75 a step of a
distributed run that did not finish in time (`--hang-after`).

Exit codes of a command that a signal stops:

<!-- not measured here: exit codes -->

| | Ctrl-C | SIGHUP | SIGTERM |
|---|---|---|---|
| `train` during its steps (saves a checkpoint), also in `study`, `folds` | 130 | 129 | 0 |
| `serve` (answers accepted requests) | 0 | reloads models | 0 |
| all others; `train` before its first and after its last step | 130 | 129 | 143 |
"""


def recipe_page() -> str:
    """All fields of a recipe: one table for each part of it.

    Raises:
        ValueError: A field has no description, or a number no unit.
    """
    sections = "".join([TABLES[0], *_spec_section(Recipe, "", 2), TABLES[1]])
    return RECIPE_INTRO + sections + _renamed("fields", aliases.FIELDS["recipe"])


def _renamed(what: str, names: Mapping[str, str]) -> str:
    """The section of earlier names, old to new."""
    rows = "".join(_row((_code(new), _code(old))) for old, new in names.items())
    return (
        f"\n## Renamed {what}\n\nEarlier names are understood; nothing is written with them.\n"
        f"\n| name | earlier name |\n|---|---|\n{rows}"
    )


def _spec_section(spec: type, prefix: str, level: int) -> Iterator[str]:
    """The section of one dataclass, then those of its parts. `prefix` is its path, "data."."""
    doc = parse(inspect.getdoc(spec) or "")
    described = {param.arg_name: param.description or "" for param in doc.params}
    hints = typing.get_type_hints(spec)
    rows, parts = [], []
    for field in dataclasses.fields(spec):
        kind, path = hints[field.name], prefix + field.name
        if dataclasses.is_dataclass(kind):
            parts.append((kind, path + "."))
            continue
        text = " ".join(described.get(field.name, "").split())
        unit = UNIT.match(text)
        if not text or (unit is None and _is_number(kind)):
            raise ValueError(f"{spec.__name__}.{field.name}: {'no unit' if text else 'no text'}")
        sources = SOURCE.findall(text)
        meaning = SOURCE.sub("", UNIT.sub("", text))
        cells = (
            _code(path),
            meaning,
            _type_name(kind),
            unit[1] if unit else "",
            _code(_toml_value(field.default)),
            "; ".join(source[0].upper() + source[1:] for source in sources),
        )
        rows.append(_row(cells))
    title = f"`{prefix.removesuffix('.')}`" if prefix else "The run"
    yield f"\n{'#' * level} {title}\n\n{doc.short_description}\n"
    if doc.long_description:
        yield f"\n{doc.long_description}\n"
    yield "\n| field | meaning | type | unit | default | source |\n|---|---|---|---|---|---|\n"
    yield from rows
    for kind, path in parts:
        yield from _spec_section(kind, path, 2 if path.count(".") == 1 else 3)


def _is_number(kind: object) -> bool:
    parts = typing.get_args(kind) or (kind,)
    return typing.get_origin(kind) is not typing.Literal and any(
        part in (int, float) for part in parts
    )


def _type_name(kind: object) -> str:
    """A type as users read it: choices in full, tuples as lists, None said by the default."""
    parts = [part for part in typing.get_args(kind) if part is not type(None)]
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(_code(_toml_value(value)) for value in parts)
    if typing.get_origin(kind) is tuple:
        inner = _type_name(parts[0])
        return f"list of {inner}" if parts[-1] is Ellipsis else f"{len(parts)} x {inner}"
    if typing.get_origin(kind) is dict:
        return f"table of {_type_name(parts[1])}"
    if parts:  # X | None
        return " or ".join(map(_type_name, parts))
    return getattr(kind, "__name__", str(kind))


def _toml_value(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def commands_page() -> str:
    """All commands with their arguments and options."""
    sections = (part for name in COMMANDS for part in _command_sections(read_command(name), 2))
    text = "".join([TABLES[0], *sections, TABLES[1]])
    return COMMANDS_INTRO + text + _renamed("options", aliases.FLAGS)


def _command_sections(command: Command, level: int) -> Iterator[str]:
    yield f"\n{'#' * level} {command.name}\n\n{_escape(command.description)}\n"
    if command.arguments:
        yield "\n| argument | meaning | value | default |\n|---|---|---|---|\n"
        yield from map(_argument_row, command.arguments)
    for below in command.subcommands.values():
        yield from _command_sections(below, level + 1)


def _argument_row(argument: Argument) -> str:
    choices = " or ".join(map(_code, argument.choices))
    value = choices or _code(argument.value) + ", repeatable" * argument.is_repeatable
    default = "required" if argument.is_required else _code(argument.default)
    return _row((", ".join(map(_code, argument.names)), argument.meaning, value, default))


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _escape(text: str) -> str:
    return text.replace("<", "&lt;").replace("|", "\\|")


def _row(cells: typing.Iterable[str]) -> str:
    return f"| {' | '.join(map(_escape, cells))} |\n"


API_INTRO = f"""{HEADER}
# Python API

What `import resnets` gives. All names are typed. Other modules are not public and may change,
except these imports for extensions, which the docs and examples use:

"""
EXTENSIONS = (  # names, module, and what they are for
    ("ResNet`, `BasicBlock", "models.resnet", "networks with blocks and norms of your own"),
    ("BlockConfig", "models.block_config", "the argument of such a block"),
    ("model_diagram`, `block_diagram`, `save_diagram", "diagrams.draw", "[diagrams](../info.md)"),
    ("build_name_map", "weights.name_maps.maps", "[other libraries' names](../weights.md)"),
    ("create_app", "serve.app", "the server in an application (`examples/serve.py`)"),
    ("Registry`, `Source", "serve.registry", "its models"),
    ("Limits", "serve.http.limits", "its limits"),
    ("Metrics", "serve.metrics", "its metrics"),
)
API_NAMES = """
Networks, blocks, norms, losses, data sets and recipes are passed as Python objects
([custom components](../api.md#custom-components)); none needs to be registered.

| name | |
|---|---|
"""


def api_page() -> str:
    """A table of names; directives for mkdocstrings: functions and modules, then classes."""
    public = [(name, getattr(resnets, name)) for name in resnets.__all__ if name[0] != "_"]
    public += [(f"study.{name}", getattr(resnets.study, name)) for name in resnets.study.__all__]
    public.sort(key=lambda each: inspect.isclass(each[1]))
    rows = "".join(_row((_code(name), _summary(value))) for name, value in public)
    extensions = "| module | names | for |\n|---|---|---|\n" + "".join(
        _row((_code(f"resnets.{module}"), _code(names), purpose))
        for names, module, purpose in EXTENSIONS
    )
    directives = "".join(f"\n::: {_path(value)}\n" for _, value in public)
    return API_INTRO + extensions + API_NAMES + rows + directives


def _summary(value: object) -> str:
    """The first paragraph of a docstring."""
    return " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())


def _path(value: object) -> str:
    """The path at which a function, class or module is defined."""
    if inspect.ismodule(value):
        return value.__name__
    return f"{value.__module__}.{getattr(value, '__qualname__', '')}"


PAGES = {"recipe.md": recipe_page, "commands.md": commands_page, "api.md": api_page}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for page, write in PAGES.items():
        (FOLDER / page).write_text(write(), encoding="utf-8")
    result_tables.write_pages()
    messages.FILE.write_text(messages.messages(), encoding="utf-8")
