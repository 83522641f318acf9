"""Names of earlier versions that are still read: one table for recipes, flags and files.

All code that reads files or user input applies these tables; old names are never written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from resnets.utils.errors import ConfigError, ResnetsError
from resnets.utils.files.json import read_object

RECIPES: Mapping[str, str] = {"pictures": "scratch", "localise": "localize"}

FLAGS: Mapping[str, str] = {
    "--licence": "--license",
    "--nets": "--models",
    "--go-on": "--resume-if-exists",
    "--max-bad": "--max-unreadable",
    "--truth": "--ground-truth",
    "--leave-out": "--exclude",
}

FLAG_VALUES: Mapping[str, Mapping[str, str]] = {"--views": {"centre": "center"}}

REQUEST: Mapping[str, str] = {"pictures": "images", "picture": "image"}  # of a server, JSON

FileKind = Literal[
    "recipe",
    "checkpoint",
    "environment",
    "result",
    "artifact",
    "manifest",
    "bulk",
    "bulk-summary",
    "study",
]

# Dotted paths of fields, old to new, in each kind of file: "checkpoint" is the header of a
# checkpoint, "artifact" the metadata in an exported file, "manifest" the JSON file next to it.
# Tables come after their fields. Where a field became a table of the same name ("loss"), only a
# value that is not a table is moved.
FIELDS: Mapping[FileKind, Mapping[str, str]] = {
    "recipe": {
        "loss": "loss.kind",
        "label_smoothing": "loss.label_smoothing",
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
    "checkpoint": {
        "means.tiles": "means.amx",
        "means.keeps_pages": "means.malloc_tuned",
        "means": "execution_plan",
        "state.stale": "state.evals_since_best",
    },
    "environment": {"tiles": "amx", "keeps_pages": "malloc_tuned"},
    "result": {"net": "model", "set": "splits"},
    "artifact": {"net": "model"},
    "manifest": {
        "artefact": "artifact",
        "net": "model",
        "input.is": "input.color",
        "input.cut_already": "input.precropped",
        "output.is": "output.description",
        "parity.pictures": "parity.images",
        "parity.whole_pictures": "parity.full_images",
        "errors.pictures": "errors.images",
        "errors.rise": "errors.top1_error_rise",
        "mixed.quantised": "mixed.quantized",
        "mixed.all_int8.verdict": "mixed.all_int8.failure",
        "mixed.times": "mixed.speed",
        "mixed.times_as_fast_as": "mixed.speed_relative_to",
        "mixed.times_all_int8": "mixed.speed_all_int8",
        "preprocess.before_the_graph": "preprocess.before_graph",
        "preprocess.in_the_graph": "preprocess.in_graph",
        "source.net": "source.model_sha256",
    },
    "bulk": {"pictures": "images"},
    "study": {"nets": "models"},
    "bulk-summary": {"pictures": "images", "likeliest": "top_classes"},
}

# Values of fields, under their new paths, old to new.
VALUES: Mapping[FileKind, Mapping[str, Mapping[str, str]]] = {
    "recipe": {"task": {"localise": "localize"}},
}


def current_path(path: str) -> str:
    """Return the current name of a recipe field, given as a dotted path."""
    return FIELDS["recipe"].get(path, path)


def with_current_names(fields: Mapping[str, Any], kind: FileKind) -> dict[str, Any]:
    """Return `fields`, of any version, with the current names of its fields and values.

    If a field is there under both names, the new one is kept.
    """
    current = _copy(fields)
    for old, new in FIELDS[kind].items():
        table, key = _parent(current, old)
        if key in table and not (new.startswith(f"{old}.") and isinstance(table[key], dict)):
            _move(table, key, current, new)
    for path, values in VALUES.get(kind, {}).items():
        table, key = _parent(current, path)
        if isinstance(table.get(key), str):
            table[key] = values.get(table[key], table[key])
    return current


def read_json(
    path: Path, kind: FileKind, error: type[ResnetsError] = ConfigError, remedy: str = ""
) -> dict[str, Any]:
    """Read the JSON object in a file of any version; raises `error` if that is not possible."""
    return with_current_names(read_object(path, error, remedy), kind)


def current_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with the current names of flags and their values."""
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


def _move(table: dict[str, Any], key: str, target: dict[str, Any], path: str) -> None:
    """Move `table[key]` to `path` in `target`, unless `path` has a value."""
    value = table.pop(key)
    *names, name = path.split(".")
    for each in names:
        target = target.setdefault(each, {})
        if not isinstance(target, dict):  # the reader of the table reports that it is not one
            table[key] = value
            return
    target.setdefault(name, value)


def _parent(fields: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """Return the table that a dotted path leads to, {} if there is none, and the last name."""
    *names, key = path.split(".")
    for name in names:
        inner = fields.get(name)
        fields = inner if isinstance(inner, dict) else {}
    return fields, key
