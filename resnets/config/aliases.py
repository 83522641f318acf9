"""Names of earlier versions that are still understood: one table for recipes, flags and files.

Whatever reads what an earlier version wrote, or a user types, looks here; nothing is written with
an old name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

RECIPES: Mapping[str, str] = {"pictures": "scratch", "localise": "localize"}

FLAGS: Mapping[str, str] = {
    "--licence": "--license",
    "--max-bad": "--max-unreadable",
    "--truth": "--ground-truth",
}

FLAG_VALUES: Mapping[str, Mapping[str, str]] = {"--views": {"centre": "center"}}

Kind = Literal["recipe"]

# Dotted paths of fields, old to new, in each kind of file. A new name is in the table it was in.
FIELDS: Mapping[Kind, Mapping[str, str]] = {
    "recipe": {
        "data.normalise": "data.normalize",
        "data.truth": "data.ground_truth",
        "data.max_bad": "data.max_unreadable",
        "data.augment.pca_colour": "data.augment.pca_color",
        "data.augment.erase": "data.augment.random_erase",
        "detect.skip_bad": "detect.skip_invalid",
        "detect.upright": "detect.apply_exif",
        "detect.nms": "detect.nms_threshold",
        "detect.anchors": "detect.rpn_batch_size",
        "detect.regions": "detect.box_batch_size",
        "detect.auxiliary": "detect.aux_loss_weight",
    },
}

# Values of fields, under their new paths, old to new.
VALUES: Mapping[Kind, Mapping[str, Mapping[str, str]]] = {
    "recipe": {"task": {"localise": "localize"}},
}


def current_path(path: str, kind: Kind = "recipe") -> str:
    """The present name of a field, by its dotted path."""
    return FIELDS[kind].get(path, path)


def with_current_names(found: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """`found`, of any version, with the present names of its fields and values.

    A file that has a field under both names keeps the new one.
    """
    current = _copy(found)
    for old, new in FIELDS[kind].items():
        table, key = _parent(current, old)
        if key in table:
            table.setdefault(new.rpartition(".")[2], table[key])
            del table[key]
    for path, values in VALUES.get(kind, {}).items():
        table, key = _parent(current, path)
        if isinstance(table.get(key), str):
            table[key] = values.get(table[key], table[key])
    return current


def current_words(words: Sequence[str]) -> list[str]:
    """The words of a command line with the present names of its flags and of their values."""
    end = words.index("--") if "--" in words else len(words)
    current: list[str] = []
    for word in words[:end]:
        name, equals, value = word.partition("=")
        flag = FLAGS.get(name.replace("_", "-"), name)
        before = current[-1] if current else ""
        if equals:
            current.append(f"{flag}={FLAG_VALUES.get(flag, {}).get(value, value)}")
        else:
            current.append(FLAG_VALUES.get(before, {}).get(word, flag))
    return current + list(words[end:])


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return value


def _parent(found: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The table that a dotted path leads to, {} where there is none, and the last name."""
    *names, key = path.split(".")
    for name in names:
        inner = found.get(name)
        found = inner if isinstance(inner, dict) else {}
    return found, key
