"""Read and write specs as dictionaries, TOML and JSON, and change fields by their dotted names."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Collection, Iterator, Mapping
from functools import cache, partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import tomli_w
from pydantic_core import ErrorDetails

from resnets.config.aliases import current_path, with_current_names
from resnets.config.recipe import DURATIONS, Recipe, parse_duration
from resnets.config.unread_fields import DEFAULTS, iter_fields, omittable_fields
from resnets.utils.errors import ConfigError, reading
from resnets.utils.files.write import atomic_write
from resnets.utils.suggest import suggest

T = TypeVar("T")
NEEDED = {  # by the first word of pydantic's types of errors
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "dict": "a table of fields",
    "dataclass": "a table of fields",
}
TABLES = ("loss.class_weights", "custom")  # fields of a recipe whose values are tables


def to_dict(value: Any) -> dict[str, Any]:
    """Return a spec as a plain dictionary, without fields that are None (TOML has no null)."""

    def clean(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: clean(entry) for key, entry in item.items() if entry is not None}
        return [clean(entry) for entry in item] if isinstance(item, list | tuple) else item

    return clean(dataclasses.asdict(value))


def from_dict(kind: type[T], data: dict[str, Any], where: str = "recipe") -> T:
    """Build a spec from a dictionary; raises ConfigError, one line that names the field."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: must be a table of fields, got {data!r:.40}")
    if kind is Recipe:
        data = with_current_names(data, "recipe")
    _refuse_unknown(kind, data, where, "")
    try:
        spec: T = _adapter(kind).validate_python(data)  # type: ignore[arg-type]
        _refuse_infinite(dataclasses.asdict(spec), where)  # type: ignore[call-overload]
        return spec
    except pydantic.ValidationError as error:
        first = _first_error(error)
        # pydantic also lists the alternative of a union. Empty: the message names the field.
        parts = [str(part) for part in first["loc"] if "[" not in str(part)]
        path = ".".join(parts[:-1] if _is_short_list(first) else parts)
        if path in DURATIONS and isinstance(first["input"], int | float):
            parse_duration(str(first["input"]), f"{where}: {path}")  # says which unit is missing
        message = _explain(first, path)
        named = f"{where}: {path}" if path and not message.startswith(f"{path}.") else where
        raise ConfigError(f"{named}: {message}") from None


def _refuse_infinite(value: Any, where: str, path: str = "") -> None:
    """Raise ConfigError for NaN and infinity: they pass comparisons, and no field allows them."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: {path}: {value} is not finite")
    if isinstance(value, dict | list | tuple):
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_infinite(each, where, f"{path}.{name}" if path else str(name))


def _first_error(error: pydantic.ValidationError) -> ErrorDetails:
    """Return the first error; for a field of several types, that of the type which fits best."""
    errors = error.errors()
    field = errors[0]["loc"]
    if not field or "[" not in str(field[-1]):
        return errors[0]
    return max(
        (each for each in errors if each["loc"][: len(field) - 1] == field[:-1]),
        key=lambda each: len(each["loc"]),
    )


def _is_short_list(error: ErrorDetails) -> bool:
    return error["type"] == "missing" and isinstance(error["loc"][-1], int)


def _explain(error: ErrorDetails, path: str) -> str:
    """Return what a value must be, and what it is, from pydantic's error."""
    kind, value = error["type"], error["input"]
    if kind == "value_error":
        return error["msg"].removeprefix("Value error, ").removeprefix(f"{path}: ")
    default = DEFAULTS.get(path)
    if kind == "tuple_type":
        is_item = isinstance(value, int | float) or (isinstance(value, str) and not default)
        example = [value] if is_item else list(default or ())
        needed = f"a list{f', such as {example}' if example else ''}"
    elif kind == "too_long" or _is_short_list(error):
        needed = f"a list of {len(default or ())} values"
    elif kind == "literal_error":
        needed = error["ctx"]["expected"]
    else:
        needed = NEEDED.get(kind.partition("_")[0], "")
    if not needed:
        return f"{error['msg']}, got {value!r:.80}"
    return f"must be {needed}, got {value!r:.80}"


@cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    """Return the validator of `kind`, which takes a tenth of a second to make."""
    return pydantic.TypeAdapter(kind)


def from_stored_dict(data: dict[str, Any], where: str) -> Recipe:
    """Build the recipe of a run or checkpoint of any version.

    A missing field has the default of the version that wrote the file, not today's.
    """
    data_fields = data.get("data")
    if isinstance(data_fields, dict):
        data = {**data, "data": {"split_rule": "rank", "overlap": "allow", **data_fields}}
    return from_dict(Recipe, data, where)


def _refuse_unknown(kind: Any, data: dict[str, Any], where: str, prefix: str) -> None:
    """Raise ConfigError for keys that are not fields; suggests the nearest field."""
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}
    for key, value in data.items():
        if key not in fields:
            raise ConfigError(f"{where}: unknown field {prefix}{key}{_suggest(kind, prefix, key)}")
        nested = fields[key].default_factory
        if isinstance(value, dict) and dataclasses.is_dataclass(nested):
            _refuse_unknown(nested, value, where, f"{prefix}{key}.")


def _suggest(kind: Any, prefix: str, key: str) -> str:
    """Return a hint to the field that the unknown `prefix` + `key` may stand for."""
    if kind is Recipe:  # lr for optim.lr
        inner = [path for path in DEFAULTS if path.rpartition(".")[2] == key]
        if inner:
            return f"; did you mean {' or '.join(inner)}?"
    fields = [entry.name for entry in dataclasses.fields(kind)]
    return f"; {suggest(prefix + key, [prefix + name for name in fields])}"


def to_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML, without fields that its task never reads (see `from_toml`).

    Raises ConfigError for paths that are not valid UTF-8, which TOML requires.
    """
    text = tomli_w.dumps(_without(to_dict(recipe), omittable_fields(recipe)))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        line = text[: error.start].count("\n")
        raise ConfigError(
            f"recipe: {text.splitlines()[line]}: not valid UTF-8, which a recipe file must be; "
            "rename the file or folder"
        ) from None
    return text


def _without(fields: dict[str, Any], paths: Collection[str], prefix: str = "") -> dict[str, Any]:
    """Return nested `fields` without those at the dotted `paths`, and without empty tables."""
    remaining: dict[str, Any] = {}
    for name, value in fields.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and path not in TABLES:
            value = _without(value, paths, f"{path}.")
            if not value:
                continue
        if path not in paths:
            remaining[name] = value
    return remaining


def from_toml(path: str | Path, *, stored: bool = False) -> Recipe:
    """Read a recipe file; raises ConfigError that names the file and the field.

    stored: the file was written by a run (see `from_stored_dict`), not by a user.
    """
    with reading(path, what="as a recipe"):
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return (from_stored_dict if stored else partial(from_dict, Recipe))(data, where=str(path))


def read_field_names(path: str | Path) -> list[str]:
    """Return the dotted names of the fields in a recipe file that `from_toml` has read."""
    with reading(path, what="as a recipe"):
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    return [name for name, _ in flatten_fields(with_current_names(data, "recipe"))]


def replace_fields(recipe: Recipe, changes: dict[str, Any], where: str = "--set") -> Recipe:
    """Return a copy with dotted fields changed ("optim.lr": 0.05); values may be TOML text."""
    data = to_dict(recipe)
    for path, value in changes.items():
        *parents, leaf = current_path(path).split(".")
        node = data
        for depth, parent in enumerate(parents, 1):
            if isinstance(node.get(parent), str) and ".".join(parents[:depth]) in TABLES:
                node[parent] = {}  # the table replaces a name such as "auto"
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{where}: {path}: {parent} is not a table and has no fields")
        if value is None or (value == "none" and _default(path) is None):
            node.pop(leaf, None)
        elif isinstance(value, PathLike):  # such as a `Run` for `weights`
            node[leaf] = fspath(value)
        else:
            node[leaf] = _parse_value(value) if isinstance(value, str) else value
    return from_dict(Recipe, data, where)


def flatten_fields(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and value of nested fields; a spec yields all of its fields.

    A field whose value is a table, such as loss.class_weights, is one field.
    """
    for name, value in fields.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from iter_fields(value, f"{prefix}{name}.")
        elif isinstance(value, Mapping) and f"{prefix}{name}" not in TABLES:
            yield from flatten_fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differing_fields(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return the dotted names of the fields that differ, with both values; None = not set."""
    ours, theirs = dict(flatten_fields(one)), dict(flatten_fields(other))
    pairs = {name: (ours.get(name), theirs.get(name)) for name in ours | theirs}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def explicit_fields(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the current names of the fields that were set: of a spec, those unlike the default."""
    specs = tuple(f"{name}." for name in _spec_names(fields))
    for name, value in flatten_fields(fields):
        path = current_path(name)
        if not path.startswith(specs) or value != DEFAULTS.get(path):
            yield path


def _spec_names(fields: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of the values in `fields` that are specs."""
    for name, value in fields.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield f"{prefix}{name}"
        elif isinstance(value, Mapping):
            yield from _spec_names(value, f"{prefix}{name}.")


def _parse_value(text: str) -> Any:
    """Read TOML text (numbers, booleans, lists), else keep it as a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _default(path: str) -> Any:
    """Return the default of a dotted recipe field; "" if there is no such field."""
    node: Any = Recipe()
    for part in current_path(path).split("."):
        node = None if node is None else getattr(node, part, "")
    return node


def dump_json(value: Any, path: Path, indent: int | None = 2) -> None:
    """Write `value` as JSON to `path` atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=indent) + "\n", encoding="utf-8")
