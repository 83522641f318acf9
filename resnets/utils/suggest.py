"""The hint of a message about an unknown name: the most similar known name, else all of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from resnets.utils.printable import join_names

MAX_NAMES = 20  # known names listed in a hint


def find_similar(name: str, known: Iterable[str]) -> str | None:
    """Return the name in `known` that is most similar to `name`; None if none is similar.

    Case and the choice of hyphen or underscore do not count. The similarity is difflib's; without
    one, it is the only name that begins with `name`.
    """
    names = {_normalize(each): each for each in known}
    start = _normalize(name)
    matches = difflib.get_close_matches(start, names, 1)
    if not matches and start:
        matches = [each for each in names if each.startswith(start)]
    return names[matches[0]] if len(matches) == 1 else None


def suggest(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Return "did you mean X?", or `otherwise` if no known name is similar to `name`.

    otherwise: by default a list of the known names, "known: a, b, c".
    """
    known = list(known)
    similar = find_similar(name, known)
    if similar is not None:
        return f"did you mean {similar}?"
    return f"known: {join_names(known, MAX_NAMES)}" if otherwise is None else otherwise


def suggest_path(path: Path) -> str:
    """Return "; did you mean X?" for a missing path with a similar name in its folder, else ""."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    if path.name in names:  # it is of another kind than is wanted
        return ""
    similar = find_similar(path.name, names)
    return "" if similar is None else f"; did you mean {path.parent / similar}?"


def _normalize(name: str) -> str:
    return name.casefold().replace("_", "-")
