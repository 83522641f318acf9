"""What the curves of a run suggest to change in the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from resnets.config import Recipe

MIN_EVALUATIONS = 5  # below which curves suggest nothing
LATE = 0.25  # of the run: its end
FALLING = 0.05  # relative fall of the validation error within it that counts as falling
RISING = 1.05  # validation loss at the end over its lowest that counts as overfitting
GAP = 2.0  # validation error over training error that counts as overfitting ...
POINTS = 5.0  # ... where they are this many points apart, too
FEW_IMAGES = 20_000  # training images below which pretrained weights help most


@dataclass(frozen=True)
class Advice:
    """A suggestion: `kind` names its text in the template, `values` are its figures."""

    kind: Literal["falling", "overfitting", "pretrained"]
    values: Mapping[str, Any]


def advise(recipe: Recipe, rows: Sequence[Mapping[str, Any]], images: int) -> list[Advice]:
    """What the rows of metrics.jsonl of a classifier suggest; `images` are trained on.

    Only validation decides. Empty without a validation split, or with few evaluations, but for
    the advice to start from pretrained weights.
    """
    val = [row for row in rows if row.get("kind") == "val" and "top1_error" in row]
    train = [row for row in rows if row.get("kind") == "train" and "top1_error" in row]
    found: list[Advice] = []
    if len(val) >= MIN_EVALUATIONS and train:
        end = val[-1]["step"]
        late = [row["top1_error"] for row in val if row["step"] > (1 - LATE) * end]
        early = [row["top1_error"] for row in val if row["step"] <= (1 - LATE) * end]
        if early and late and min(late) < (1 - FALLING) * min(early):
            values = {"before": min(early), "after": min(late), "duration": recipe.duration}
            found.append(Advice("falling", values))
        elif _overfits(val, train):
            lowest = min(val, key=lambda row: row["loss"])
            values = {
                "train": train[-1]["top1_error"],
                "val": val[-1]["top1_error"],
                "best_epoch": lowest["epoch"],
                "rises": val[-1]["loss"] > RISING * lowest["loss"],
            }
            found.append(Advice("overfitting", values))
    if recipe.weights is None and images < FEW_IMAGES and (recipe.data.size or 0) >= 64:
        found.append(Advice("pretrained", {"images": images}))
    return found


def _overfits(val: Sequence[Mapping[str, Any]], train: Sequence[Mapping[str, Any]]) -> bool:
    losses = [row["loss"] for row in val if "loss" in row]
    rises = bool(losses) and losses[-1] > RISING * min(losses)
    error, trained = val[-1]["top1_error"], train[-1]["top1_error"]
    return rises or (error > GAP * trained and error - trained > POINTS)
