"""How numbers were got, in words: from recipes and the environments of their runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnets.config import AugmentSpec, OptimSpec, Recipe, ScheduleSpec, parse_duration, to_dict
from resnets.config.aliases import read_json

ENVIRONMENT = "environment.json"
# Fields in which the cells of one grid are meant to differ.
CELL_FIELDS = ("name", "model", "seed")
NORMALIZE = {
    "per-pixel-mean": "the training set's mean picture subtracted",
    "channel": "each channel shifted and scaled by the training set's mean and deviation",
    "imagenet": "each channel shifted and scaled by ImageNet's mean and deviation",
}


def describe_training(recipe: Recipe) -> str:
    """One paragraph on data, augmentation, optimizer, schedule and budget of `recipe`."""
    start = "He initialisation" if recipe.weights is None else f"the weights of {recipe.weights}"
    return (
        f"Pictures come from {recipe.data.source}, {_size(recipe)}, with "
        f"{NORMALIZE[recipe.data.normalize]}; {_augmentation(recipe.data.augment)}. Training "
        f"starts from {start} and lasts {duration(recipe.duration)} at batch size "
        f"{recipe.batch_size} with {_optimizer(recipe.optim)}. {_schedule(recipe.schedule)}"
    )


def duration(text: str) -> str:
    """ "64000it" as "64,000 iterations"."""
    amount, unit = parse_duration(text, "duration")
    count = f"{amount:,.0f}" if amount == round(amount) else f"{amount:g}"
    return f"{count} {'iteration' if unit == 'it' else 'epoch'}{'' if amount == 1 else 's'}"


def differences(recipes: Mapping[str, Recipe]) -> list[str]:
    """Where recipes (by a name for each) depart from the first, beyond net and seed.

    Each line names the field, its value, and the names it holds for; none for one recipe for all.
    """
    flat = {name: _flatten(recipe) for name, recipe in recipes.items()}
    if not flat:
        return []
    first = next(iter(flat.values()))
    departures: dict[str, list[str]] = {}
    for name, fields in flat.items():
        for path in sorted(first.keys() | fields.keys()):
            if first.get(path) != fields.get(path):
                departures.setdefault(f"{path} = {fields.get(path, 'none')}", []).append(name)
    return [f"{field} for {', '.join(names)}" for field, names in departures.items()]


def merge_environments(folders: Sequence[Path]) -> dict[str, Any]:
    """environment.json of several runs as one mapping; values that differ stand side by side."""
    found: dict[str, list[str]] = {}
    for folder in folders:
        path = folder / ENVIRONMENT
        if not path.is_file():
            continue
        for key, value in read_json(path, "environment").items():
            texts = found.setdefault(key.replace("_", " "), [])
            if _plain(value) not in texts:
                texts.append(_plain(value))
    return {key: " | ".join(values) for key, values in found.items()}


def _plain(value: Any) -> str:
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


def _size(recipe: Recipe) -> str:
    size = recipe.data.size or recipe.model.input_size
    return f"{size} x {size} pixels"


def _augmentation(spec: AugmentSpec) -> str:
    low, high = spec.scale
    parts = {
        "none": [],
        "pad": [f"training pictures are padded by {spec.pad} px and cropped at random"],
        "scale-jitter": [
            f"training crops come from pictures resized to a shorter side in {low:g}..{high:g}"
        ],
        "random-resized": [f"training crops cover a random {low:.0%} to {high:.0%} of the picture"],
    }[spec.crop]
    parts = [*parts, *(["half of them are mirrored"] if spec.flip else [])]
    parts += ["their colours are shifted along principal components"] if spec.pca_color else []
    return " and ".join(parts) or "training pictures are not augmented"


def _optimizer(spec: OptimSpec) -> str:
    if spec.kind == "adamw":
        return f"AdamW, learning rate {spec.lr:g}, weight decay {spec.weight_decay:g}"
    nesterov = "Nesterov " if spec.nesterov else ""
    clipped = f", gradients clipped at norm {spec.clip_norm:g}" if spec.clip_norm else ""
    return (
        f"SGD, learning rate {spec.lr:g}, {nesterov}momentum {spec.momentum:g}, weight decay "
        f"{spec.weight_decay:g}{clipped}"
    )


def _schedule(spec: ScheduleSpec) -> str:
    words = {
        "constant": "The rate stays constant",
        "steps": f"The rate is multiplied by {spec.gamma:g} at "
        + " and ".join(f"{share:.0%}" for share in spec.milestones)
        + " of the run",
        "cosine": "The rate falls along a cosine",
        "linear": "The rate falls linearly",
        "one-cycle": f"The rate rises over the first {spec.warmup:.0%} of the run, then falls "
        "linearly",
        "plateau": f"The rate is multiplied by {spec.gamma:g} when the validation error stalls",
    }[spec.kind]
    if spec.warmup and spec.kind != "one-cycle":
        words += f", after a linear warm-up over the first {spec.warmup:.1%}"
    if spec.hold_until_error is not None:
        words += (
            f"; until the training error is below {spec.hold_until_error:g}% it is held at "
            f"{spec.hold_factor:g} of its value"
        )
    return words + "."
