"""What `--help` prints: usage, description, arguments and options of a command."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator

from resnets.cli.usage.arguments import Argument, Command

MAX_WIDTH = 100  # characters; longer lines are hard to read
INDENT = 26  # column of descriptions


def format_help(command: Command, width: int | None = None) -> str:
    """Return the help of a command. width: in characters; the terminal's by default."""
    width = min(width or shutil.get_terminal_size().columns, MAX_WIDTH)
    return "\n".join(_lines(command, max(width, 2 * INDENT))).rstrip()


def _lines(command: Command, width: int) -> Iterator[str]:
    positional = [each for each in command.arguments if not each.is_option]
    options = [each for each in command.arguments if each.is_option]
    words = ["SUBCOMMAND ..."] if command.subcommands else [_in_usage(each) for each in positional]
    usage = f"usage: {' '.join([command.name, *words])}{' [options]' if options else ''}"
    yield from textwrap.wrap(usage, width, subsequent_indent=" " * 7, break_on_hyphens=False)
    for paragraph in command.description.split("\n\n"):
        yield ""
        yield from _wrap(" ".join(paragraph.split()), width)
    if command.subcommands:
        yield "\nsubcommands:"
        for name, below in command.subcommands.items():
            summary = " ".join(below.description.split("\n\n")[0].split())
            yield from _row(name, summary, width)
        yield f"\n`{command.name} SUBCOMMAND --help` explains each."
    for title, group in (("arguments", positional), ("options", options)):
        if group:
            yield f"\n{title}:"
            for argument in group:
                yield from _row(_heading(argument), _explanation(argument), width)


def _in_usage(argument: Argument) -> str:
    name = _heading(argument)
    return name if argument.is_required else f"[{name}]"


def _heading(argument: Argument) -> str:
    """Names and value, as "--top, --top-k INT"; the value of positional arguments is omitted."""
    if not argument.is_option:
        return argument.names[0] + " ..." * argument.is_list
    choices = "{" + ",".join(filter(None, argument.choices)) + "}" if argument.choices else ""
    return f"{', '.join(argument.names)} {choices or argument.value}".rstrip()


def _explanation(argument: Argument) -> str:
    text = argument.meaning
    if argument.default and f"default {argument.default}" not in text:
        text += f" (default: {argument.default})"
    return text


def _row(heading: str, text: str, width: int) -> list[str]:
    """A heading and a text beside it, or below it if the heading is long."""
    body = _wrap(text, width - INDENT)
    if len(heading) <= INDENT - 4 and body:
        body[0] = f"  {heading:<{INDENT - 2}}{body[0]}"
        return [body[0], *(" " * INDENT + line for line in body[1:])]
    return [f"  {heading}", *(" " * INDENT + line for line in body)]


def _wrap(text: str, width: int) -> list[str]:
    """Lines of a text; options and paths are not broken at hyphens."""
    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)
