"""How a resumed run handles an edited recipe and a new duration."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from resnets import recipes
from resnets.config import ConfigError, Recipe, differing_fields, to_dict
from resnets.train.optim.schedule import Schedule

# Fields that do not affect training: their values in an edited recipe.toml are used.
EDITABLE = frozenset(
    {
        "name",
        "checkpoint_every",
        "checkpoint_url",
        "keep_checkpoints",
        "log_every",
        "trackers",
        "data.source",  # current location; its images are compared with those of the run
        "data.ground_truth",
        "data.quarantine",
        "data.workers",
        "data.max_unreadable",
        "data.overlap",
    }
)
# Fields that a run derives from its data and weights.
DERIVED = frozenset(
    {
        "data.size",
        "data.value_range",
        "data.source",
        "detect",
        "model.num_classes",
        "model.in_channels",
        "model.input_size",
    }
)


def differences(one: Recipe, other: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the `differing_fields` of two recipes, sorted by name."""
    return dict(sorted(differing_fields(to_dict(one), to_dict(other)).items()))


def merge_recipes(edited: Recipe, saved: Recipe) -> tuple[Recipe, list[str]]:
    """Merge `edited` (recipe.toml) and `saved` (the checkpoint's); one note per difference.

    Fields that affect training are taken from the checkpoint, whose weights were trained with it.
    """
    notes, merged = [], saved
    for name, (new, old) in differences(edited, saved).items():
        difference = (
            f"recipe.toml: {name} is {_format(new)}, in the checkpoint it is {_format(old)}"
        )
        if name in EDITABLE:
            merged = _copy_field(merged, edited, name)
            notes.append(f"{difference}; using {_format(new)}, since it does not affect training")
            continue
        hint = "to train with another value, start a new run"
        if name == "duration":
            hint = "to extend the run, resume it with --epochs or --iterations"
        notes.append(
            f"{difference}; using {_format(old)}, with which the run was trained so far; {hint}"
        )
    return merged, notes


def describe_differences(requested: Recipe, saved: Recipe) -> list[str]:
    """Return one line per field in which the recipe of a run differs from the requested one.

    Fields that a run derives from its data and weights are not compared.
    """
    lines = []
    for name, (new, old) in differences(requested, saved).items():
        if name in DERIVED or name.startswith(("model.", "detect.")):
            continue
        lines.append(
            f"{name} is {_format(new)}, but the existing run uses {_format(old)}, which stays;"
            " change the duration with --resume RUN --epochs N, and other fields in a new run"
        )
    return lines


def changed_fields(recipe: Recipe) -> list[tuple[str, str, str]]:
    """Return the fields in which `recipe` differs from the built-in recipe of its name.

    Each with its value here and there; a recipe of another name is compared with the defaults. Of
    another model only the name is listed.
    """
    is_named = recipe.name in recipes.RECIPES
    base = recipes.recipe(recipe.name) if is_named else Recipe(name=recipe.name)
    changed = differences(recipe, base)
    other_model = "model.name" in changed
    return [
        (name, _format(value), _format(default))
        for name, (value, default) in changed.items()
        if name not in DERIVED
        and (name == "model.name" or not (other_model and name.startswith("model.")))
    ]


def describe_extension(
    recipe: Recipe, duration: str, examples: int, step: int, schedule: dict[str, Any] | None
) -> str:
    """Describe in one line what a new `duration` changes for a run of `recipe` at `step`.

    schedule: the state of the schedule in the checkpoint. Raises ConfigError if the run is already
    past its new end.
    """
    before, total = (recipe.steps(each, examples) for each in (recipe.duration, duration))
    if total < step:
        raise ConfigError(
            f"--epochs/--iterations: {duration} is {total:,} steps, but the run is already at"
            f" step {step:,}; give a longer duration, or use the run as it is"
        )
    line = f"the run ends at step {total:,} ({duration}) instead of {before:,} ({recipe.duration})"
    if step == 0:
        return line
    old, new = (_lr_at(recipe, length, step, schedule) for length in (before, total))
    kind = recipe.schedule.kind
    if old == new:
        return f"{line}; the learning rate stays {new:.3g} (schedule {kind})"
    line += (
        f"; the schedule ({kind}) is stretched over the new length, so the learning rate at step"
        f" {step:,} jumps from {old:.3g} to {new:.3g}"
    )
    if recipe.data.grow_from is not None:
        line += "; image sizes (data.grow_from) follow the new length, too"
    return line


def _lr_at(recipe: Recipe, total: int, step: int, state: dict[str, Any] | None) -> float:
    schedule = Schedule(recipe.schedule, recipe.optim.lr, total)
    if state is not None:
        schedule.load_state_dict(copy.deepcopy(state))
    return schedule.lr(min(step, total - 1))


def _copy_field(recipe: Recipe, source: Recipe, name: str) -> Recipe:
    """Return `recipe` with the field `name` of `source`."""
    group, dot, field = name.rpartition(".")
    if not dot:
        return replace(recipe, **{name: getattr(source, name)})
    value = getattr(getattr(source, group), field)
    return replace(recipe, **{group: replace(getattr(recipe, group), **{field: value})})


def _format(value: Any) -> str:
    return "(not set)" if value is None else repr(value)
