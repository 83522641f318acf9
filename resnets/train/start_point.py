"""Where a run starts: from a recipe, or from the recipe and the last checkpoint of its folder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from resnets.config import ConfigError, Recipe, from_toml, to_toml
from resnets.train.log.trackers import check_trackers
from resnets.train.resume_recipe import merge_recipes
from resnets.utils.printable import valid_text
from resnets.weights.checkpoint.format import FOLDER, RECIPE, Checkpoint
from resnets.weights.checkpoint.manager import CheckpointManager


@dataclass(frozen=True)
class StartPoint:
    """Where a run starts: its recipe, the checkpoint to resume from, and notes on differences."""

    recipe: Recipe
    checkpoint: Checkpoint | None = None
    notes: list[str] = field(default_factory=list)


def find_start(recipe: Recipe | None, out: Path, data: str | None, fit_memory: bool) -> StartPoint:
    """Return the start of a new run of `recipe`, or of the run in `out`; or raise ConfigError."""
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
    """Return where to resume the run in `out`; `data`: the data set's current location.

    Raises ConfigError if `out` is not the folder of a run, or its recipe is invalid, and
    CheckpointError if all of its checkpoints are damaged.
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
    """Raise ConfigError unless the folder contains a run."""
    if not (out / RECIPE).is_file() and not (out / FOLDER).is_dir():
        raise ConfigError(
            f"{out}: is not the folder of a run (no {RECIPE}); name the folder that `resnets train`"
            " printed"
        )
