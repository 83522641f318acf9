"""The recipes and environments of a grid's runs, as its protocol states them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnets.config import Recipe, parse_duration, to_dict
from resnets.config.aliases import read_json

ENVIRONMENT = "environment.json"
# Fields in which the cells of one grid are meant to differ.
CELL_FIELDS = ("name", "model", "seed", "custom")


def format_duration(text: str) -> str:
    """ "64000it" as "64,000 iterations"."""
    amount, unit = parse_duration(text, "duration")
    count = f"{amount:,.0f}" if amount == round(amount) else f"{amount:g}"
    return f"{count} {'iteration' if unit == 'it' else 'epoch'}{'' if amount == 1 else 's'}"


def differences(recipes: Mapping[str, Recipe]) -> list[str]:
    """Where recipes (by name) differ from the first, other than in model and seed.

    Each line names the field, its value, and the names it holds for.
    """
    flat = {name: _flatten(recipe) for name, recipe in recipes.items()}
    if not flat:
        return []
    first = next(iter(flat.values()))
    found: dict[str, list[str]] = {}
    for name, fields in flat.items():
        for path in sorted(first.keys() | fields.keys()):
            if first.get(path) != fields.get(path):
                found.setdefault(f"{path} = {fields.get(path, 'none')}", []).append(name)
    return [f"{field} for {', '.join(names)}" for field, names in found.items()]


def merge_environments(folders: Sequence[Path]) -> dict[str, Any]:
    """environment.json of several runs as one mapping; values that differ are listed."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        path = folder / ENVIRONMENT
        if not path.is_file():
            continue
        for key, value in read_json(path, "environment").items():
            texts = found.setdefault(key.replace("_", " "), [])
            if _text(value) not in texts:
                texts.append(_text(value))
    return {key: " | ".join(values) for key, values in found.items()}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _flatten(recipe: Recipe) -> dict[str, Any]:
    flat: dict[str, Any] = {}

    def visit(prefix: str, node: Mapping[str, Any]) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                visit(f"{prefix}{key}.", value)
            else:
                flat[f"{prefix}{key}"] = value

    visit("", {key: value for key, value in to_dict(recipe).items() if key not in CELL_FIELDS})
    return flat
