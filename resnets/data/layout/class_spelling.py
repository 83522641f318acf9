"""Normalize class names, and check for names that differ only in spelling."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from resnets.data.errors import DataError

NUMBERED = re.compile(r"(.*?[^\W\d_].*?)[\s._-]*[(\[]?\d+[)\]]?")
SIGNED = re.compile(r"[+-]?\d+(?:[.,]\d+)?")
NUMBER = re.compile(r"([+-]?)(\d+)(?:[.,](\d+))?")
CYRILLIC, LATIN = "аеорсухіјѕԁһ", "aeopcyxijsdh"  # letters of one look
LOOKALIKES = str.maketrans(CYRILLIC, LATIN)
BLANKS = re.compile(r"[\s_-]+")
UNSEEN = re.compile(  # control characters, marks of direction, blanks without width, and
    # joiners next to ASCII
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u206f\ufeff]"
    "|(?<![^\\x00-\\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\\x00-\\x7f])"
)
INDEXED = (  # "2 cassette", "2: cassette", "2,cassette"; "cassette 2", "cassette,2"
    re.compile(r"(?P<number>\d{1,6})[\s:;,=]+(?P<name>\S.*)"),
    re.compile(r"(?P<name>.*\S)[\s:;,=]+(?P<number>\d{1,6})"),
)
MIN_LETTERS = 5  # of a name whose misspellings are looked for
SPELLING = "by case, blanks, _, -, in how a number is written or in letters of one look"
HEADERS = ("name", "names", "class", "classes", "label", "labels", "class_name", "category")


def clean_name(name: str) -> str:
    """Strip a name and compose its letters (NFC): macOS stores them decomposed."""
    return unicodedata.normalize("NFC", name).strip() or name


def class_key(name: str) -> str:
    """Return a key that is equal for all spellings of a class name.

    Numbers have the key of their value, except that "1.1" and "1.10" may be sections, and "1,000"
    or "1.000" may be a thousand. Characters that are not seen, or that look like others in a name
    of both scripts, make no difference, but joiners do between letters of scripts that need them.

    >>> class_key("Hot_Dog ") == class_key("hot dog\u200b")
    True
    >>> [class_key(name) for name in ("01", "+1", "1.0", "-1", "1,50", "1,000")]
    ['1', '1', '1', '-1', '1.50', '1.000']
    """
    seen = unicodedata.normalize("NFKC", clean_name(name))
    seen = UNSEEN.sub("", seen).strip()
    if (number := NUMBER.fullmatch(seen)) is not None:
        sign, whole, decimals = number.groups(default="")
        fraction = f".{decimals}" if decimals.strip("0") or len(decimals) == 3 else ""
        return f"{sign.strip('+')}{int(whole)}{fraction}"  # a minus is significant
    key = BLANKS.sub(" ", seen.casefold()).strip()
    mixed = re.search("[a-z]", key) and not set(key).isdisjoint(CYRILLIC)
    return key.translate(LOOKALIKES) if mixed else key


def spelling_key(name: str) -> str:
    """Return `class_key`, but single letters may differ by case ("A" and "a" in handwriting)."""
    return name if len(name) == 1 else class_key(name)


def is_misspelling(name: str, other: str) -> bool:
    """Whether names differ by one letter, or by two that are swapped, in one word of five or more.

    Not for enumerated names ("grade2", "type_b", "stageII"), words that differ in the first letter,
    which is rarely mistyped, and scripts without case, such as Chinese, where each character is a
    syllable or a word.

    >>> is_misspelling("turck", "truck"), is_misspelling("Fire truk", "fire_truck")
    (True, True)
    >>> is_misspelling("type_a", "type_b"), is_misspelling("typeI", "typeII")
    (False, False)
    >>> is_misspelling("atypical", "typical"), is_misspelling("红色小轿车", "白色小轿车")
    (False, False)
    """
    words, others = class_key(name).split(), class_key(other).split()
    pairs = [pair for pair in zip(words, others, strict=False) if pair[0] != pair[1]]
    if len(words) != len(others) or len(pairs) != 1:
        return False
    short, long = sorted(pairs[0], key=len)
    start = len(posixpath.commonprefix([short, long]))
    one, two = short[start:], long[start:]
    # Not "1" and "2", nor letters of scripts without case.
    in_letters = all(unicodedata.category(letter) == "Ll" for letter in one[:1] + two[:1])
    enumerated = not in_letters or set(one + two) <= set("ivx")
    if not start or len(long) < MIN_LETTERS or enumerated:
        return False
    if len(short) < len(long):
        return one == two[1:]
    swapped = one[:2] == two[1::-1] and one[2:] == two[2:]
    return len(one) > 1 and (one[1:] == two[1:] or swapped)


def label_in_name(path: str) -> str | None:
    """Return the label before the number in a file name: "cat" of "train/cat.12.jpg"; or None.

    >>> [label_in_name(name) for name in ("cat.0.jpg", "great_dane_12.png", "img (3).jpg", "7.jpg")]
    ['cat', 'great_dane', 'img', None]
    """
    base = path.rpartition("/")[2]
    stem = base.rpartition(".")[0] or base
    found = NUMBERED.fullmatch(stem)
    return clean_name(found[1]) if found else None


def labels_in_names(paths: Sequence[str]) -> list[str]:
    """Return labels that most file names contain, at least two; else []."""
    found = Counter(filter(None, map(label_in_name, paths)))
    if len(found) < 2 or found.total() < 0.8 * len(paths) or 2 * len(found) > len(paths):
        return []
    return sorted(found)


def indexed_names(lines: Sequence[str]) -> list[str] | None:
    """Return the names of lines that all number a class, 0 to N - 1 or 1 to N, in this order.

    None for lines without numbers, or whose numbers are parts of names.

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
    """Raise DataError if two class folders (name, path) of a split differ only in spelling."""
    known: dict[str, tuple[str, str]] = {}
    for name, path in folders:
        key = spelling_key(name)
        if key not in known:
            known[key] = name, path
            continue
        other, earlier = known[key]
        difference = "differ only in how letters are composed or in blanks at the ends"
        if other != name:
            difference = f"({_quote(other, name)}, {_quote(name, other)}) differ only {SPELLING}"
        raise DataError(
            f"{where}: the class folders {earlier!r} and {path!r} {difference}; rename one, put"
            " them together, or keep both with --set data.labels_from=folder"
        )


def _quote(name: str, other: str) -> str:
    """Quote a name, with escapes if another name looks the same but has other characters."""
    alike = name.isascii() != other.isascii() and len(name) == len(other)
    return ascii(name) if alike else repr(name)


def quote_names(names: Sequence[str]) -> list[str]:
    """Return quoted names, with escapes for names that only look the same."""
    return [
        next((text for other in names if (text := _quote(name, other)) != repr(name)), repr(name))
        for name in names
    ]


def check_spellings(labels: Sequence[str], locate: Callable[[int], str]) -> None:
    """Raise DataError if two labels of a table differ only in spelling, as class folders must not.

    locate: returns where the label of a row is, for messages.
    """
    known: dict[str, tuple[str, int]] = {}
    seen: set[str] = set()
    for row, name in enumerate(labels):
        if name in seen:
            continue
        seen.add(name)
        if name == "-1":
            raise DataError(
                f"{locate(row)}: the label -1, which most tables write for images without one;"
                " remove these rows, or name their class"
            )
        key = spelling_key(name)
        other, earlier = known.setdefault(key, (name, row))
        if other != name:
            raise DataError(
                f"{locate(row)}: the label {_quote(name, other)} and {_quote(other, name)} of"
                f" {locate(earlier)} differ only {SPELLING}; use one spelling"
            )


def match_names(names: Iterable[str], classes: Sequence[str]) -> Mapping[str, str | None]:
    """Map each name to the class of that spelling, or a similar one; None if there is none."""
    exact = set(classes)
    by_key: dict[str, list[str]] = {}
    for known in classes:
        by_key.setdefault(class_key(known), []).append(known)

    def match(name: str) -> str | None:
        if name in exact:
            return name
        found = by_key.get(class_key(name), [])
        return found[0] if len(found) == 1 else None

    return {name: match(name) for name in set(names)}
