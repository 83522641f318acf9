"""Whether the images of a table have one label each or sets of labels, and how sets are written.

"cat;dog", "cat|dog", "cat,dog" in one cell, lists such as ["cat", "dog"], a column of 0 and 1 for
each label, or (with data.labels="multi") a row for each label of an image.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Literal

from resnets.data.errors import DataError
from resnets.data.tables.labels import LIST, ONE_LABEL, Label, is_list, is_missing, names_of

LabelForm = Literal["auto", "single", "multi"]
SEPARATORS = (";", "|", ",", "/", "+", "&")
FEW = 0.05  # share of the cells that name several labels, from which all may
MOST = 0.5  # share of the distinct cells, for a warning
BRACKETS = re.compile(r"[\[{(](.*)[\]})]", re.DOTALL)
TOKEN = re.compile(r"\"([^\"]*)\"|'([^']*)'|([^,\s][^,]*)")
NUMBERS = re.compile(r"\d+(\s+\d+)+")
DECIMAL = re.compile(r"[+-]?\d+(?:,(\d+))?")
QUARTERS = frozenset({"0", "00", "000", "5", "50", "500", "25", "250", "75", "750"})
BRACKET, SPACES = "brackets", "spaces"


@dataclass(frozen=True)
class LabelSets:
    """Labels as they are meant: all of them names, or all tuples of names (`multi`).

    said: how sets are written, for the note on the table; empty where labels are single.
    warning: where they may be meant otherwise.
    """

    labels: Sequence[Label]
    multi: bool = False
    said: str = ""
    warning: str = ""


def read_label_sets(
    labels: Sequence[Label], place: Callable[[int], str], form: LabelForm = "auto"
) -> LabelSets:
    """The labels of a table whose cells are `labels`: text, or the names of columns that hold 1.

    form: "single" takes each cell as one label, "multi" as a set, empty for none. "auto" takes
    sets where cells are made of other cells' labels, are lists or have ";" or "|" between labels
    that recur, and where a row has several columns of 1. DataError where a few cells only are so,
    where they may be numbers with a decimal comma, where columns beside exclusive ones hold 1, and
    where a label is missing or a list in a table of single ones. `place(row)` is its line.
    """
    columns = any(isinstance(label, tuple) for label in labels)
    if form == "single":
        return LabelSets([single_label(label, place(row)) for row, label in enumerate(labels)])
    if columns:
        sets = [names_of(label) for label in labels]
        rows = [row for row, names in enumerate(sets) if len(names) > 1]
        if form == "auto" and rows:
            where = f"{place(rows[0])}: the columns {', '.join(map(repr, sets[rows[0]]))} are 1"
            _refuse_few(where, rows, len(sets))
            if beside := _beside_exclusive(sets):
                raise DataError(
                    f"{where}, but without {' and '.join(map(repr, beside))} each row has one"
                    " column of 1, so that the others seem to be classes, and these not; remove"
                    f" {'them' if len(beside) > 1 else 'it'}, or, for sets of labels, set"
                    " data.labels=multi"
                )
        if form == "multi" or rows:
            return LabelSets(sets, True, "sets of labels")
        return LabelSets([single_label(label, place(row)) for row, label in enumerate(labels)])
    texts = [str(label) for label in labels]
    if form == "auto" and (row := _decimal_comma(texts)) is not None:
        raise DataError(
            f"{place(row)}: {texts[row]!r} may be a number with a decimal comma, or two labels;"
            " write numbers with a point, or, for sets of labels, set data.labels=multi"
        )
    several, separator = _separator(texts, form)
    if form == "auto" and not several:
        found = LabelSets([single_label(text, place(row)) for row, text in enumerate(texts)])
        return LabelSets(found.labels, warning=_doubt(texts))
    if form == "auto":
        given = sum(not is_missing(text) for text in texts)
        rows = [row for row, text in enumerate(texts) if text in several]
        where = f"{place(rows[0])}: {texts[rows[0]]!r} looks like several labels"
        _refuse_few(where, rows, given)
    sets = [_split(text, separator) for text in texts]
    how = {BRACKET: "lists", SPACES: "separated by spaces", "": "one each"}
    said = f"sets of labels, {how.get(separator, f'separated by {separator!r}')}"
    if none := sum(not names for names in sets):
        said += f", {none:,} without a label"
    return LabelSets(sets, True, said)


def _refuse_few(where: str, rows: Sequence[int], given: int) -> None:
    """DataError where so few `rows` of those `given` have several labels that it is a slip."""
    if len(rows) <= FEW * given:
        raise DataError(
            f"{where}, and {given - len(rows):,} other images have one label; correct it, or, for"
            " sets of labels, set data.labels=multi"
        )


def _decimal_comma(texts: Sequence[str]) -> int | None:
    """The first of cells that may be numbers such as "0,5"; None where they are no such cells.

    All are numbers: all with a comma, or the digits after it are those of halves and quarters.
    """
    numbers = [DECIMAL.fullmatch(text) for text in texts if not is_missing(text)]
    fractions = [found[1] for found in numbers if found]
    if not all(numbers) or not any(fractions):
        return None
    if None in fractions and not QUARTERS.issuperset(filter(None, fractions)):
        return None
    return next(row for row, text in enumerate(texts) if "," in text)


def _beside_exclusive(sets: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """One or two columns without which each row has exactly one column of 1; () for none."""
    names = tuple(dict.fromkeys(chain.from_iterable(sets)))
    rows = Counter(map(frozenset, sets))
    spare = max(map(len, rows)) - 1  # of a row, at least
    for count in (1, 2):
        for chosen in combinations(names, count) if spare <= count < len(names) - 1 else ():
            if all(len(row.difference(chosen)) == 1 for row in rows):
                return chosen
    return ()


def single_label(label: Label, place: str) -> str:
    """The one name of a label; DataError where it is missing, or there are several."""
    if isinstance(label, tuple):
        if len(label) == 1:
            return label[0]
        if label:
            raise DataError(f"{place}: the classes {', '.join(label)} at once; {ONE_LABEL}")
        raise DataError(f"{place}: no class: all of its columns are 0")
    if is_missing(label):
        said = f" ({label!r})" if label else ""
        raise DataError(f"{place}: no label{said}; remove the row, or name its class")
    if is_list(label):
        raise DataError(f"{place}: {label!r} looks like several labels; {ONE_LABEL}")
    return label


def joined_sets(sets: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The labels of all rows of one image."""
    return tuple(dict.fromkeys(name for names in sets for name in names))


def _separator(texts: Sequence[str], form: LabelForm) -> tuple[set[str], str]:
    """The cells that name several labels, and what separates them; the form with most of them."""
    counts = Counter(text for text in texts if not is_missing(text))
    if counts and all(map(BRACKETS.fullmatch, counts)):
        lists = {cell for cell in counts if len(_split(cell, BRACKET)) != 1}
        return lists or set(counts), BRACKET
    best, most, chosen = set[str](), 0, ""
    for separator in (*SEPARATORS, SPACES):
        found = set()
        for cell in counts:
            parts = _split(cell, separator)
            sure = LIST.fullmatch(cell) is not None or counts.keys() >= set(parts)
            if len(parts) > 1 and (sure or (form == "multi" and separator == ",")):
                found.add(cell)
        total = sum(counts[cell] for cell in found)
        if total > most and (form == "multi" or _recurs(counts, found, separator)):
            best, most, chosen = found, total, separator
    return best, chosen


def _recurs(cells: Collection[str], several: Collection[str], separator: str) -> bool:
    """Whether a label of one of `several` is in another cell, too."""
    count = Counter(name for cell in cells for name in _split(cell, separator))
    return any(count[name] > 1 for cell in several for name in _split(cell, separator))


def _split(text: str, separator: str) -> tuple[str, ...]:
    """The distinct names in a cell, in their order."""
    if is_missing(text):
        return ()
    if separator == BRACKET and (found := BRACKETS.fullmatch(text)) is not None:
        return tuple(dict.fromkeys(_listed(found[0], found[1])))
    if separator == SPACES:
        parts: Sequence[str] = text.split() if NUMBERS.fullmatch(text) else [text]
    else:
        parts = text.split(separator) if separator else [text]
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _listed(text: str, inside: str) -> list[str]:
    """The names of a list as JSON, Python and NumPy write it."""
    try:
        values = json.loads(text)
        if isinstance(values, list) and all(isinstance(each, str | int) for each in values):
            return [str(each).strip() for each in values]
    except (ValueError, RecursionError):
        pass
    if "," not in inside and "'" not in inside and '"' not in inside:
        return inside.split()
    return [next(filter(None, token), "").strip() for token in TOKEN.findall(inside)]


def _doubt(texts: Sequence[str]) -> str:
    """A warning where most labels have a comma and are made of few names."""
    cells = {text for text in texts if text}
    listed = [text for text in cells if len(_split(text, ",")) > 1]
    names = {name for text in listed for name in _split(text, ",")}
    if not listed or len(listed) < MOST * len(cells) or len(names) >= len(listed):
        return ""
    return (
        f"{len(listed):,} of {len(cells):,} classes have a comma in their names, such as"
        f" {sorted(listed)[0]!r}, and each is taken as one class; if they are sets of labels, set"
        " data.labels=multi"
    )
