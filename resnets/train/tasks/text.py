"""Prediction of the next character as a task of a training run (`train.tasks.task.Task`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnets.config import ConfigError, Recipe
from resnets.data.batch import Batch
from resnets.data.splits.report import SetReport
from resnets.models.transformer.network import Transformer
from resnets.report.run_details import RunDetails
from resnets.sequence.evaluate import BITS, bits, cross_entropy, describe, measure
from resnets.sequence.load import load
from resnets.sequence.text import Text, TextWindows, open_text
from resnets.sequence.windows import WindowStream
from resnets.train.execution_plan import ExecutionPlan
from resnets.train.loop import Evaluate
from resnets.train.loss import Losses, LossFn
from resnets.utils.distributed import ProcessGroup
from resnets.weights.checkpoint.format import Checkpoint, CheckpointError


class TextTask:
    """A transformer and its text."""

    mean_image = None
    monitor = BITS

    def __init__(self, recipe: Recipe, text: Text, *, resumed: bool = False) -> None:
        if recipe.eval.patience is not None and "val" not in text.parts:
            raise ConfigError("eval.patience: needs a validation split; set data.val_fraction")
        self.recipe, self.text = recipe, text
        torch.manual_seed(recipe.seed)
        self.model = Transformer(recipe.transformer)
        self.data_name, self.summary = text.name, text.summary
        self.split_report = SetReport(None, None, resumed=resumed)
        self.details: RunDetails | None = None
        self.metadata: Mapping[str, Any] = {"classes": list(text.characters), "text": text.digest}
        counted = ", ".join(f"{role} {len(part):,}" for role, part in text.parts.items())
        self.title = f"{recipe.net_name} on {text.name}: windows {counted}"

    @classmethod
    def open(cls, recipe: Recipe) -> TextTask:
        """Open the text, and build the model for its characters."""
        text = open_text(recipe.data, recipe.transformer.context)
        spec = dataclasses.replace(recipe.transformer, vocabulary=len(text.characters))
        return cls(dataclasses.replace(recipe, transformer=spec), text)

    @classmethod
    def reopen(cls, recipe: Recipe, checkpoint: Checkpoint) -> TextTask:
        """The same for a run to resume; CheckpointError where its text has changed."""
        text = open_text(recipe.data, recipe.transformer.context)
        if checkpoint.meta.get("text") != text.digest:
            raise CheckpointError(
                f"{checkpoint.path}: was trained on another text than {recipe.data.source} is now;"
                " restore it, or start a new run"
            )
        return cls(recipe, text, resumed=True)

    @property
    def examples(self) -> int:
        """Windows per epoch."""
        return len(self.text.parts["train"])

    @property
    def loss_fn(self) -> LossFn:
        """Mean cross-entropy of the next character."""
        return text_loss

    def smallest_input(self) -> None:
        """No images."""

    def setup(self, device: torch.device) -> None:
        """A new run needs no setup."""

    def stream(self, device: torch.device, group: ProcessGroup) -> WindowStream:
        """This process's share of the training batches."""
        recipe = self.recipe
        windows = self.text.parts["train"]
        return WindowStream(windows, recipe.batch_size, recipe.seed, device, group)

    def evaluator(self, plan: ExecutionPlan, group: ProcessGroup) -> Evaluate | None:
        """The function the loop calls to evaluate a model; None without data to evaluate on."""
        names = ["val", "test"] if self.recipe.eval.watch_test else ["val"]
        parts = {name: self.text.parts[name] for name in names if name in self.text.parts}

        def evaluate(model: nn.Module) -> dict[str, dict[str, float]]:
            return {name: self._measure(model, part, plan, group) for name, part in parts.items()}

        return evaluate if parts else None

    def evaluate_checkpoint(
        self, path: Path, plan: ExecutionPlan, group: ProcessGroup
    ) -> dict[str, Any]:
        """Metrics of the run's checkpoint `path` on validation and, this once, on test."""
        model = group.broadcast_from_main(lambda: load(path)).to(plan.device)
        result: dict[str, Any] = {}
        for name in ("test", "val") if self.recipe.eval.test else ("val",):
            if (part := self.text.parts.get(name)) is not None:
                result[name] = {
                    **self._measure(model, part, plan, group),
                    "frequency_bits": self.text.bits[name],
                    "examples": len(part),
                    "protocol": describe(part, plan.precision, model.origin, self.text.name, name),
                }
        return result

    def _measure(
        self, model: nn.Module, part: TextWindows, plan: ExecutionPlan, group: ProcessGroup
    ) -> dict[str, float]:
        device, size = torch.device(plan.device), self.recipe.eval.batch_size
        return measure(model, part, device, plan.precision, size, group)


def text_loss(model: Callable[..., Tensor], batch: Batch) -> Losses:
    """Mean cross-entropy of the next character (a `LossFn`); of characters (B, T) each."""
    assert isinstance(batch.targets, Tensor)
    logits = model(batch.images).float()
    loss = cross_entropy(logits, batch.targets)
    total = loss.detach() * len(batch)
    return Losses(loss, {"loss": total, BITS: bits(total)}, len(batch))
