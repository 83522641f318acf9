"""`Task`: data, model, loss and metrics of a run; all else is shared by the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from resnets.config import ConfigError, Recipe
from resnets.data.dataset.summary import DataSummary
from resnets.data.splits.open import SetReport
from resnets.report.classification_details import RunDetails
from resnets.train.execution_plan import ExecutionPlan
from resnets.train.loop import Evaluate, Stream
from resnets.train.loss import LossFn
from resnets.utils.machine.distributed import ProcessGroup
from resnets.weights.checkpoint.format import Checkpoint
from resnets.weights.errors import CheckpointError

if TYPE_CHECKING:
    from resnets.data import Splits
    from resnets.detect.loading.sources import DetectionSplits


class Task(Protocol):
    """Data, model, loss and metrics of one run.

    Attributes:
        recipe: The recipe, including the fields that are set from the data.
        data_name: Name of the data set.
        title: Model and data in one line, for the terminal.
        summary: How the data set was interpreted.
        metadata: Entries of each checkpoint, including `classes` and `preprocess`.
        monitor: Validation metric that selects the best checkpoint.
        split_report: Report on the training and held-out images.
        details: Tables and images for the report, set by `evaluate_checkpoint` in the main process;
            None if there are none.
    """

    recipe: Recipe
    data_name: str
    title: str
    summary: DataSummary
    metadata: Mapping[str, Any]
    monitor: str
    split_report: SetReport
    details: RunDetails | None

    @property
    def model(self) -> nn.Module:
        """The model to train."""
        ...

    @property
    def examples(self) -> int:
        """Number of images per epoch."""
        ...

    @property
    def loss_fn(self) -> LossFn:
        """Loss of the task."""
        ...

    @property
    def mean_image(self) -> torch.Tensor | None:
        """Mean image (C, H, W) that preprocessing subtracts, or None."""
        ...

    def smallest_input(self) -> tuple[int, int, int] | None:
        """Return (C, H, W) of the smallest training images; None if sizes vary."""
        ...

    def setup(self, device: torch.device) -> None:
        """Prepare a new run; called once before the first step, with the model on `device`."""
        ...

    def stream(self, device: torch.device, group: ProcessGroup) -> Stream:
        """Return the stream of this process's share of the training batches."""
        ...

    def evaluator(self, plan: ExecutionPlan, group: ProcessGroup) -> Evaluate | None:
        """Return the function that evaluates a model during training; None without data for it.

        All processes must call it together; each gets the metrics over all of them.
        """
        ...

    def evaluate_checkpoint(
        self, path: Path, plan: ExecutionPlan, group: ProcessGroup
    ) -> dict[str, Any]:
        """Evaluate the finished run's checkpoint `path`; return metrics by split, including test.

        The main process reads the file and sends the weights to the others.
        """
        ...


def format_title(recipe: Recipe, splits: Splits | DetectionSplits) -> str:
    """Return model and data of a run on images in one line, for the terminal."""
    train, val = len(splits.train), len(splits.val or ())
    held_out = f"{val:,} validation" if val else "no validation split"
    return f"{recipe.net_name} on {splits.name}: {train:,} training images, {held_out}"


def check_validation(task: Task) -> None:
    """Raise ConfigError for fields of a new run that require a validation split if it has none."""
    recipe, splits = task.recipe, [each.role for each in task.summary.splits]
    is_validated = "val" in splits and recipe.detect.train_part != "proposals"
    for field, is_set in (
        ("eval.patience", recipe.eval.patience is not None),
        ("schedule.kind", recipe.schedule.kind == "plateau"),
    ):
        if is_set and not is_validated:
            raise ConfigError(
                f"{field}: {attrgetter(field)(recipe)!r} needs the validation error, and nothing is"
                " validated; set data.val_fraction"
            )


def make_split_report(splits: Splits | DetectionSplits, *, resumed: bool) -> SetReport:
    """Return the report on the training and held-out images of a run."""
    assert splits.fingerprint is not None
    return SetReport(splits.fingerprint, splits.changes, splits.overlaps, resumed, splits.checked)


def check_same_classes(checkpoint: Checkpoint, splits: Splits | DetectionSplits) -> None:
    """Raise ConfigError if a run to resume was trained on other classes than those of its data."""
    if checkpoint.classes != splits.classes:
        raise CheckpointError(f"{checkpoint.path}: its classes differ from those of {splits.name}")
