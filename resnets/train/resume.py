"""What a resumed run does with an edited recipe, and with a new length."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from resnets.config import ConfigError, Recipe, to_dict
from resnets.train.optim.schedule import Schedule

# Fields that do not change what is learnt: an edited recipe.toml decides them.
FREE = frozenset(
    {
        "name",
        "checkpoint_every",
        "checkpoint_url",
        "keep_checkpoints",
        "log_every",
        "data.source",  # where the set lies now; its images are compared with the run's own
        "data.truth",
        "data.quarantine",
        "data.workers",
        "data.max_bad",
        "data.overlap",
    }
)
UNSET = "(not set)"


def differences(one: Recipe, other: Recipe) -> dict[str, tuple[Any, Any]]:
    """The dotted fields in which two recipes differ, with both values; None = not set."""
    ours, theirs = _flat(to_dict(one)), _flat(to_dict(other))
    names = sorted(ours.keys() | theirs.keys())
    pairs = {name: (ours.get(name), theirs.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def reconcile(edited: Recipe, kept: Recipe) -> tuple[Recipe, list[str]]:
    """The recipe to resume with, of recipe.toml and the checkpoint's, and a line a difference.

    The checkpoint's decides all that changes what is learnt: its weights were trained by it.
    """
    notes, used = [], kept
    for name, (new, old) in differences(edited, kept).items():
        found = f"recipe.toml: {name} is {_shown(new)}, the checkpoint's recipe has {_shown(old)}"
        if name in FREE:
            used = _with(used, edited, name)
            notes.append(f"{found}; {_shown(new)} is used, since it does not change the training")
            continue
        way = "to train with another value, start a new run"
        if name == "duration":
            way = "to extend the run, resume it with --epochs or --iterations"
        notes.append(
            f"{found}; {_shown(old)} is used, since the run was trained by it so far; {way}"
        )
    return used, notes


def asked_otherwise(asked: Recipe, kept: Recipe) -> list[str]:
    """A line for each field in which a run to be continued differs from what is asked for now.

    Fields that a run fits to its data and weights are not compared.
    """
    fitted = {"data.size", "data.value_range", "data.source", "detect"}
    lines = []
    for name, (new, old) in differences(asked, kept).items():
        if name in fitted or name.startswith(("model.", "detect.")):
            continue
        lines.append(
            f"{name} is {_shown(new)}, but the run there has {_shown(old)}, which is used; change a"
            " run's length with --resume RUN --epochs N, and other fields in a new run"
        )
    return lines


def extend(
    recipe: Recipe, duration: str, examples: int, step: int, schedule: dict[str, Any] | None
) -> str:
    """What a new `duration` means for a run of `recipe` that is at `step`, as one line.

    schedule: the schedule's state in the checkpoint. ConfigError where the run is past its new end.
    """
    before, total = (recipe.steps(each, examples) for each in (recipe.duration, duration))
    if total < step:
        raise ConfigError(
            f"--epochs/--iterations: {duration} is {total:,} steps, but the run is at step {step:,}"
            " already; give more, or use the run as it is"
        )
    line = f"the run ends at step {total:,} ({duration}) in place of {before:,} ({recipe.duration})"
    if step == 0:
        return line
    old, new = (_rate(recipe, length, step, schedule) for length in (before, total))
    kind = recipe.schedule.kind
    if old == new:
        return f"{line}; the learning rate goes on at {new:.3g} (schedule {kind})"
    line += (
        f"; the schedule ({kind}) is stretched over the new length, so the learning rate at step"
        f" {step:,} jumps from {old:.3g} to {new:.3g}"
    )
    if recipe.data.grow_from is not None:
        line += "; image sizes (data.grow_from) follow the new length too"
    return line


def _rate(recipe: Recipe, total: int, step: int, state: dict[str, Any] | None) -> float:
    schedule = Schedule(recipe.schedule, recipe.optim.lr, total)
    if state is not None:
        schedule.load_state_dict(copy.deepcopy(state))
    return schedule.lr(min(step, total - 1))


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _with(recipe: Recipe, source: Recipe, name: str) -> Recipe:
    """`recipe` with the field `name` of `source`."""
    group, dot, field = name.rpartition(".")
    if not dot:
        return replace(recipe, **{name: getattr(source, name)})
    value = getattr(getattr(source, group), field)
    return replace(recipe, **{group: replace(getattr(recipe, group), **{field: value})})


def _shown(value: Any) -> str:
    return UNSET if value is None else repr(value)
