"""Find the names of classes that training scripts store with the tensors of a file."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from resnets.utils.files.json import parse_json
from resnets.utils.printable import join_names
from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import LazyTensor

log = logging.getLogger("resnets")

MAX_CONTAINERS = 10_000  # containers that are searched, regardless of their keys
MAX_DEPTH = 4  # nested tables that are searched
CLASS_KEYS = (
    "classes", "CLASSES", "class_names", "label_names", "class_to_idx", "idx_to_class",
    "id2label", "label2id", "vocab", "classes_", "label_map", "labels_map", "idx2label",
    "label2idx", "categories",
)  # fmt: skip
# Tables whose key says whether names or numbers come first.
NAME_FIRST = ("class_to_idx", "label2id", "label2idx")
NUMBER_FIRST = ("idx_to_class", "id2label", "idx2label")
# Keys of other things, too (parameters, labels of samples), used only if no key above is present.
WEAK_KEYS = ("labels", "names")
# Keys of other lists, too, used only in tables that describe the network or its data.
VAGUE_KEYS = ("names", "labels", "categories", "vocab", "label_map", "labels_map", "classes")
KNOWN_TABLES = re.compile(
    r"(?:(?:hyper|data|dataset|model|train|training|test|val|net|network|timm|task|yolo)?_?"
    r"(?:args|arguments|cfg|conf|config|configs|hparams|params|parameters|info|meta|metadata))"
    r"|hp|opt|opts|options|settings|extra|extras|state|checkpoint|data|datasets?|datamodule|model"
    r"|net|network|backbone|classifier|head|cls_head|label_?encoder|encoder|tokenizer|learner|dls"
    r"|train|training|trainset|val|test|split|task|preprocess|preprocessing|init_args|\d+",
    re.I,
)


def find_classes(table: Mapping[Any, Any], source: str = "") -> tuple[str, ...]:
    """Return the names of classes in the order of the outputs; () if the file has none.

    A field that may name them but is not used is logged: lists in tables of other things (metrics),
    tables without a number for each output, or where names and numbers are ambiguous. Raises
    WeightsError if two fields of the file have different names.
    """
    candidates = list(_iter_candidates(table, "", 0, CLASS_KEYS))
    for key in WEAK_KEYS:
        if not any(names and _is_known(field) for field, names in candidates):
            candidates += _iter_candidates(table, "", 0, (key,))
    usable = [(field, names) for field, names in candidates if names and _is_known(field)]
    for field, names in usable:
        if names != usable[0][1]:
            raise WeightsError(
                f"its {usable[0][0]} ({join_names(usable[0][1])}) and {field}"
                f" ({join_names(names)}) name different classes; save it with one of them"
            )
    if not usable and candidates:
        field, names = candidates[0]
        reason = "it does not give each of 0, 1, ... one name, or names and numbers are ambiguous"
        if names:
            reason = f"({join_names(names)}) is in a table that may describe something else"
        log.warning(
            "%s: %s is not used for the names of classes: %s; give them with --classes",
            source, field, reason,
        )  # fmt: skip
    return usable[0][1] if usable else ()


def _iter_candidates(
    table: Mapping[Any, Any], prefix: str, depth: int, keys: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each field of a file that may name classes, and its names; () if it is ambiguous."""
    for key in keys:
        names = parse_names(table.get(key), key)
        if key in WEAK_KEYS and len(set(names)) < len(names):  # of samples
            continue
        if names or (key not in WEAK_KEYS and _is_ambiguous(table.get(key))):
            yield f"{prefix}{key}", names
    for key, inner in table.items():
        is_searched = isinstance(inner, dict) and depth < MAX_DEPTH and key not in keys
        if is_searched and not any(isinstance(each, LazyTensor) for each in inner.values()):
            yield from _iter_candidates(inner, f"{prefix}{key}.", depth + 1, keys)


def iter_name_lists(table: Any) -> Iterator[tuple[str, ...]]:
    """Yield every list or table in a file that could name classes, regardless of its key.

    Of a table whose values are lists, such as {"0": ["n01440764", "tench"]}, yields the columns.
    """
    waiting: deque[tuple[Any, int]] = deque([(table, 0)])
    for _ in range(MAX_CONTAINERS):
        if not waiting:
            return
        value, depth = waiting.popleft()
        yield from (
            names for names in (parse_names(value), *_parse_columns(value)) if len(names) > 1
        )
        if depth < MAX_DEPTH and isinstance(value, dict | list | tuple):
            items = value.values() if isinstance(value, dict) else value
            waiting += [
                (item, depth + 1) for item in items if isinstance(item, dict | list | tuple)
            ]


def _parse_columns(value: Any) -> list[tuple[str, ...]]:
    rows = list(value.values()) if isinstance(value, dict) else []
    if not rows or not all(isinstance(row, list | tuple) and row for row in rows):
        return []
    columns = zip(*rows, strict=False)
    return [parse_names(dict(zip(value, column, strict=True))) for column in columns]


def parse_names(value: Any, key: str = "") -> tuple[str, ...]:
    """Return the names in a list, a table in either direction, or text of one of these forms.

    key: of the value in the file, which may tell the direction. Returns () for anything else, such
    as a table that does not number its classes 0, 1, ....
    """
    value = _decode(value)
    if isinstance(value, str):
        try:
            is_json = value[:1] in ("[", "{")
            return parse_names(parse_json(value), key) if is_json else _split_names(value)
        except (ValueError, RecursionError):
            return ()
    if isinstance(value, list | tuple) and value:
        items = [_decode(each) for each in value]
        if all(isinstance(each, str) for each in items):
            return tuple(items)
        return _parse_categories(items)
    return _parse_table(value, key) if isinstance(value, dict) and value else ()


def _split_names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    return names if len(names) > 1 and all(names) else ()


def _parse_categories(items: list[Any]) -> tuple[str, ...]:
    """Return the names in COCO's list of {"id": ..., "name": ...}, in the order of the ids."""
    if not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in items):
        return ()
    numbers = [_to_int(each.get("id")) for each in items]
    if None in numbers or len(set(numbers)) != len(numbers):
        return ()
    ordered = sorted(zip(numbers, items, strict=True), key=lambda pair: pair[0] or 0)
    return tuple(each["name"] for _, each in ordered)


def _is_known(field: str) -> bool:
    """Return whether a field, such as "hyper_parameters.classes", may name the classes."""
    *tables, key = field.split(".")
    return key not in VAGUE_KEYS or all(map(KNOWN_TABLES.fullmatch, tables))


def _is_ambiguous(value: Any) -> bool:
    """Return whether a table has numbers that do not determine the outputs of its names."""
    return (
        isinstance(value, dict)
        and len(value) > 1
        and all(
            any(_to_int(each, text=True) is not None for each in pair) for pair in value.items()
        )
    )


def _parse_table(table: dict[Any, Any], key: str) -> tuple[str, ...]:
    pairs = [(_decode(first), _decode(second)) for first, second in table.items()]
    if key in NAME_FIRST and all(_to_int(second, text=True) is not None for _, second in pairs):
        numbered = {_to_int(second, text=True): _to_name(first) for first, second in pairs}
        return _order_names(numbered, len(pairs))
    if key in NUMBER_FIRST and all(_to_int(first, text=True) is not None for first, _ in pairs):
        numbered = {_to_int(first, text=True): _to_name(second) for first, second in pairs}
        return _order_names(numbered, len(pairs))
    if all(isinstance(key, str) and _to_int(value) is not None for key, value in pairs):
        pairs = [(value, key) for key, value in pairs]
    numbered = {_to_int(number, text=True): name for number, name in pairs}
    digits = all(isinstance(each, str) and each.isdecimal() for pair in pairs for each in pair)
    if digits and any((name, number) not in pairs for number, name in pairs):
        return ()  # either may be the names
    return _order_names(numbered, len(pairs))


def _order_names(numbered: Mapping[int | None, Any], count: int) -> tuple[str, ...]:
    """Return the names of 0, 1, ...; () unless all are there."""
    is_complete = set(numbered) == set(range(count))
    if not is_complete or not all(isinstance(name, str) for name in numbered.values()):
        return ()
    return tuple(numbered[number] for number in range(count))


def _to_name(value: Any) -> Any:
    """Return names that are integers as text."""
    number = _to_int(value)
    return value if number is None else str(number)


def _decode(value: Any) -> Any:
    """Return bytes as text, other values unchanged."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _to_int(value: Any, text: bool = False) -> int | None:
    """Return an integer of any type, with `text` also "7"; None for other values."""
    if isinstance(value, LazyTensor) and value.shape == ():
        value = value.read()
    if isinstance(value, torch.Tensor) and value.dim() == 0:
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if text and isinstance(value, str) and value.isdecimal() and len(value) < 10:
        value = int(value)
    return value if type(value) is int else None
