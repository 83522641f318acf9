"""Names of classes as training scripts put them beside the tensors of a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from resnets.weights.errors import WeightsError
from resnets.weights.lazy_tensors import LazyTensor
from resnets.weights.name_maps.maps import shorten

DEEPEST = 4  # tables inside each other in which names are looked for
CLASS_KEYS = (
    *("classes", "CLASSES", "class_names", "label_names", "class_to_idx", "idx_to_class"),
    *("id2label", "label2id", "vocab", "classes_", "label_map", "labels_map", "idx2label"),
    *("label2idx", "categories"),
)
# These name other things too (parameters, files): what they say counts where no key above does.
WEAK_KEYS = ("names",)


def classes_of(found: Mapping[Any, Any]) -> tuple[str, ...]:
    """Names of classes beside tensors, in the order of the outputs; () where there are none.

    WeightsError where two places in the file say different names.
    """
    said = list(_named(found, "", 0, CLASS_KEYS)) or list(_named(found, "", 0, WEAK_KEYS))
    for place, names in said:
        if names != said[0][1]:
            raise WeightsError(
                f"its {said[0][0]} ({shorten(said[0][1])}) and {place} ({shorten(names)}) name"
                " different classes; save it with one of them"
            )
    return said[0][1] if said else ()


def _named(
    found: Mapping[Any, Any], before: str, depth: int, keys: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each place in a file that names classes, and what it says."""
    for key in keys:
        if names := names_in(found.get(key)):
            yield f"{before}{key}", names
    for place, inner in found.items():
        enters = isinstance(inner, dict) and depth < DEEPEST and place not in keys
        if enters and not any(isinstance(each, LazyTensor) for each in inner.values()):
            yield from _named(inner, f"{before}{place}.", depth + 1, keys)


def names_in(said: Any) -> tuple[str, ...]:
    """The names that a list, a table in either direction, or text in one of these forms says.

    () for anything else, such as a table that does not number its classes 0, 1, ....
    """
    said = _plain(said)
    if isinstance(said, str):
        try:
            return names_in(json.loads(said)) if said[:1] in ("[", "{") else _listed(said)
        except (ValueError, RecursionError):
            return ()
    if isinstance(said, list | tuple) and said:
        items = [_plain(each) for each in said]
        if all(isinstance(each, str) for each in items):
            return tuple(items)
        return _of_categories(items)
    return _of_table(said) if isinstance(said, dict) and said else ()


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


def _of_table(said: dict[Any, Any]) -> tuple[str, ...]:
    pairs = [(_plain(key), _plain(value)) for key, value in said.items()]
    if all(isinstance(key, str) and _number(value) is not None for key, value in pairs):
        pairs = [(value, key) for key, value in pairs]
    numbered = {_number(place, text=True): name for place, name in pairs}
    whole = set(numbered) == set(range(len(pairs)))
    if not whole or not all(isinstance(name, str) for name in numbered.values()):
        return ()
    return tuple(numbered[place] for place in range(len(pairs)))


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
