"""Evaluate models of sequences (`resnets.evaluate`)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.config import ConfigError, dump_json
from resnets.data.dataset.summary import announce
from resnets.data.errors import DataError
from resnets.evaluate.evaluation import describe_metrics, evaluate_scores
from resnets.models.block_config import eval_mode
from resnets.sequence.dataset import Windows, window_batches
from resnets.sequence.load import SequenceModel, load_sequence_model, open_sequences
from resnets.sequence.signals import Signals
from resnets.sequence.text import TextWindows, encode, read_text
from resnets.utils.machine import environment
from resnets.utils.machine.distributed import ProcessGroup
from resnets.utils.machine.environment import accumulator_dtype
from resnets.utils.machine.precision import autocast, pick_precision
from resnets.weights.given import copy_for_inference

BITS = "bits_per_character"
Number = TypeVar("Number", float, Tensor)


@dataclass(frozen=True)
class SequenceEvaluation:
    """Metrics of one model over `examples` of `unit` ("windows" or "signals").

    details: for signals, the confidence interval of the error and the majority class. errors:
    always empty, since a file is either read completely or refused; for compatibility with other
    evaluations.
    """

    metrics: dict[str, float]
    examples: int
    unit: str
    protocol: str
    details: dict[str, Any] = field(default_factory=dict)
    errors: tuple[str, ...] = ()

    def __str__(self) -> str:
        return describe_metrics(self.metrics, self.protocol)

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        values = asdict(self)
        return values.pop("metrics") | values.pop("details") | values


def evaluate_sequences(
    weights: Sequence[str | SequenceModel],
    data: str | None,
    split: Literal["test", "val", "train"],
    *,
    out: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    quiet: bool = False,
) -> SequenceEvaluation:
    """Evaluate a model of text or signals on a split of its own data, or on all of `data`.

    A loaded model is copied. Raises ConfigError for several models, and DataError for data that do
    not fit the model.
    """
    if len(weights) > 1:
        raise ConfigError("ensembles of models of text or signals are not supported; name one")
    (one,) = weights
    model = load_sequence_model(one) if isinstance(one, str) else copy_for_inference(one)
    recipe = model.recipe
    part: Windows
    if data is not None and recipe.task == "text":
        part = TextWindows(encode(read_text(data), model.classes, data), recipe.transformer.context)
        if not len(part):
            raise DataError(f"{data}: is shorter than a window of {part.context} characters")
        description = f"{Path(data).name} whole"
    else:
        spec = recipe.data
        if data is not None:  # all of it is evaluated
            spec = dataclasses.replace(spec, source=data, val_fraction=0.0, test_fraction=0.0)
        opened = open_sequences(dataclasses.replace(recipe, data=spec))
        role = split if data is None else "train"
        if data is not None and opened.classes != model.classes:
            raise DataError(f"{data}: has classes {opened.classes}, the model {model.classes}")
        if role not in opened.splits:
            raise DataError(f"{spec.source}: the run has no {split} split")
        part = opened.splits[role]
        description = f"{opened.name} {role if data is None else 'whole'}"
        if not quiet:
            announce(opened)
    if data is not None and split != "test":
        raise ConfigError("--split: selects a split of the run's own data; omit it with --data")
    target = environment.pick_device(device)
    chosen = pick_precision(recipe.precision if precision == "auto" else precision, target)
    size = recipe.eval.batch_size
    evaluation = evaluate_windows(
        model.to(target), part, model.classes, target, chosen, size, model.origin, description
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        dump_json(evaluation.to_json(), out / "evaluation.json")
    return evaluation


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of characters, in nats: logits (B, T, K), targets (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def nats_to_bits(nats: Number) -> Number:
    """Convert nats to bits."""
    return nats / math.log(2)


def evaluate_windows(
    model: nn.Module,
    windows: Windows,
    classes: tuple[str, ...],
    device: torch.device,
    precision: str,
    batch_size: int,
    weights: str,
    description: str,
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
) -> SequenceEvaluation:
    """Evaluate `model` on `windows`, each once: loss in nats and bits per character, or errors.

    weights, description: the model and the data, for the protocol.
    """

    def scores() -> Any:
        for batch in window_batches(windows, batch_size, device, group):
            with autocast(device, precision):
                logits = model(batch.images)
            yield logits.float(), batch.targets

    count = len(windows)
    with eval_mode(model), torch.inference_mode():
        if isinstance(windows, TextWindows):
            wide = accumulator_dtype(device)
            total = torch.zeros((), dtype=wide, device=device)
            for logits, targets in scores():
                total += cross_entropy(logits, targets).to(wide) * len(targets)
            loss = group.sum({"loss": total.item()})["loss"] / count
            how = f"non-overlapping windows of {windows.context} characters, {precision}, {weights}"
            protocol = f"{how}, {description}, {count * windows.context:,} characters"
            return SequenceEvaluation(
                {BITS: nats_to_bits(loss), "loss": loss}, count, "windows", protocol
            )
        assert isinstance(windows, Signals)
        shape = " x ".join(map(str, windows.values.shape[1:]))
        protocol = f"{shape} (channels x steps), {precision}, {weights}"
        evaluation = evaluate_scores(
            scores(),
            classes,
            protocol=f"{protocol}, {description}, {count:,} signals",
            device=device,
        )
    names = ("top1_error", "balanced_error", "macro_f1", "loss")
    metrics = {name: value for name, value in evaluation.metrics.items() if name in names}
    details = {name: evaluation.to_json()[name] for name in ("top1_interval", "majority_class")}
    return SequenceEvaluation(metrics, count, "signals", evaluation.protocol, details)
