"""The tasks "text" and "signals" of a training run (`train.tasks.task.Task`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from resnets.config import Recipe
from resnets.data.batch import Batch
from resnets.data.splits.open import SetReport
from resnets.report.classification_details import RunDetails
from resnets.sequence.dataset import SequenceData, Windows, WindowStream, keep_on_device
from resnets.sequence.evaluate import (
    BITS,
    SequenceEvaluation,
    cross_entropy,
    evaluate_windows,
    nats_to_bits,
)
from resnets.sequence.load import build, complete_recipe, load_sequence_model, open_sequences
from resnets.train.execution_plan import ExecutionPlan
from resnets.train.loop import Evaluate
from resnets.train.loss import Losses, LossFn, classification_loss
from resnets.utils.machine.distributed import ProcessGroup
from resnets.weights.checkpoint.format import Checkpoint
from resnets.weights.errors import CheckpointError


class SequenceTask(ABC):
    """A sequence model and its data."""

    mean_image = None
    monitor: str

    def __init__(self, recipe: Recipe, data: SequenceData, *, resumed: bool = False) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.data, self.model = recipe, data, build(recipe, data)
        self.data_name, self.summary = data.name, data.summary
        self.split_report = SetReport(None, None, resumed=resumed)
        self.details: RunDetails | None = None
        self.metadata: Mapping[str, Any] = {"classes": list(data.classes), "digest": data.digest}
        counts = ", ".join(f"{role} {len(split):,}" for role, split in data.splits.items())
        self.title = f"{recipe.net_name} on {data.name}: {data.summary.unit} {counts}"

    @classmethod
    def open(cls, recipe: Recipe) -> Self:
        """Open the data, and build the model for it."""
        data = open_sequences(recipe)
        return cls(complete_recipe(recipe, data), data)

    @classmethod
    def reopen(cls, recipe: Recipe, checkpoint: Checkpoint) -> Self:
        """Open a run to resume; raises CheckpointError if its data has changed."""
        data = open_sequences(recipe)
        if checkpoint.meta.get("digest") != data.digest:
            raise CheckpointError(
                f"{checkpoint.path}: {recipe.data.source} has changed since this run trained;"
                " restore the data, or start a new run"
            )
        return cls(recipe, data, resumed=True)

    @property
    def examples(self) -> int:
        """Number of windows per epoch."""
        return len(self.data.splits["train"])

    @property
    @abstractmethod
    def loss_fn(self) -> LossFn:
        """Loss to minimize."""

    def smallest_input(self) -> None:  # noqa: B027
        """Return None, because there are no images."""

    def setup(self, device: torch.device) -> None:  # noqa: B027
        """Do nothing."""

    def stream(self, device: torch.device, group: ProcessGroup) -> WindowStream:
        """Return the stream of this process's share of the training batches."""
        recipe = self.recipe
        return WindowStream(
            self.data.splits["train"], recipe.batch_size, recipe.seed, device, group
        )

    def evaluator(self, plan: ExecutionPlan, group: ProcessGroup) -> Evaluate | None:
        """Return the function that evaluates a model during training; None without data for it."""
        names = ["val", "test"] if self.recipe.eval.watch_test else ["val"]
        device = torch.device(plan.device)
        splits = {
            name: keep_on_device(self.data.splits[name], device)
            for name in names
            if name in self.data.splits
        }

        def evaluate(model: nn.Module) -> dict[str, dict[str, float]]:
            return {
                name: self._evaluate(model, split, name, plan, group).metrics
                for name, split in splits.items()
            }

        return evaluate if splits else None

    def evaluate_checkpoint(
        self, path: Path, plan: ExecutionPlan, group: ProcessGroup
    ) -> dict[str, Any]:
        """Evaluate the run's checkpoint `path` on validation and, only here, on test."""
        model = group.broadcast_from_main(lambda: load_sequence_model(path)).to(plan.device)
        names = ("test", "val") if self.recipe.eval.test else ("val",)
        return {
            name: {
                **(
                    evaluation := self._evaluate(model, split, name, plan, group, model.origin)
                ).metrics,
                **evaluation.details,
                **self.data.baselines[name],
                "examples": evaluation.examples,
                "protocol": evaluation.protocol,
            }
            for name in names
            if (split := self.data.splits.get(name)) is not None
        }

    def _evaluate(
        self,
        model: nn.Module,
        split: Windows,
        role: str,
        plan: ExecutionPlan,
        group: ProcessGroup,
        weights: str = "training",
    ) -> SequenceEvaluation:
        return evaluate_windows(
            model,
            split,
            self.data.classes,
            torch.device(plan.device),
            plan.precision,
            self.recipe.eval.batch_size,
            weights,
            f"{self.data.name} {role}",
            group,
        )


class TextTask(SequenceTask):
    """Next-character prediction with a transformer."""

    monitor = BITS

    @property
    def loss_fn(self) -> LossFn:
        """Mean cross-entropy of the next character."""
        return text_loss


class SignalTask(SequenceTask):
    """Signal classification with a 1-D residual network."""

    monitor = "top1_error"

    @property
    def loss_fn(self) -> LossFn:
        """The recipe's loss."""
        return classification_loss(self.recipe.loss)


def text_loss(model: Callable[..., Tensor], batch: Batch) -> Losses:
    """Return the mean cross-entropy of the next character (a `LossFn`): inputs, targets (B, T)."""
    assert isinstance(batch.targets, Tensor)
    loss = cross_entropy(model(batch.images).float(), batch.targets)
    loss_sum = loss.detach() * len(batch)
    return Losses(loss, {"loss": loss_sum, BITS: nats_to_bits(loss_sum)}, len(batch))
