"""Fit `Postprocess` on validation: temperature, thresholds of labels, and the score of "unknown".

The result is a pure function of the validation logits and labels, computed in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from resnets.config import Postprocess
from resnets.evaluate.metrics.multiclass import calibration_error, equal_mass_error, f1_thresholds
from resnets.evaluate.postprocess import known_scores, probabilities

MIN_IMAGES = 50  # of validation, to fit anything
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
STEPS = 60  # of the search; each reduces the interval to 0.62 of it
RECALL = 0.95  # fraction of the validation images that are not "unknown"


@dataclass(frozen=True)
class Calibration:
    """`postprocess` as fitted on `images` validation images, and the metrics before and after.

    before, after: "loss" (nats), "calibration_error" and "calibration_error_equal_mass" (0..1) on
    these images, at temperature 1 and at the fitted one. note: why something was not fitted; empty
    otherwise.
    """

    postprocess: Postprocess
    images: int
    before: dict[str, float]
    after: dict[str, float]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values for result.json."""
        spec = self.postprocess
        values: dict[str, Any] = {
            "images": self.images,
            "temperature": spec.temperature,
            "before": self.before,
            "after": self.after,
        }
        if spec.min_score is not None:
            values |= {"min_score": spec.min_score, "recall": RECALL}
        return values | ({"note": self.note} if self.note else {})


def calibrate(logits: Tensor, targets: Tensor, spec: Postprocess) -> Calibration:
    """Fit `spec` to validation logits (N, K) with targets (N,) or (N, K).

    Temperature: the one that minimizes the loss (Guo et al. 2017, section 4.2), by a search over
    its logarithm, along which the loss has one minimum. It stays 1 for fewer than `MIN_IMAGES`
    images, and if all predictions are correct, since then no temperature is the best. Thresholds
    of labels: see `metrics.f1_thresholds`. min_score: the 5% quantile of the images' scores.
    """
    wide = logits.double()
    note = ""
    if len(wide) < MIN_IMAGES:
        note = (
            "temperature and thresholds are not fitted: fewer than"
            f" {MIN_IMAGES} validation images ({len(wide)})"
        )
    elif _all_correct(wide, targets):
        note = "temperature stays 1: no validation image is predicted wrong"
    else:
        spec = replace(spec, temperature=_fit_temperature(wide, targets))
    if spec.multilabel:
        thresholds = (0.5,) * wide.shape[1]
        if len(wide) >= MIN_IMAGES:
            scores = probabilities(logits.numpy(), spec)
            thresholds = f1_thresholds(scores, targets.numpy())
        spec = replace(spec, thresholds=thresholds)
    elif len(wide) >= MIN_IMAGES:
        lowest = np.quantile(known_scores(logits.numpy()), 1 - RECALL, method="lower")
        spec = replace(spec, min_score=float(lowest))
    before = _compute_metrics(logits, targets, replace(spec, temperature=1.0))
    return Calibration(spec, len(wide), before, _compute_metrics(logits, targets, spec), note)


def _loss(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> float:
    """Return the mean loss in nats: of the softmax, or of the sigmoids over all labels."""
    scaled = logits.double() / temperature
    if targets.ndim == 2:
        return float(F.binary_cross_entropy_with_logits(scaled, targets.double()))
    return float(F.cross_entropy(scaled, targets))


def _all_correct(logits: Tensor, targets: Tensor) -> bool:
    if targets.ndim == 2:
        return bool(((logits > 0) == (targets > 0)).all())
    return bool((logits.argmax(1) == targets).all())


def _fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """Minimize the loss over the logarithm of the temperature by golden-section search."""
    ratio = (5**0.5 - 1) / 2
    low, high = float(np.log(MIN_TEMPERATURE)), float(np.log(MAX_TEMPERATURE))
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    losses = [_loss(logits, targets, float(np.exp(each))) for each in inner]
    for _ in range(STEPS):
        if losses[0] <= losses[1]:
            high, inner[1], losses[1] = inner[1], inner[0], losses[0]
            inner[0] = high - ratio * (high - low)
            losses[0] = _loss(logits, targets, float(np.exp(inner[0])))
        else:
            low, inner[0], losses[0] = inner[0], inner[1], losses[1]
            inner[1] = low + ratio * (high - low)
            losses[1] = _loss(logits, targets, float(np.exp(inner[1])))
    return round(float(np.exp((low + high) / 2)), 6)


def _compute_metrics(logits: Tensor, targets: Tensor, spec: Postprocess) -> dict[str, float]:
    confidence, hits = confidences(probabilities(logits.numpy(), spec), targets.numpy())
    return {
        "loss": _loss(logits, targets, spec.temperature),
        "calibration_error": calibration_error(confidence, hits),
        "calibration_error_equal_mass": equal_mass_error(confidence, hits),
    }


def confidences(
    scores: NDArray[np.float32], targets: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return predicted probabilities, and whether each prediction is correct.

    For one class per image they are the highest ones, (N,); for multi-label data all, (N K,).
    """
    if targets.ndim == 2:
        return scores.reshape(-1).astype(np.float64), targets.reshape(-1) > 0
    return scores.max(1).astype(np.float64), scores.argmax(1) == targets
