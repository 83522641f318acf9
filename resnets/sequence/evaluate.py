"""`resnets.evaluate` of a model of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from resnets.config import ConfigError, dump_json
from resnets.data.dataset.summary import announce
from resnets.data.errors import DataError
from resnets.models.block_config import eval_mode
from resnets.sequence.load import load
from resnets.sequence.text import TextWindows, encode, open_text, read_text
from resnets.sequence.windows import window_batches
from resnets.utils import environment
from resnets.utils.distributed import ProcessGroup
from resnets.utils.precision import autocast, pick_precision

BITS = "bits_per_character"
Number = TypeVar("Number", float, Tensor)


@dataclass(frozen=True)
class TextEvaluation:
    """Metrics of one model of text: loss in nats per character, over `examples` windows."""

    bits_per_character: float
    loss: float
    examples: int
    protocol: str
    errors: tuple[str, ...] = ()  # as other evaluations; a text is read whole or not at all

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def evaluate_text(
    weights: Sequence[str],
    data: str | None,
    split: Literal["test", "val", "train"],
    *,
    out: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    quiet: bool = False,
) -> TextEvaluation:
    """Measure a model of text on a part of its own text, or on all of another one, `data`.

    Raises ConfigError for several models, and DataError for characters that it does not know.
    """
    if len(weights) > 1:
        raise ConfigError("models of text form no ensembles; name one")
    model = load(weights[0])
    recipe, context = model.recipe, model.spec.context
    if data is None:
        text = open_text(recipe.data, context)
        if split not in text.parts:
            raise DataError(f"{recipe.data.source}: the run has no {split} split")
        part, name, role = text.parts[split], text.name, split
        if not quiet:
            announce(text)
    else:
        if split != "test":
            raise ConfigError("--split: is of the run's own text; leave it out with --data")
        part = TextWindows(encode(read_text(data), model.classes, data), context)
        if not len(part):
            raise DataError(f"{data}: is shorter than a window of {context} characters")
        name, role = Path(data).name, "whole"
    target = environment.pick_device(device)
    chosen = pick_precision(recipe.precision if precision == "auto" else precision, target)
    metrics = measure(model.to(target), part, target, chosen, recipe.eval.batch_size)
    protocol = describe(part, chosen, model.origin, name, role)
    found = TextEvaluation(metrics["bits_per_character"], metrics["loss"], len(part), protocol)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        dump_json(found.to_json(), out / "evaluation.json")
    return found


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over all characters, in nats: logits (B, T, K), targets (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def bits(nats: Number) -> Number:
    """The same quantity in bits."""
    return nats / math.log(2)


def measure(
    model: nn.Module,
    part: TextWindows,
    device: torch.device,
    precision: str,
    batch_size: int,
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
) -> dict[str, float]:
    """Loss in nats and bits per character over windows side by side, each character once."""
    total, count = 0.0, 0
    with eval_mode(model), torch.inference_mode():
        for batch in window_batches(part, batch_size, device, group):
            assert isinstance(batch.targets, Tensor)
            with autocast(device, precision):
                logits = model(batch.images)
            total += cross_entropy(logits.float(), batch.targets).item() * len(batch)
            count += len(batch)
    sums = group.sum({"loss": total, "count": count})
    loss = sums["loss"] / sums["count"]
    return {BITS: bits(loss), "loss": loss}


def describe(part: TextWindows, precision: str, weights: str, name: str, role: str) -> str:
    """The protocol: how metrics were measured, in one line."""
    return (
        f"windows of {part.context} characters side by side, {precision}, {weights}, {name} {role},"
        f" {len(part) * part.context:,} characters"
    )
