"""Evaluate a classifier: batches in, metrics with their protocol out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnets.config import SOFTMAX, Postprocess
from resnets.data.batch import Batch
from resnets.evaluate.metrics.multiclass import (
    ClassificationMeter,
    ClassificationSums,
    ClassMetrics,
    class_metrics,
)
from resnets.evaluate.metrics.multilabel import MultilabelEvaluation, MultilabelMeter
from resnets.evaluate.views import compute_logits
from resnets.models.block_config import eval_mode
from resnets.utils.printable import printable

TOP_K = 5  # up to this number of classes a top-5 error is meaningless


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics of one model on one split.

    top1_error, top5_error: percent; top5_error is None for five classes or fewer. loss: mean
    cross-entropy in nats. calibration_error: expected calibration error in 0..1;
    calibration_error_equal_mass over bins of equally many images. protocol: views, resolution,
    precision, weights and data of the metrics. sums: the sums they are computed from, with the
    confusion matrix and further metrics, such as `sums.balanced_error`.
    """

    classes: tuple[str, ...]
    top1_error: float
    top5_error: float | None
    loss: float
    calibration_error: float
    calibration_error_equal_mass: float
    examples: int
    protocol: str
    per_class: tuple[ClassMetrics, ...]
    sums: ClassificationSums = field(repr=False)

    @property
    def confusion(self) -> np.ndarray:
        """(K, K) counts; rows are the true class, columns the predicted one."""
        return self.sums.confusion

    error_name = "top-1 error"

    @property
    def error(self) -> float:
        """The top-1 error, by which checkpoints are chosen."""
        return self.top1_error

    @property
    def metrics(self) -> dict[str, float]:
        """The errors and the loss by name; without a top-5 error if there is none."""
        values = {
            "top1_error": self.top1_error,
            "balanced_error": self.sums.balanced_error,
            "top5_error": self.top5_error,
            "macro_f1": self.sums.macro_f1,
            "majority_error": self.sums.majority_error,
            "loss": self.loss,
            "calibration_error": self.calibration_error,
            "calibration_error_equal_mass": self.calibration_error_equal_mass,
        }
        return {name: value for name, value in values.items() if value is not None}

    @property
    def majority_class(self) -> str:
        """The class with the most examples."""
        return self.classes[int(self.confusion.sum(1).argmax())]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings that the model may not have learned anything."""
        low, high = self.sums.top1_interval
        if not 0 < self.sums.majority_error <= high:
            return ()
        worse = self.top1_error >= self.sums.majority_error
        return (
            f"{'no' if worse else 'not clearly'} better than always predicting"
            f" {printable(self.majority_class)!r}: that has"
            f" {self.sums.majority_error:.2f}% top-1 error on these {self.examples:,} images, the"
            f" model {self.top1_error:.2f}% (95% interval {low:.1f} to {high:.1f}%), and"
            f" {self.sums.balanced_error:.2f}% balanced error",
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; metrics that are not finite become None."""
        return {
            **{name: _none_if_infinite(value) for name, value in self.metrics.items()},
            "top1_interval": list(self.sums.top1_interval),
            "majority_class": self.majority_class,
            "examples": self.examples,
            "protocol": self.protocol,
            "per_class": [
                {("class" if key == "name" else key): value for key, value in asdict(row).items()}
                for row in self.per_class
            ],
            "confusion": self.confusion.tolist(),
        }


AnyEvaluation = Evaluation | MultilabelEvaluation


def describe_metrics(metrics: Mapping[str, float], protocol: str) -> str:
    """Describe the main metrics of a result of `resnets.evaluate` in one line, with the protocol.

    >>> describe_metrics({"top1_error": 1.5, "loss": 0.25}, "1 view")
    'top-1 error 1.50%, loss 0.2500 (1 view)'
    """
    from resnets.report.run import METRICS, format_metric  # deferred: imports matplotlib

    known = [
        f"{title} {format_metric(name, metrics[name])}"
        for name, title in METRICS.items()
        if name in metrics
    ]
    return f"{', '.join(known) or 'no metrics'} ({printable(protocol)})"


def note_unreadable(evaluation: AnyEvaluation, count: int) -> AnyEvaluation:
    """Add the number of unreadable images, if any, to the protocol."""
    if not count:
        return evaluation
    protocol = f"{evaluation.protocol}, {count:,} unreadable skipped"
    return replace(evaluation, protocol=protocol)


def evaluate_model(
    model: nn.Module,
    batches: Iterable[Batch],
    classes: tuple[str, ...],
    *,
    protocol: str,
    precision: str,
    device: torch.device,
    postprocess: Postprocess = SOFTMAX,
    observe: Callable[[Batch, Tensor], None] | None = None,
) -> AnyEvaluation:
    """Compute the metrics of `model` over `batches`, with one view of each image.

    batches: images (B, C, H, W) on `device` and targets in the order of `classes`: (B,), or (B, K)
    if `postprocess` is for multi-label data. precision: as `pick_precision` returns it. observe:
    called with each batch and its logits (B, K). The model computes in eval mode; afterwards every
    module gets its own mode back. Raises ValueError if there are no examples.
    """

    def scores() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches:
            assert isinstance(batch.images, Tensor)
            assert isinstance(batch.targets, Tensor)
            logits = compute_logits(model, batch.images, precision=precision)
            if observe is not None:
                observe(batch, logits)
            yield logits, batch.targets

    with eval_mode(model), torch.inference_mode():
        return evaluate_scores(
            scores(), classes, protocol=protocol, device=device, postprocess=postprocess
        )


def evaluate_scores(
    scores: Iterable[tuple[Tensor, Tensor]],
    classes: tuple[str, ...],
    *,
    protocol: str,
    device: torch.device,
    postprocess: Postprocess = SOFTMAX,
) -> AnyEvaluation:
    """Compute the metrics of logits (B, K) and targets (B,) on `device`, over all processes.

    Targets are (B, K) if `postprocess` is for multi-label data. Loss and calibration errors are
    those at its temperature. Raises ValueError if there are no examples.
    """
    temperature = postprocess.temperature
    if temperature != 1.0:
        protocol = f"{protocol}, temperature {temperature:.3g}"
    if postprocess.multilabel:
        labels = MultilabelMeter()
        for logits, targets in scores:
            labels.update(logits, targets)
        return labels.evaluation(classes, protocol, postprocess)
    meter = ClassificationMeter(len(classes), device)
    for logits, targets in scores:
        meter.update(logits if temperature == 1.0 else logits / temperature, targets)
    sums = meter.sums()
    if not sums.examples:
        raise ValueError(f"nothing to evaluate: no examples ({protocol})")
    return Evaluation(
        classes=classes,
        top1_error=sums.top1_error,
        top5_error=sums.top5_error if len(classes) > TOP_K else None,
        loss=sums.loss / sums.examples,
        calibration_error=sums.calibration_error,
        calibration_error_equal_mass=sums.calibration_error_equal_mass,
        examples=sums.examples,
        protocol=protocol,
        per_class=class_metrics(sums.confusion, classes),
        sums=sums,
    )


def describe_protocol(*, size: int, precision: str, weights: str, data: str) -> str:
    """Describe in one line how metrics of one view per image were measured.

    >>> describe_protocol(size=32, precision="bfloat16", weights="best.safetensors (step 9)",
    ...     data="cifar10.tar.xz test, 10,000 images")
    '1 view, 32x32 px, bfloat16, best.safetensors (step 9), cifar10.tar.xz test, 10,000 images'
    """
    return f"1 view, {size}x{size} px, {precision}, {weights}, {data}"


def _none_if_infinite(value: float) -> float | None:
    return value if math.isfinite(value) else None
