"""Metrics of multilabel classifiers, for images with any number of labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from resnets.config import Postprocess
from resnets.evaluate.metrics.multiclass import (
    ClassMetrics,
    average_precision,
    calibration_error,
    equal_mass_error,
    gather_rows,
)
from resnets.evaluate.postprocess import probabilities


@dataclass(frozen=True)
class LabelMetrics(ClassMetrics):
    """Metrics of one label at its threshold, with its average precision in 0..1.

    examples: images that have it. average_precision: None if no image has it.
    """

    average_precision: float | None
    threshold: float


@dataclass(frozen=True, eq=False)
class LabelScores:
    """Probabilities (N, K) float32 and targets (N, K), 0 or 1, of N images."""

    scores: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True, eq=False)
class MultilabelEvaluation:
    """Metrics of one model on one split of images with several labels.

    mAP: [percent] mean of the labels' average precision, over those that an image has.
    macro_f1: [percent] mean of the labels' F1, over those that an image has. micro_f1: [percent] F1
    of all decisions together. loss: mean binary cross-entropy per label in nats. calibration_error:
    of the probabilities of all labels, in 0..1, over 15 equal bins; calibration_error_equal_mass
    over 15 bins of equally many. protocol: views, resolution, precision, weights and data.
    """

    classes: tuple[str, ...]
    mAP: float  # noqa: N815 (as the literature writes it)
    macro_f1: float
    micro_f1: float
    loss: float
    calibration_error: float
    calibration_error_equal_mass: float
    examples: int
    protocol: str
    per_class: tuple[LabelMetrics, ...]
    sums: LabelScores = field(repr=False)

    error_name = "100 - mAP"
    warnings: ClassVar[tuple[str, ...]] = ()

    @property
    def error(self) -> float:
        """100 - mAP, by which checkpoints are chosen."""
        return 100 - self.mAP

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics over all labels by name."""
        calibration = ("calibration_error", "calibration_error_equal_mass")
        names = ("mAP", "macro_f1", "micro_f1", "loss", *calibration)
        return {name: getattr(self, name) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; metrics that are not finite become None."""
        return {
            **{key: value if np.isfinite(value) else None for key, value in self.metrics.items()},
            "examples": self.examples,
            "protocol": self.protocol,
            "per_class": [
                {
                    "class": row.name,
                    "examples": row.examples,
                    "average_precision": row.average_precision,
                    "threshold": row.threshold,
                    "precision": row.precision,
                    "recall": row.recall,
                    "f1": row.f1,
                }
                for row in self.per_class
            ],
        }


class MultilabelMeter:
    """Collects logits and targets (B, K), of all processes; 5 bytes for each image and label.

    They stay on their device until `evaluation`, so that no batch waits for it.
    """

    def __init__(self) -> None:
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: `logits` (B, K) float32, `targets` (B, K) of 0 and 1."""
        self._logits.append(logits)
        self._targets.append(targets.to(torch.uint8))

    def evaluation(
        self, classes: tuple[str, ...], protocol: str, spec: Postprocess
    ) -> MultilabelEvaluation:
        """Compute the metrics of all examples so far; each process must call this.

        Raises ValueError if there are no examples, or none of them has a label.
        """
        logits, targets = gather_rows(self._logits), gather_rows(self._targets)
        if not len(logits):
            raise ValueError(f"nothing to evaluate: no examples ({protocol})")
        if not targets.any():
            raise ValueError(f"nothing to evaluate: no example has a label ({protocol})")
        scores = probabilities(logits, spec)
        rows = _label_metrics(scores, targets, classes, spec)
        chosen = scores >= np.array(spec.thresholds, np.float32)
        hits = int((chosen & (targets > 0)).sum())
        known = [row for row in rows if row.examples]
        scaled = torch.from_numpy(logits).double() / spec.temperature
        loss = F.binary_cross_entropy_with_logits(scaled, torch.from_numpy(targets).double())
        flat = scores.reshape(-1).astype(np.float64), targets.reshape(-1) > 0
        return MultilabelEvaluation(
            classes,
            mAP=100 * _mean([row.average_precision for row in known]),
            macro_f1=100 * _mean([row.f1 for row in known]),
            micro_f1=100 * 2 * hits / (int(chosen.sum()) + int(targets.sum())),
            loss=float(loss),
            calibration_error=calibration_error(*flat),
            calibration_error_equal_mass=equal_mass_error(*flat),
            examples=len(logits),
            protocol=protocol,
            per_class=rows,
            sums=LabelScores(scores, targets),
        )


def _label_metrics(
    scores: np.ndarray, targets: np.ndarray, classes: tuple[str, ...], spec: Postprocess
) -> tuple[LabelMetrics, ...]:
    rows = []
    for index, name in enumerate(classes):
        truth, threshold = targets[:, index] > 0, spec.thresholds[index]
        chosen = scores[:, index] >= np.float32(threshold)
        hits, predicted, true = int((chosen & truth).sum()), int(chosen.sum()), int(truth.sum())
        rows.append(
            LabelMetrics(
                name,
                examples=true,
                precision=hits / predicted if predicted else None,
                recall=hits / true if true else None,
                f1=2 * hits / (predicted + true) if predicted + true else None,
                average_precision=average_precision(scores[:, index], truth),
                threshold=threshold,
            )
        )
    return tuple(rows)


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
