"""Names of classes as training scripts put them beside the tensors of a file."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import LazyTensor
from resnets.weights.name_maps.maps import shorten

log = logging.getLogger("resnets")

MOST = 10_000  # containers in which they are looked for, whatever their keys
DEEPEST = 4  # tables inside each other in which names are looked for
CLASS_KEYS = (
    *("classes", "CLASSES", "class_names", "label_names", "class_to_idx", "idx_to_class"),
    *("id2label", "label2id", "vocab", "classes_", "label_map", "labels_map", "idx2label"),
    *("label2idx", "categories"),
)
# Tables of which the key says what stands first.
NAME_FIRST = ("class_to_idx", "label2id", "label2idx")
NUMBER_FIRST = ("idx_to_class", "id2label", "idx2label")
# These name other things too (parameters, files): what they say counts where no key above does.
WEAK_KEYS = ("names",)


def classes_of(found: Mapping[Any, Any], source: str = "") -> tuple[str, ...]:
    """Names of classes beside tensors, in the order of the outputs; () where there are none.

    A table that numbers numbers and does not say which are the names is logged, and not used.
    WeightsError where two places in the file say different names.
    """
    said = list(_named(found, "", 0, CLASS_KEYS))
    if not any(names for _, names in said):
        said += _named(found, "", 0, WEAK_KEYS)
    named = [(place, names) for place, names in said if names]
    for place, names in named:
        if names != named[0][1]:
            raise WeightsError(
                f"its {named[0][0]} ({shorten(named[0][1])}) and {place} ({shorten(names)}) name"
                " different classes; save it with one of them"
            )
    if not named and said:
        log.warning(
            "%s: %s was found and not used: it does not say which of its numbers are the names of"
            " classes; say them with --classes (in Python classes=...)",
            source, said[0][0],
        )  # fmt: skip
    return named[0][1] if named else ()


def _named(
    found: Mapping[Any, Any], before: str, depth: int, keys: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each place in a file that names classes, and what it says; () where that is ambiguous."""
    for key in keys:
        if (names := names_in(found.get(key), key)) or _is_ambiguous(found.get(key)):
            yield f"{before}{key}", names
    for place, inner in found.items():
        enters = isinstance(inner, dict) and depth < DEEPEST and place not in keys
        if enters and not any(isinstance(each, LazyTensor) for each in inner.values()):
            yield from _named(inner, f"{before}{place}.", depth + 1, keys)


def names_anywhere(found: Any) -> Iterator[tuple[str, ...]]:
    """Every list or table in a file that could name classes, whatever its key.

    A table whose values are lists, such as {"0": ["n01440764", "tench"]}, counts by its columns.
    """
    waiting: deque[tuple[Any, int]] = deque([(found, 0)])
    for _ in range(MOST):
        if not waiting:
            return
        value, depth = waiting.popleft()
        yield from (names for names in (names_in(value), *_columns(value)) if len(names) > 1)
        if depth < DEEPEST and isinstance(value, dict | list | tuple):
            items = value.values() if isinstance(value, dict) else value
            waiting += [
                (item, depth + 1) for item in items if isinstance(item, dict | list | tuple)
            ]


def _columns(value: Any) -> list[tuple[str, ...]]:
    rows = list(value.values()) if isinstance(value, dict) else []
    if not rows or not all(isinstance(row, list | tuple) and row for row in rows):
        return []
    columns = zip(*rows, strict=False)
    return [names_in(dict(zip(value, column, strict=True))) for column in columns]


def names_in(said: Any, key: str = "") -> tuple[str, ...]:
    """The names that a list, a table in either direction, or text in one of these forms says.

    key: what it is called, which may say the direction. () for anything else, such as a table that
    does not number its classes 0, 1, ....
    """
    said = _plain(said)
    if isinstance(said, str):
        try:
            return names_in(json.loads(said), key) if said[:1] in ("[", "{") else _listed(said)
        except (ValueError, RecursionError):
            return ()
    if isinstance(said, list | tuple) and said:
        items = [_plain(each) for each in said]
        if all(isinstance(each, str) for each in items):
            return tuple(items)
        return _of_categories(items)
    return _of_table(said, key) if isinstance(said, dict) and said else ()


def _listed(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    return names if len(names) > 1 and all(names) else ()


def _of_categories(items: list[Any]) -> tuple[str, ...]:
    """COCO's list of {"id": ..., "name": ...}, in the order of the ids."""
    if not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in items):
        return ()
    numbers = [_number(each.get("id")) for each in items]
    if None in numbers or len(set(numbers)) != len(numbers):
        return ()
    ordered = sorted(zip(numbers, items, strict=True), key=lambda pair: pair[0] or 0)
    return tuple(each["name"] for _, each in ordered)


def _is_ambiguous(said: Any) -> bool:
    """Whether a table gives each whole number another one."""
    return (
        isinstance(said, dict)
        and len(said) > 1
        and all(_number(each) is not None for pair in said.items() for each in pair)
    )


def _of_table(said: dict[Any, Any], key: str) -> tuple[str, ...]:
    pairs = [(_plain(first), _plain(second)) for first, second in said.items()]
    if key in NAME_FIRST and all(_number(second, text=True) is not None for _, second in pairs):
        numbered = {_number(second, text=True): _name(first) for first, second in pairs}
        return _in_order(numbered, len(pairs))
    if key in NUMBER_FIRST and all(_number(first, text=True) is not None for first, _ in pairs):
        numbered = {_number(first, text=True): _name(second) for first, second in pairs}
        return _in_order(numbered, len(pairs))
    if all(isinstance(key, str) and _number(value) is not None for key, value in pairs):
        pairs = [(value, key) for key, value in pairs]
    numbered = {_number(place, text=True): name for place, name in pairs}
    return _in_order(numbered, len(pairs))


def _in_order(numbered: Mapping[int | None, Any], count: int) -> tuple[str, ...]:
    """The names of 0, 1, ...; () unless all are there."""
    whole = set(numbered) == set(range(count))
    if not whole or not all(isinstance(name, str) for name in numbered.values()):
        return ()
    return tuple(numbered[place] for place in range(count))


def _name(value: Any) -> Any:
    """Names that are whole numbers, as text."""
    number = _number(value)
    return value if number is None else str(number)


def _plain(value: Any) -> Any:
    """Bytes as text; else as it is."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _number(value: Any, text: bool = False) -> int | None:
    """A whole number in any spelling; with `text`, also "7"."""
    if isinstance(value, LazyTensor) and value.shape == ():
        value = value.read()
    if isinstance(value, torch.Tensor) and value.dim() == 0:
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if text and isinstance(value, str) and value.isdecimal() and len(value) < 10:
        value = int(value)
    return value if type(value) is int else None
