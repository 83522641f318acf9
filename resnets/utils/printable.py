"""Terminal output without escape sequences from file names and class names.

Such a name may contain sequences that clear the screen, set the window's title or imitate our
messages. `echo` prints lines and `Console` prints rich's tables, with control characters escaped.
Importing this module also escapes them in the records of our loggers.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO, Any, TypeVar

import rich.console
import rich.table
from rich.box import SIMPLE_HEAD
from rich.markup import escape as escape_markup
from rich.text import Text

from resnets.utils.argument_names import options_to_arguments

Item = TypeVar("Item")

# Control characters (C0, DEL, C1), line and paragraph separators, characters that change the text's
# direction, and surrogates, which stand for the bytes of names that are not UTF-8.
UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
MAX_NAME_LENGTH = 120  # characters of a name in `join_names`
SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: object, keep: str = "") -> str:
    """Return `str(text)` with control characters escaped (`\\x1b`), except those in `keep`.

    A byte of a name that is not UTF-8 is written as `\\udcNN`, as in JSON.
    """
    return UNSAFE.sub(
        lambda match: match[0] if match[0] in keep else _escape_character(match[0]), str(text)
    )


def valid_text(text: str) -> str:
    """Return `text` encodable in UTF-8: bytes that are not UTF-8 are written as `\\udcNN`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _escape_character(letter: str) -> str:
    code = ord(letter)
    return SHORT.get(letter) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def format_count(count: int, one: str, many: str = "") -> str:
    """Format a count: "1 image", "2,000 images"; many: the plural, if it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def join_names(names: Iterable[str], limit: int = 3) -> str:
    """Join the first `limit` names for a message and count the others: "a, b, c and 2 more".

    Of names longer than MAX_NAME_LENGTH characters the middle is omitted ("..."), since the end of
    a path tells most; control characters are escaped.
    """
    names = list(names)
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(printable(_shorten(name)) for name in names[:limit]) + more


def _shorten(name: str) -> str:
    if len(name) <= MAX_NAME_LENGTH:
        return name
    half = (MAX_NAME_LENGTH - 3) // 2
    return f"{name[:half]}...{name[-half:]}"


def escape(text: object) -> str:
    """Return `text` as one printable line for rich, with its markup escaped."""
    return escape_markup(printable(text))


def echo(text: object = "", *, error: bool = False) -> None:
    """Print lines to stdout, or with `error` a single line to stderr, flushed.

    Line breaks in errors are escaped: they come from names, and what follows would look like
    another message.
    """
    text = options_to_arguments(str(text))
    if error:
        _print_error(text)
    else:
        print(printable(text, keep="\n\t"))  # noqa: T201


def _print_error(text: str) -> None:
    print(printable(text, keep="\t"), file=sys.stderr, flush=True)  # noqa: T201


class StderrHandler(logging.Handler):
    """Prints each record as a line on the `sys.stderr` of that moment.

    `logging.StreamHandler` keeps the stream it was created with, and would write into a progress
    bar, which replaces `sys.stderr` while it shows.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record; as with other handlers, a failure does not stop the program."""
        try:
            _print_error(self.format(record))
        except OSError:  # the terminal or the reader of a pipe is gone
            self.handleError(record)


class Console(rich.console.Console):
    """rich's console, with control characters escaped."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string to rich's Text; called for all that is printed."""
        return super().render_str(printable(text, keep="\n\t"), **options)

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError, not SystemExit(1): `main` then ends without a message."""
        raise BrokenPipeError


class Table(rich.table.Table):
    """rich's table in the style of all commands: a line below the headings, no frame."""

    def __init__(self, *headings: str, **options: Any) -> None:
        style: dict[str, Any] = {
            "box": SIMPLE_HEAD,
            "pad_edge": False,
            "show_edge": False,
            "padding": (0, 1, 0, 0),
            "title_justify": "left",
        }
        super().__init__(*headings, **style | options)


def terminal_console(file: IO[str] | None = None) -> Console:
    """Return a console for tables on stdout (or `file`); piped lines are not wrapped."""
    return Console(file=file, width=None if (file or sys.stdout).isatty() else 1000)


def show_progress(
    items: Iterable[Item], title: str, total: int | None = None, *, hidden: bool = False
) -> Iterator[Item]:
    """Iterate with a progress bar on stderr, unless it is `hidden` or stderr is redirected.

    total: number of items; not needed if `items` has a length.
    """
    from rich.progress import track  # deferred: slow to import

    hidden = hidden or not sys.stderr.isatty()
    options: Any = {"console": Console(stderr=True), "transient": True, "disable": hidden}
    return iter(track(items, escape(title), total, **options))


@contextmanager
def without_log() -> Iterator[None]:
    """Context in which the package logs nothing: what is read twice is described once."""
    logger = logging.getLogger("resnets")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)  # also of the loggers below it, unlike `disabled`
    try:
        yield
    finally:
        logger.setLevel(before)


def detach_closed_terminal() -> None:
    """Redirect stdout and stderr to /dev/null if their terminal was closed.

    Otherwise printing would fail while a run is being saved.
    """
    for number in (1, 2):
        try:
            os.write(number, b"")
        except OSError:
            opened = os.open(os.devnull, os.O_WRONLY)
            os.dup2(opened, number)
            os.close(opened)


@cache
def _escape_log_records() -> None:
    """Escape control characters in the records of our loggers, for any handler."""
    make_record = logging.getLogRecordFactory()

    def make_escaped(name: str, *args: Any, **options: Any) -> logging.LogRecord:
        record = make_record(name, *args, **options)
        if name == "resnets" or name.startswith("resnets."):
            text = options_to_arguments(record.getMessage())
            record.msg, record.args = printable(text, keep="\n\t"), ()
        return record

    logging.setLogRecordFactory(make_escaped)


_escape_log_records()
