"""Names of classes as folders have them: one spelling for each, and what is too much alike."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from resnets.data.errors import DataError

NUMBERED = re.compile(r"(.*?[^\W\d_].*?)[\s._-]*[(\[]?\d+[)\]]?")
SIGNED = re.compile(r"[+-]?\d+(?:[.,]\d+)?")
BLANKS = re.compile(r"[\s_-]+")
INDEXED = (  # "2 cassette", "2: cassette", "2,cassette"; "cassette 2", "cassette,2"
    re.compile(r"(?P<number>\d{1,6})[\s:;,=]+(?P<name>\S.*)"),
    re.compile(r"(?P<name>.*\S)[\s:;,=]+(?P<number>\d{1,6})"),
)
HEADERS = ("name", "names", "class", "classes", "label", "labels", "class_name", "category")


def clean_name(name: str) -> str:
    """The name without blanks around it, its letters composed (NFC): macOS decomposes them."""
    return unicodedata.normalize("NFC", name).strip() or name


def class_key(name: str) -> str:
    """What names of one class have in common, however people spell it.

    >>> class_key("Hot_Dog ") == class_key("hot dog")
    True
    """
    if SIGNED.fullmatch(clean_name(name)):  # a sign is no spelling
        return clean_name(name)
    return BLANKS.sub(" ", clean_name(name).casefold()).strip()


def label_in_name(path: str) -> str | None:
    """The label before the number of a file's name: "cat" of "train/cat.12.jpg"; None without one.

    >>> [label_in_name(name) for name in ("cat.0.jpg", "great_dane_12.png", "img (3).jpg", "7.jpg")]
    ['cat', 'great_dane', 'img', None]
    """
    base = path.rpartition("/")[2]
    stem = base.rpartition(".")[0] or base
    found = NUMBERED.fullmatch(stem)
    return clean_name(found[1]) if found else None


def labels_in_names(paths: Sequence[str]) -> list[str]:
    """Names that look like labels in most file names, two at least; else none."""
    found = Counter(filter(None, map(label_in_name, paths)))
    if len(found) < 2 or found.total() < 0.8 * len(paths) or 2 * len(found) > len(paths):
        return []
    return sorted(found)


def indexed_names(lines: Sequence[str]) -> list[str] | None:
    """The names of lines that all number their class, 0 to N - 1 or 1 to N, in that order.

    None for lines without numbers, and for those whose numbers are parts of names.

    >>> indexed_names(["1 dog", "0 cat"]), indexed_names(["2010 Audi", "2012 Audi"])
    (['cat', 'dog'], None)
    """
    for pattern in INDEXED:
        found = [pattern.fullmatch(line) for line in lines]
        numbered = {int(each["number"]): each["name"].strip("\"' ") for each in found if each}
        if len(lines) > 1 and len(numbered) == len(lines):
            first = min(numbered)
            if first in (0, 1) and max(numbered) == len(lines) - 1 + first:
                return [numbered[number] for number in sorted(numbered)]
    return None


def check_distinct(folders: Iterable[tuple[str, str]], where: str) -> None:
    """DataError where two class folders (name, path) of one split differ by next to nothing.

    Single letters may differ by case: a set of handwriting has "A" and "a".
    """
    known: dict[str, tuple[str, str]] = {}
    for name, path in folders:
        key = name if len(name) == 1 else class_key(name)
        if key not in known:
            known[key] = name, path
            continue
        other, before = known[key]
        why = "differ only in how letters are composed or in blanks at the ends"
        if other != name:
            why = f"({other!r}, {name!r}) differ only by case, blanks, _ or -"
        raise DataError(
            f"{where}: the class folders {before!r} and {path!r} {why}; rename one, put them"
            " together, or keep them apart by --set data.labels_from=folder"
        )


def check_spellings(labels: Sequence[str], place: Callable[[int], str]) -> None:
    """DataError where two labels of a table differ by next to nothing, as class folders may not.

    `place(row)` says where a label is.
    """
    known: dict[str, tuple[str, int]] = {}
    seen: set[str] = set()
    for row, name in enumerate(labels):
        if name in seen:
            continue
        seen.add(name)
        if name == "-1":
            raise DataError(
                f"{place(row)}: the label -1, which most tables write for images without one;"
                " remove these rows, or name their class"
            )
        key = name if len(name) == 1 else class_key(name)
        other, before = known.setdefault(key, (name, row))
        if other != name:
            raise DataError(
                f"{place(row)}: the label {name!r} and {other!r} of {place(before)} differ only by"
                " case, blanks, _, - or in how letters are composed; write them alike"
            )


def match_names(names: Iterable[str], classes: Sequence[str]) -> Mapping[str, str | None]:
    """For each name the class of `classes` that is spelled so, or nearly so; None for none."""
    exact = set(classes)
    near: dict[str, list[str]] = {}
    for known in classes:
        near.setdefault(class_key(known), []).append(known)

    def match(name: str) -> str | None:
        if name in exact:
            return name
        found = near.get(class_key(name), [])
        return found[0] if len(found) == 1 else None

    return {name: match(name) for name in set(names)}
