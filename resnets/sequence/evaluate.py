"""`resnets.evaluate` of models of sequences."""

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
from resnets.evaluate.evaluation import evaluate_scores
from resnets.models.block_config import eval_mode
from resnets.sequence.load import load, open_sequences
from resnets.sequence.signals import Signals
from resnets.sequence.text import TextWindows, encode, read_text
from resnets.sequence.windows import Windows, window_batches
from resnets.utils import environment
from resnets.utils.distributed import ProcessGroup
from resnets.utils.precision import autocast, pick_precision

BITS = "bits_per_character"
Number = TypeVar("Number", float, Tensor)


@dataclass(frozen=True)
class Measured:
    """Metrics of one model by name over `examples`, which are `unit` ("windows", "signals").

    details: of signals the interval of the error, and the largest class.
    """

    metrics: dict[str, float]
    examples: int
    unit: str
    protocol: str
    details: dict[str, Any] = field(default_factory=dict)
    errors: tuple[str, ...] = ()  # as other evaluations; a file is read whole or not at all

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = asdict(self)
        return found.pop("metrics") | found.pop("details") | found


def evaluate_sequences(
    weights: Sequence[str],
    data: str | None,
    split: Literal["test", "val", "train"],
    *,
    out: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    quiet: bool = False,
) -> Measured:
    """Measure a model of text or signals on a part of its own data, or on all of `data`.

    Raises ConfigError for several models, and DataError for data that do not fit the model.
    """
    if len(weights) > 1:
        raise ConfigError("models of text and signals form no ensembles; name one")
    model = load(weights[0])
    recipe = model.recipe
    part: Windows
    if data is not None and recipe.task == "text":
        part = TextWindows(encode(read_text(data), model.classes, data), recipe.transformer.context)
        if not len(part):
            raise DataError(f"{data}: is shorter than a window of {part.context} characters")
        about = f"{Path(data).name} whole"
    else:
        spec = recipe.data
        if data is not None:  # all of it is test
            spec = dataclasses.replace(spec, source=data, val_fraction=0.0, test_fraction=0.0)
        found = open_sequences(dataclasses.replace(recipe, data=spec))
        role = split if data is None else "train"
        if data is not None and found.classes != model.classes:
            raise DataError(f"{data}: has classes {found.classes}, the model {model.classes}")
        if role not in found.parts:
            raise DataError(f"{spec.source}: the run has no {split} split")
        part, about = found.parts[role], f"{found.name} {role if data is None else 'whole'}"
        if not quiet:
            announce(found)
    if data is not None and split != "test":
        raise ConfigError("--split: is of the run's own data; leave it out with --data")
    target = environment.pick_device(device)
    chosen = pick_precision(recipe.precision if precision == "auto" else precision, target)
    size = recipe.eval.batch_size
    measured = measure_part(
        model.to(target), part, model.classes, target, chosen, size, model.origin, about
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        dump_json(measured.to_json(), out / "evaluation.json")
    return measured


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over all characters, in nats: logits (B, T, K), targets (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def bits(nats: Number) -> Number:
    """The same quantity in bits."""
    return nats / math.log(2)


def measure_part(
    model: nn.Module,
    part: Windows,
    classes: tuple[str, ...],
    device: torch.device,
    precision: str,
    batch_size: int,
    weights: str,
    about: str,
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
) -> Measured:
    """Metrics over `part`, each window once: loss in nats and bits per character, or errors."""

    def scores() -> Any:
        for batch in window_batches(part, batch_size, device, group):
            with autocast(device, precision):
                logits = model(batch.images)
            yield logits.float(), batch.targets

    count = len(part)
    with eval_mode(model), torch.inference_mode():
        if isinstance(part, TextWindows):
            total = sum(
                cross_entropy(logits, targets).item() * len(targets) for logits, targets in scores()
            )
            loss = group.sum({"loss": total})["loss"] / count
            how = f"windows of {part.context} characters side by side, {precision}, {weights}"
            protocol = f"{how}, {about}, {count * part.context:,} characters"
            return Measured({BITS: bits(loss), "loss": loss}, count, "windows", protocol)
        assert isinstance(part, Signals)
        shape = " x ".join(map(str, part.values.shape[1:]))
        protocol = f"{shape} (channels x steps), {precision}, {weights}"
        found = evaluate_scores(
            scores(),
            classes,
            protocol=f"{protocol}, {about}, {count:,} signals",
            device=device,
        )
    names = ("top1_error", "balanced_error", "macro_f1", "loss")
    metrics = {name: value for name, value in found.metrics.items() if name in names}
    details = {name: found.to_json()[name] for name in ("top1_interval", "majority_class")}
    return Measured(metrics, count, "signals", found.protocol, details)
