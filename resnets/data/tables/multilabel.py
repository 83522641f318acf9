"""Parse the labels of a table, and detect whether images have one label or several.

Several labels are written as "cat;dog", "cat|dog" or "cat,dog" in one cell, as a list such as
["cat", "dog"], as a column of 0 and 1 for each label, or (with data.labels="multi") as a row for
each label of an image.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product
from typing import Literal

from resnets.data.errors import DataError
from resnets.data.tables.labels import LIST, ONE_LABEL, Label, is_list, is_missing, label_names

LabelForm = Literal["auto", "single", "multi"]
SEPARATORS = (";", "|", ",", "/", "+", "&")
SELDOM_IN_NAMES = (";", "|", ",")  # "/", "+" and "&" are: "black/white", "Action & Adventure"
RARE_SHARE = 0.05  # at most this share of cells with several labels counts as a mistake
COMMA_SHARE = 0.5  # share of distinct cells with a comma from which a warning is given
BRACKETS = re.compile(r"[\[{(](.*)[\]})]", re.DOTALL)
TOKEN = re.compile(r"\"([^\"]*)\"|'([^']*)'|([^,\s][^,]*)")
NUMBERS = re.compile(r"\d+(\s+\d+)+")
DECIMAL = re.compile(r"[+-]?\d+(?:,(\d+))?")
QUARTERS = frozenset({"0", "00", "000", "5", "50", "500", "25", "250", "75", "750"})
NESTED = re.compile(r"[\[{(]\s*[\[{(]|\{\s*(\"[^\"]*\"|'[^']*')\s*:")  # lists in lists, mappings
BRACKET, SPACES, WORDS = "brackets", "spaces", "words"


@dataclass(frozen=True)
class ParsedLabels:
    """Parsed labels: either all names, or all tuples of names (`multi`).

    description: how several labels are written, for the note on the table; "" for single labels.
    warning: why the labels may have another meaning, or "".
    """

    labels: Sequence[Label]
    multi: bool = False
    description: str = ""
    warning: str = ""


def parse_labels(
    labels: Sequence[Label], locate: Callable[[int], str], form: LabelForm = "auto"
) -> ParsedLabels:
    """Parse the labels of a table: the text of its cells, or the names of the columns with 1.

    form: "single" reads each cell as one label, "multi" as any number of labels, where an empty
    cell has none. "auto" reads several labels if cells consist of labels of other cells, are lists,
    or contain ";" or "|" between labels that recur, or if a row has several columns of 1.
    `locate(row)` returns the file and line of a row for messages.

    Raises DataError if only a few cells have several labels, if they may be numbers with a decimal
    comma, if columns contain 1 in addition to exclusive ones, and if a table of single labels has a
    missing label or a list.
    """
    columns = any(isinstance(label, tuple) for label in labels)
    if form == "single":
        return ParsedLabels([single_label(label, locate(row)) for row, label in enumerate(labels)])
    if columns:
        sets = [label_names(label) for label in labels]
        rows = [row for row, names in enumerate(sets) if len(names) > 1]
        if form == "auto" and rows:
            location = (
                f"{locate(rows[0])}: the columns {', '.join(map(repr, sets[rows[0]]))} are set"
            )
            _check_not_rare(location, rows, len(sets))
            if extra := _find_extra_columns(sets):
                raise DataError(
                    f"{location}, but without {' and '.join(map(repr, extra))} each row has one"
                    " column of 1, so that the others seem to be classes, and these not; remove"
                    f" {'them' if len(extra) > 1 else 'it'}, or, for multi-label data, set"
                    " data.labels=multi"
                )
        if form == "multi" or rows:
            return ParsedLabels(sets, True, "several labels per image")
        return ParsedLabels([single_label(label, locate(row)) for row, label in enumerate(labels)])
    texts = [str(label) for label in labels]
    if form == "auto" and (row := _find_decimal_comma(texts)) is not None:
        raise DataError(
            f"{locate(row)}: {texts[row]!r} may be a number with a decimal comma, or two labels;"
            " write numbers with a point, or, for multi-label data, set data.labels=multi"
        )
    several, separator = _find_separator(texts, form)
    if form == "auto" and not several:
        single = ParsedLabels([single_label(text, locate(row)) for row, text in enumerate(texts)])
        return ParsedLabels(single.labels, warning=_comma_warning(texts) or _words_warning(texts))
    if form == "auto":
        labeled = sum(not is_missing(text) for text in texts)
        rows = [row for row, text in enumerate(texts) if text in several]
        location = f"{locate(rows[0])}: {texts[rows[0]]!r} looks like several labels"
        _check_not_rare(location, rows, labeled)
    if separator == BRACKET:
        _check_lists(texts, locate)
    sets = [_split_cell(text, separator) for text in texts]
    _check_other_separators(sets, separator, locate)
    how = {BRACKET: "lists", SPACES: "separated by spaces", "": "one each"}
    how[WORDS] = how[SPACES]
    description = f"several labels per image, {how.get(separator, f'separated by {separator!r}')}"
    if none := sum(not names for names in sets):
        description += f", {none:,} without a label"
    return ParsedLabels(sets, True, description)


def _check_not_rare(location: str, rows: Sequence[int], labeled: int) -> None:
    """Raise DataError if only a few `rows` have several labels, which is probably a mistake."""
    if len(rows) <= RARE_SHARE * labeled:
        raise DataError(
            f"{location}, and {labeled - len(rows):,} other images have one label; correct it, or,"
            " for multi-label data, set data.labels=multi"
        )


def _check_lists(texts: Sequence[str], locate: Callable[[int], str]) -> None:
    """Raise DataError for a list that contains other lists, a mapping or a missing value."""
    for row, text in enumerate(texts):
        if NESTED.match(text):
            raise DataError(
                f"{locate(row)}: {text[:80]!r} is not a list of labels; write their names alone"
            )
        if (missing := next(filter(is_missing, _split_cell(text, BRACKET)), None)) is not None:
            raise DataError(
                f"{locate(row)}: {text[:80]!r} contains {missing!r}, which means no label; leave it"
                " out, or name the class otherwise"
            )


def _check_other_separators(
    sets: Sequence[tuple[str, ...]], separator: str, locate: Callable[[int], str]
) -> None:
    """Raise DataError for a name that consists of other names, joined by another separator."""
    names = set(chain.from_iterable(sets))
    for row, labels in enumerate(sets):
        for name, other in product(labels, SELDOM_IN_NAMES):
            parts = _split_cell(name, other) if other != separator else ()
            if len(parts) > 1 and names.issuperset(parts):
                raise DataError(
                    f"{locate(row)}: {name!r} may be several labels, joined by {other!r}, which"
                    " other cells join otherwise; use one form"
                )


def _find_decimal_comma(texts: Sequence[str]) -> int | None:
    """Return the row of the first cell that may be a number such as "0,5"; None if there is none.

    All cells must be numbers: all with a comma, or with the decimals of halves and quarters.
    """
    numbers = [DECIMAL.fullmatch(text) for text in texts if not is_missing(text)]
    fractions = [found[1] for found in numbers if found]
    if not all(numbers) or not any(fractions):
        return None
    if None in fractions and not QUARTERS.issuperset(filter(None, fractions)):
        return None
    return next(row for row, text in enumerate(texts) if "," in text)


def _find_extra_columns(sets: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return one or two columns without which each row has exactly one 1; () if there are none."""
    names = tuple(dict.fromkeys(chain.from_iterable(sets)))
    rows = Counter(map(frozenset, sets))
    spare = max(map(len, rows)) - 1  # of a row, at least
    for count in (1, 2):
        for chosen in combinations(names, count) if spare <= count < len(names) - 1 else ():
            if all(len(row.difference(chosen)) == 1 for row in rows):
                return chosen
    return ()


def single_label(label: Label, location: str) -> str:
    """Return the only name of a label; raise DataError if there is none, or several."""
    if isinstance(label, tuple):
        if len(label) == 1:
            return label[0]
        if label:
            raise DataError(f"{location}: the classes {', '.join(label)} at once; {ONE_LABEL}")
        raise DataError(f"{location}: no class: none of its columns is set")
    if is_missing(label):
        written = f" ({label!r})" if label else ""
        raise DataError(f"{location}: no label{written}; remove the row, or name its class")
    if is_list(label):
        raise DataError(f"{location}: {label!r} looks like several labels; {ONE_LABEL}")
    return label


def union_labels(sets: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the union of the labels of several rows of one image, in their order."""
    return tuple(dict.fromkeys(name for names in sets for name in names))


def _find_separator(texts: Sequence[str], form: LabelForm) -> tuple[set[str], str]:
    """Return the cells with several labels and their separator: the one that most cells have."""
    counts = Counter(text for text in texts if not is_missing(text))
    if counts and all(map(BRACKETS.fullmatch, counts)):
        lists = {cell for cell in counts if len(_split_cell(cell, BRACKET)) != 1}
        return lists or set(counts), BRACKET
    best, most, chosen = set[str](), 0, ""
    for separator in (*SEPARATORS, SPACES):
        found = set()
        for cell in counts:
            parts = _split_cell(cell, separator)
            sure = LIST.fullmatch(cell) is not None or counts.keys() >= set(parts)
            if len(parts) > 1 and (sure or (form == "multi" and separator == ",")):
                found.add(cell)
        total = sum(counts[cell] for cell in found)
        if total > most and (form == "multi" or _labels_recur(counts, found, separator)):
            best, most, chosen = found, total, separator
    if form == "multi" and not best and (listed := _cells_of_words(counts)):
        return listed, WORDS
    return best, chosen


def _labels_recur(cells: Collection[str], several: Collection[str], separator: str) -> bool:
    """Return whether a label of one of the cells `several` is also in another cell."""
    count = Counter(name for cell in cells for name in _split_cell(cell, separator))
    return any(count[name] > 1 for cell in several for name in _split_cell(cell, separator))


def _split_cell(text: str, separator: str) -> tuple[str, ...]:
    """Return the distinct names in a cell, in their order."""
    if is_missing(text):
        return ()
    if separator == BRACKET and (found := BRACKETS.fullmatch(text)) is not None:
        return tuple(dict.fromkeys(_parse_list(found[0], found[1])))
    if separator == WORDS:
        return tuple(dict.fromkeys(text.split()))
    if separator == SPACES:
        parts: Sequence[str] = text.split() if NUMBERS.fullmatch(text) else [text]
    else:
        parts = text.split(separator) if separator else [text]
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _parse_list(text: str, inside: str) -> list[str]:
    """Return the names in a list that JSON, Python or NumPy wrote."""
    try:
        values = json.loads(text)
        if isinstance(values, list) and all(isinstance(each, str | int) for each in values):
            return [str(each).strip() for each in values]
    except (ValueError, RecursionError):
        pass
    if "," not in inside and "'" not in inside and '"' not in inside:
        return inside.split()
    return [next(filter(None, token), "").strip() for token in TOKEN.findall(inside)]


def _cells_of_words(cells: Iterable[str]) -> set[str]:
    """Return the cells of several words, if words seem to be labels, not parts of names; else {}.

    That is if all of them are cells of their own, or if there are more such cells than words, and
    words change places: names such as "red car" and "big red car" have theirs in one order.
    """
    distinct = {text for text in cells if not is_missing(text)}
    several = {text for text in distinct if len(text.split()) > 1}
    words = {word for text in several for word in text.split()}
    if len(several) < 2 or not all(any(map(str.isalnum, word)) for word in words):
        return set()
    recur = len(words) < len(several) and len(several) >= COMMA_SHARE * len(distinct)
    if words <= distinct or (recur and _occur_in_any_position(several)):
        return several
    return set()


def _occur_in_any_position(several: Collection[str]) -> bool:
    """Return whether some word has several positions, counted from the start and from the end."""
    split = [text.split() for text in several]
    return all(
        len({place for cell in cells for place in enumerate(cell)})
        > len({word for cell in cells for word in cell})
        for cells in (split, [cell[::-1] for cell in split])
    )


def _words_warning(texts: Sequence[str]) -> str:
    """Return a warning if labels seem to be several words, each a label, else ""."""
    if not (several := _cells_of_words(texts)):
        return ""
    return (
        f"{len(several):,} of {len(set(texts)):,} classes consist of words that other classes have"
        f" too, such as {min(several)!r}, and each is read as one class; if the words are"
        " labels, set data.labels=multi"
    )


def _comma_warning(texts: Sequence[str]) -> str:
    """Return a warning if most labels have a comma and consist of few names, else ""."""
    cells = {text for text in texts if text}
    listed = [text for text in cells if len(_split_cell(text, ",")) > 1]
    names = {name for text in listed for name in _split_cell(text, ",")}
    if not listed or len(listed) < COMMA_SHARE * len(cells) or len(names) >= len(listed):
        return ""
    return (
        f"{len(listed):,} of {len(cells):,} classes have a comma in their names, such as"
        f" {sorted(listed)[0]!r}, and each is read as one class; if they are lists of labels, set"
        " data.labels=multi"
    )
