"""Measure a classifier: batches in, figures with their protocol out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnets.data.batch import Batch
from resnets.evaluate.metrics import ClassFigures, ClassificationMeter, Sums, class_figures
from resnets.evaluate.views.views import logits_of

TOP = 5  # of so few classes a top-5 error says nothing


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of one net on one split.

    top1_error, top5_error: percent; of five classes or fewer there is no top-5, which is then None.
    loss: mean cross-entropy in nats. calibration_error: expected calibration error in 0..1.
    protocol: views, resolution, precision, weights and data the figures came from.
    sums: what the figures were made of, among it the confusion matrix.
    """

    classes: tuple[str, ...]
    top1_error: float
    top5_error: float | None
    loss: float
    calibration_error: float
    examples: int
    protocol: str
    per_class: tuple[ClassFigures, ...]
    sums: Sums = field(repr=False)

    @property
    def confusion(self) -> np.ndarray:
        """(K, K) examples; rows the true class, columns the predicted one."""
        return self.sums.confusion

    @property
    def figures(self) -> dict[str, float]:
        """The errors and the loss by name; without a top-5 error where there is none."""
        names = ("top1_error", "top5_error", "loss", "calibration_error")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def leaving_out(self, count: int) -> Evaluation:
        """The same, with the protocol naming how many unreadable pictures it did not count."""
        if not count:
            return self
        return replace(self, protocol=f"{self.protocol}, {count:,} unreadable left out")

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; figures that are no number (NaN, infinite) become None."""
        return {
            **{name: _finite(value) for name, value in self.figures.items()},
            "examples": self.examples,
            "protocol": self.protocol,
            "per_class": [
                {("class" if key == "name" else key): value for key, value in asdict(row).items()}
                for row in self.per_class
            ],
            "confusion": self.confusion.tolist(),
        }


def evaluate_model(
    model: nn.Module,
    batches: Iterable[Batch],
    classes: tuple[str, ...],
    *,
    protocol: str,
    precision: str,
    device: torch.device,
) -> Evaluation:
    """Figures of `model` over `batches`, one view of each picture, each counted once.

    `batches` hold images (B, C, H, W) on `device` and targets (B,) in the order of `classes`.
    `precision` is "float32" or "bfloat16" (autocast). The model computes in eval mode and every
    module gets its own mode back. Raises ValueError when there is no example.
    """

    def scores() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches:
            assert isinstance(batch.images, Tensor)
            assert isinstance(batch.targets, Tensor)
            yield logits_of(model, batch.images, precision=precision), batch.targets

    with _eval_mode(model), torch.inference_mode():
        return evaluate_scores(scores(), classes, protocol=protocol, device=device)


def evaluate_scores(
    scores: Iterable[tuple[Tensor, Tensor]],
    classes: tuple[str, ...],
    *,
    protocol: str,
    device: torch.device,
) -> Evaluation:
    """Figures of logits (B, K) with their targets (B,), on `device`, summed over all processes.

    Raises ValueError when there is no example.
    """
    meter = ClassificationMeter(len(classes), device)
    for logits, targets in scores:
        meter.update(logits, targets)
    sums = meter.sums()
    if not sums.examples:
        raise ValueError(f"nothing to evaluate: no examples ({protocol})")
    return Evaluation(
        classes=classes,
        top1_error=sums.top1_error,
        top5_error=sums.top5_error if len(classes) > TOP else None,
        loss=sums.loss / sums.examples,
        calibration_error=sums.calibration_error,
        examples=sums.examples,
        protocol=protocol,
        per_class=class_figures(sums.confusion, classes),
        sums=sums,
    )


def describe_protocol(
    *, size: int, precision: str, weights: str, data: str, views: str = "1 view"
) -> str:
    """The sentence that travels with each figure.

    >>> describe_protocol(size=32, precision="bfloat16", weights="best.safetensors (step 9)",
    ...     data="cifar10.tar.xz test, 10,000 pictures")
    '1 view, 32x32 px, bfloat16, best.safetensors (step 9), cifar10.tar.xz test, 10,000 pictures'
    """
    return f"{views}, {size}x{size} px, {precision}, {weights}, {data}"


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode and give each module its mode back (some may have been frozen)."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
