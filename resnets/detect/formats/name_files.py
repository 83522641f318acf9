"""Files that name the classes of a set, one a line, where the place of the line is the number."""

from __future__ import annotations

from collections.abc import Sequence

from resnets.data.errors import DataError
from resnets.detect.data.documents import decode_text
from resnets.detect.data.store import Store
from resnets.detect.data.values import read_name


def numbered_names(store: Store, path: str) -> list[str]:
    """The names of a file by number, from 0 on; DataError where a blank line leaves them open."""
    where = store.called(path)
    text = decode_text(store.read(path), where)
    return [read_name(line) for line in without_gaps(text.splitlines(), where)]


def without_gaps(lines: Sequence[str], where: str) -> list[str]:
    """The lines, without spaces around them and blank ones at the end.

    DataError: a blank line before a name, which may count as a class or not.
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
