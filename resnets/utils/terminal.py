"""What the terminal is handed: names from files and folders, made harmless.

A file or class name may hold escape sequences that clear the screen, set the window's title or
imitate our own lines. Nothing of that kind reaches the terminal: `say` prints, `Console` replaces
rich's, and importing this module makes the records of our own loggers printable.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from functools import cache
from typing import IO, Any

import rich.console
from rich.markup import escape as escape_markup
from rich.text import Text

# Controls (C0, DEL, C1), line and paragraph separators, what reverses the direction of the text
# around it, and surrogates, by which Python keeps the bytes of names that are not UTF-8.
UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: object, keep: str = "") -> str:
    """`str(text)` with everything that a terminal would obey written as an escape (`\\x1b`).

    A byte of a name that is not UTF-8 is written as `\\udcNN`, as in JSON. The characters of `keep`
    (a newline, in text of several lines) stay.
    """
    return UNSAFE.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), str(text))


def valid_text(text: str) -> str:
    """`text` as it can be encoded in UTF-8: bytes that are not UTF-8 are written as `\\udcNN`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _escaped(letter: str) -> str:
    code = ord(letter)
    return SHORT.get(letter) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def counted(count: int, one: str, many: str = "") -> str:
    """Such as "1 image" and "2,000 images"; `many` is the plural where it is not `one` and an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def escape(text: object) -> str:
    """`text` on one line, for rich: printable, and none of it taken for markup."""
    return escape_markup(printable(text))


def say(text: object = "", *, error: bool = False) -> None:
    """Print a line, or several, to stdout; or with `error` one line to stderr, and flush it.

    A line break in an error is part of a name: written as it is, what follows would look like a
    line of ours.
    """
    if error:
        print(printable(text, keep="\t"), file=sys.stderr, flush=True)  # noqa: T201
    else:
        print(printable(text, keep="\n\t"))  # noqa: T201


class Console(rich.console.Console):
    """rich's console, whose text is printable."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Text of a string, as rich makes it for whatever is printed."""
        return super().render_str(printable(text, keep="\n\t"), **options)

    def on_broken_pipe(self) -> None:
        """Raise it, in place of an exit with status 1: `main` ends quietly."""
        raise BrokenPipeError


def console(file: IO[str] | None = None) -> Console:
    """A console for tables on stdout (or `file`); lines that are piped do not fold."""
    return Console(file=file, width=None if (file or sys.stdout).isatty() else 1000)


def leave_terminal() -> None:
    """Send what is printed from now on nowhere where its terminal was closed: printing would fail
    while the work is being saved."""
    for number in (1, 2):
        try:
            os.write(number, b"")
        except OSError:
            opened = os.open(os.devnull, os.O_WRONLY)
            os.dup2(opened, number)
            os.close(opened)


@cache
def _guard_logs() -> None:
    """Have the messages of our own loggers made printable, whichever handler writes them."""
    make = logging.getLogRecordFactory()

    def made(name: str, *args: Any, **options: Any) -> logging.LogRecord:
        record = make(name, *args, **options)
        if name == "resnets" or name.startswith("resnets."):
            record.msg, record.args = printable(record.getMessage(), keep="\n\t"), ()
        return record

    logging.setLogRecordFactory(made)


_guard_logs()
