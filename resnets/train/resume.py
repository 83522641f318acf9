"""Find where a run starts or resumes; handle an edited recipe and a new duration."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from resnets.config import ConfigError, Recipe, differing_fields, from_toml, to_dict, to_toml
from resnets.train.log.trackers import check_trackers
from resnets.train.optim.schedule import Schedule
from resnets.utils.printable import valid_text
from resnets.utils.suggest import suggest_path
from resnets.weights.checkpoint.format import FOLDER, RECIPE, Checkpoint
from resnets.weights.checkpoint.manager import CheckpointManager

# Fields that do not affect training: if recipe.toml was edited, the new values are used.
EDITABLE = frozenset(
    {
        "name",
        "checkpoint_every",
        "checkpoint_url",
        "keep_checkpoints",
        "log_every",
        "trackers",
        "data.source",  # may move; its images are compared with the run's
        "data.ground_truth",
        "data.quarantine",
        "data.workers",
        "data.max_unreadable",
        "data.overlap",
    }
)
# Fields that are set from the data and weights when a run starts.
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


@dataclass(frozen=True)
class StartPoint:
    """Where a run starts: its recipe, the checkpoint to resume from, and notes on differences."""

    recipe: Recipe
    checkpoint: Checkpoint | None = None
    notes: list[str] = field(default_factory=list)


def find_start(recipe: Recipe | None, out: Path, data: str | None, fit_memory: bool) -> StartPoint:
    """Return the start of a new run of `recipe`, or of the run in `out`; may raise ConfigError."""
    if recipe is None:
        start = read_run(out, data)
    else:
        start = StartPoint(recipe)
        if (out / RECIPE).exists():
            raise ConfigError(f"{out} already contains a run; use --resume {out}, or another --out")
        CheckpointManager(out, recipe).check_free()
        to_toml(recipe)  # raises for values that cannot be written, before any data is read
        if valid_text(str(out)) != str(out):  # safetensors cannot open such paths
            raise ConfigError(f"--out {out}: not valid UTF-8; choose another folder name")
    check_trackers(start.recipe.trackers)
    if fit_memory and start.recipe.sync_norm:
        raise ConfigError(
            "--fit-memory: cannot be combined with sync_norm, which needs the whole batch in one "
            "forward pass"
        )
    return start


def read_run(out: Path, data: str | None = None) -> StartPoint:
    """Return where to resume the run in `out`.

    data: the data set's new location. Raises ConfigError if `out` does not contain a run or its
    recipe is invalid, and CheckpointError if all of its checkpoints are damaged.
    """
    check_is_run(out)
    start = _read_run(out)
    if data is None:
        return start
    spec = replace(start.recipe.data, source=data)
    return replace(start, recipe=replace(start.recipe, data=spec))


def _read_run(out: Path) -> StartPoint:
    try:
        edited = from_toml(out / RECIPE, stored=True)
    except ConfigError as error:
        checkpoint = CheckpointManager(out, Recipe()).latest()
        if checkpoint is None:
            raise
        note = f"{error}; using the checkpoint's own recipe"
        return StartPoint(checkpoint.recipe, checkpoint, [note])
    checkpoint = CheckpointManager(out, edited).latest()
    if checkpoint is None:
        return StartPoint(edited)
    recipe, notes = merge_recipes(edited, checkpoint.recipe)
    return StartPoint(recipe, checkpoint, notes)


def check_is_run(out: Path) -> None:
    """Raise ConfigError if the folder does not contain a run."""
    if not (out / RECIPE).is_file() and not (out / FOLDER).is_dir():
        hint = suggest_path(out) or "; name the folder that `resnets train` printed"
        raise ConfigError(f"{out}: is not the folder of a run (no {RECIPE}){hint}")


def differences(one: Recipe, other: Recipe) -> dict[str, tuple[str, str]]:
    """Return the fields in which two recipes differ, by name, with both values as text."""
    found = sorted(differing_fields(to_dict(one), to_dict(other)).items())
    return {name: (_format(value), _format(theirs)) for name, (value, theirs) in found}


def _format(value: Any) -> str:
    return "(not set)" if value is None else repr(value)


def merge_recipes(edited: Recipe, saved: Recipe) -> tuple[Recipe, list[str]]:
    """Merge `edited` (recipe.toml) with `saved` (the checkpoint's recipe); one note per difference.

    Fields that affect training are taken from the checkpoint, with which its weights were trained.
    """
    notes, merged = [], saved
    for name, (new, old) in differences(edited, saved).items():
        difference = f"recipe.toml: {name} is {new}, in the checkpoint it is {old}"
        if name in EDITABLE:
            merged = _copy_field(merged, edited, name)
            notes.append(f"{difference}; using {new}, since it does not affect training")
            continue
        hint = "to train with another value, start a new run"
        if name == "duration":
            hint = "to extend the run, resume it with --epochs or --iterations"
        notes.append(f"{difference}; using {old}, with which the run was trained so far; {hint}")
    return merged, notes


def describe_differences(requested: Recipe, saved: Recipe) -> list[str]:
    """Return one line per field in which the recipe of a run differs from the requested one.

    Fields that are set from the data and weights are not compared.
    """
    lines = []
    for name, (new, old) in differences(requested, saved).items():
        if name in DERIVED or name.startswith(("model.", "detect.")):
            continue
        lines.append(
            f"{name} is {new}, but the existing run uses {old}, which stays;"
            " change the duration with --resume RUN --epochs N, and other fields in a new run"
        )
    return lines


def describe_extension(
    recipe: Recipe, duration: str, examples: int, step: int, schedule: dict[str, Any] | None
) -> str:
    """Describe in one line the effect of a new `duration` on a run of `recipe` at `step`.

    schedule: state of the schedule in the checkpoint. Raises ConfigError if the run is already past
    its new end.
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
