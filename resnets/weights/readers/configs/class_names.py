"""Names of classes as training scripts put them beside the tensors of a file."""

from __future__ import annotations

import json
import logging
import re
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
# These name other things too (parameters, labels of samples): what they say counts where no key
# above does.
WEAK_KEYS = ("labels", "names")
# Keys of other lists, too, which count only in tables that describe the network or its data.
VAGUE_KEYS = ("names", "labels", "categories", "vocab", "label_map", "labels_map", "classes")
KNOWN_PLACES = re.compile(
    r"(?:(?:hyper|data|dataset|model|train|training|test|val|net|network|timm|task|yolo)?_?"
    r"(?:args|arguments|cfg|conf|config|configs|hparams|params|parameters|info|meta|metadata))"
    r"|hp|opt|opts|options|settings|extra|extras|state|checkpoint|data|datasets?|datamodule|model"
    r"|net|network|backbone|classifier|head|cls_head|label_?encoder|encoder|tokenizer|learner|dls"
    r"|train|training|trainset|val|test|split|task|preprocess|preprocessing|init_args|\d+",
    re.I,
)


def classes_of(found: Mapping[Any, Any], source: str = "") -> tuple[str, ...]:
    """Names of classes beside tensors, in the order of the outputs; () where there are none.

    What may name them and is not used is logged with its place: lists in tables of other things
    (metrics), tables whose numbers do not tell the outputs, or which of them are the names.
    WeightsError where two places in the file say different names.
    """
    said = list(_named(found, "", 0, CLASS_KEYS))
    for key in WEAK_KEYS:
        if not any(names and _is_known(place) for place, names in said):
            said += _named(found, "", 0, (key,))
    named = [(place, names) for place, names in said if names and _is_known(place)]
    for place, names in named:
        if names != named[0][1]:
            raise WeightsError(
                f"its {named[0][0]} ({shorten(named[0][1])}) and {place} ({shorten(names)}) name"
                " different classes; save it with one of them"
            )
    if not named and said:
        place, names = said[0]
        why = "it does not give each of 0, 1, ... one name, or does not say which are the names"
        if names:
            why = f"({shorten(names)}) is in a table that may describe something else"
        log.warning(
            "%s: %s was found and not used for the names of classes: %s; say them with --classes"
            " (in Python classes=...)",
            source, place, why,
        )  # fmt: skip
    return named[0][1] if named else ()


def _named(
    found: Mapping[Any, Any], before: str, depth: int, keys: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each place in a file that names classes, and what it says; () where that is ambiguous."""
    for key in keys:
        names = names_in(found.get(key), key)
        if key in WEAK_KEYS and len(set(names)) < len(names):  # of samples
            continue
        if names or (key not in WEAK_KEYS and _is_ambiguous(found.get(key))):
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


def _is_known(place: str) -> bool:
    """Whether the table at `place`, such as "hyper_parameters.classes", may name the classes."""
    *tables, key = place.split(".")
    return key not in VAGUE_KEYS or all(map(KNOWN_PLACES.fullmatch, tables))


def _is_ambiguous(said: Any) -> bool:
    """Whether a table has numbers that do not tell the outputs of its names."""
    return (
        isinstance(said, dict)
        and len(said) > 1
        and all(any(_number(each, text=True) is not None for each in pair) for pair in said.items())
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
    digits = all(isinstance(each, str) and each.isdecimal() for pair in pairs for each in pair)
    if digits and any((name, place) not in pairs for place, name in pairs):
        return ()  # either may be the names
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
