"""What tasks of sequences share: text and signals (`train.tasks.task.Task`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from resnets.config import ConfigError, Recipe
from resnets.data.splits.report import SetReport
from resnets.report.run_details import RunDetails
from resnets.sequence.data import SequenceData
from resnets.sequence.evaluate import Measured, measure_part
from resnets.sequence.load import build, fitted, load, open_sequences
from resnets.sequence.windows import WindowStream
from resnets.train.execution_plan import ExecutionPlan
from resnets.train.loop import Evaluate
from resnets.train.loss import LossFn
from resnets.utils.distributed import ProcessGroup
from resnets.weights.checkpoint.format import Checkpoint, CheckpointError


class SequenceTask(ABC):
    """A model of sequences and its data."""

    mean_image = None
    monitor: str

    def __init__(self, recipe: Recipe, data: SequenceData, *, resumed: bool = False) -> None:
        if recipe.eval.patience is not None and "val" not in data.parts:
            raise ConfigError("eval.patience: needs a validation split; set data.val_fraction")
        torch.manual_seed(recipe.seed)
        self.recipe, self.data, self.model = recipe, data, build(recipe, data)
        self.data_name, self.summary = data.name, data.summary
        self.split_report = SetReport(None, None, resumed=resumed)
        self.details: RunDetails | None = None
        self.metadata: Mapping[str, Any] = {"classes": list(data.classes), "digest": data.digest}
        counted = ", ".join(f"{role} {len(part):,}" for role, part in data.parts.items())
        self.title = f"{recipe.net_name} on {data.name}: {data.summary.unit} {counted}"

    @classmethod
    def open(cls, recipe: Recipe) -> Self:
        """Open the data, and build the model for them."""
        data = open_sequences(recipe)
        return cls(fitted(recipe, data), data)

    @classmethod
    def reopen(cls, recipe: Recipe, checkpoint: Checkpoint) -> Self:
        """The same for a run to resume; CheckpointError where its data have changed."""
        data = open_sequences(recipe)
        if checkpoint.meta.get("digest") != data.digest:
            raise CheckpointError(
                f"{checkpoint.path}: was trained on other data than {recipe.data.source} has now;"
                " restore them, or start a new run"
            )
        return cls(recipe, data, resumed=True)

    @property
    def examples(self) -> int:
        """Windows per epoch."""
        return len(self.data.parts["train"])

    @property
    @abstractmethod
    def loss_fn(self) -> LossFn:
        """The loss to minimize."""

    def smallest_input(self) -> None:  # noqa: B027
        """No images."""

    def setup(self, device: torch.device) -> None:  # noqa: B027
        """A new run needs no setup."""

    def stream(self, device: torch.device, group: ProcessGroup) -> WindowStream:
        """This process's share of the training batches."""
        recipe = self.recipe
        return WindowStream(self.data.parts["train"], recipe.batch_size, recipe.seed, device, group)

    def evaluator(self, plan: ExecutionPlan, group: ProcessGroup) -> Evaluate | None:
        """The function the loop calls to evaluate a model; None without data to evaluate on."""
        names = ["val", "test"] if self.recipe.eval.watch_test else ["val"]
        names = [name for name in names if name in self.data.parts]

        def evaluate(model: nn.Module) -> dict[str, dict[str, float]]:
            return {name: self._measure(model, name, plan, group).metrics for name in names}

        return evaluate if names else None

    def evaluate_checkpoint(
        self, path: Path, plan: ExecutionPlan, group: ProcessGroup
    ) -> dict[str, Any]:
        """Metrics of the run's checkpoint `path` on validation and, this once, on test."""
        model = group.broadcast_from_main(lambda: load(path)).to(plan.device)
        names = ("test", "val") if self.recipe.eval.test else ("val",)
        return {
            name: {
                **(found := self._measure(model, name, plan, group, model.origin)).metrics,
                **found.details,
                **self.data.baselines[name],
                "examples": found.examples,
                "protocol": found.protocol,
            }
            for name in names
            if name in self.data.parts
        }

    def _measure(
        self,
        model: nn.Module,
        role: str,
        plan: ExecutionPlan,
        group: ProcessGroup,
        weights: str = "training",
    ) -> Measured:
        device, size = torch.device(plan.device), self.recipe.eval.batch_size
        part, about = self.data.parts[role], f"{self.data.name} {role}"
        classes = self.data.classes
        return measure_part(
            model, part, classes, device, plan.precision, size, weights, about, group
        )
