"""Arguments and options of a command, read from the parser that tyro makes of its function."""

from __future__ import annotations

import argparse
import importlib
import re
import warnings
from dataclasses import dataclass
from typing import cast

import tyro

TYPE = re.compile(r"\b(STR|PATH|INT|FLOAT)\b")


@dataclass(frozen=True)
class Argument:
    """One positional argument, or one option.

    Args:
        names: Names of an option, the shortest first; of a positional argument one, "WEIGHTS".
        value: What it takes, such as "PATH" or "STR ..."; empty for a flag, and with choices.
        choices: Accepted values; empty if not limited.
        default: Its default as text; empty if there is none.
        meaning: Its description, without line breaks.
        is_required: Whether it must be given.
        is_list: Whether it takes any number of values.
        is_repeatable: Whether the option may be given several times.
    """

    names: tuple[str, ...]
    value: str
    choices: tuple[str, ...]
    default: str
    meaning: str
    is_required: bool
    is_list: bool
    is_repeatable: bool

    @property
    def is_option(self) -> bool:
        """Whether it has a name that begins with hyphens."""
        return self.names[0].startswith("-")

    @property
    def takes_value(self) -> bool:
        """Whether it takes a value; flags do not."""
        return bool(self.value or self.choices)


@dataclass(frozen=True)
class Command:
    """A command, or a group of commands.

    Args:
        name: Name with the program's, "resnets study depth".
        description: Paragraphs, divided by empty lines.
        arguments: Positional arguments and options in their order, without --help.
        subcommands: Commands of a group by name.
    """

    name: str
    description: str
    arguments: tuple[Argument, ...]
    subcommands: dict[str, Command]


def module_name(command: str) -> str:
    """Return the module of a command."""
    return f"resnets.cli.{command.replace('-', '_')}"


def read_command(name: str) -> Command:
    """Return the command `name` of `resnets`, such as "train"."""
    module = importlib.import_module(module_name(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tyro parses with another class; names are the same
        parser = tyro.extras.get_parser(module.command, prog=f"resnets {name}")
    return _command(cast("argparse.ArgumentParser", parser), f"resnets {name}")  # tyro's copy of it


def _command(parser: argparse.ArgumentParser, name: str) -> Command:
    arguments, subcommands = list[Argument](), dict[str, Command]()
    for action in parser._actions:
        if isinstance(action.choices, dict):  # subcommands and their parsers
            for word, below in action.choices.items():
                subcommands[word] = _command(below, f"{name} {word}")
        elif action.dest != "help":
            arguments.append(_argument(action))
    return Command(name, parser.description or "", tuple(arguments), subcommands)


def _argument(action: argparse.Action) -> Argument:
    """Read an argument; tyro ends its help with the default, "required" or "repeatable"."""
    help_text = " ".join((action.help or "").split()).replace("%%", "%")
    meaning, _, end = help_text.removesuffix(")").rpartition(" (")
    default = end.removeprefix("default:").strip()
    has_default = action.nargs != 0 and default not in ("None", "''", "", "required", "repeatable")
    names = tuple(sorted(action.option_strings, key=len))
    value = "" if action.choices or action.nargs == 0 else str(action.metavar)
    if (found := TYPE.search(value)) is not None:
        value = f"{found[0]} ..." if action.nargs == "*" else found[0]
    return Argument(
        names or (action.dest.rpartition(".")[2].upper(),),
        value,
        tuple(action.choices or ()),
        default if has_default else "",
        meaning,
        is_required=end == "required",
        is_list=action.nargs == "*",
        is_repeatable=end == "repeatable",
    )
