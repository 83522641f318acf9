"""Probabilities and decisions from logits, for predictions, bulk shards and the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.config import Postprocess

Scores = NDArray[np.float32]


def probabilities(logits: Scores, spec: Postprocess) -> Scores:
    """Return probabilities (B, K) of logits (B, K); rows that are not finite become NaN."""
    finite = np.isfinite(logits).all(1, keepdims=True)
    logits = np.where(finite, logits, np.float32("nan"))  # a softmax would hide -inf
    if spec.temperature != 1.0:
        logits = logits / np.float32(spec.temperature)
    if spec.multilabel:
        small = np.exp(-np.abs(logits))  # cannot overflow
        sigmoid: Scores = np.where(logits >= 0, 1, small) / (1 + small)
        return sigmoid.astype(np.float32)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    scores: Scores = exponentials / exponentials.sum(1, keepdims=True)
    return scores


def known_scores(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return the logsumexp (B,) of logits (B, K), the negative energy (Liu et al. 2020, eq. 4).

    It is high for images similar to the training images, and does not depend on the temperature.
    """
    wide = logits.astype(np.float64)
    highest = wide.max(1, keepdims=True)
    scores: NDArray[np.float64] = highest[:, 0] + np.log(np.exp(wide - highest).sum(1))
    return scores


@dataclass(frozen=True, eq=False)
class Decision:
    """The decision about one image.

    probabilities: (K,). labels: its classes, if an image may have any set of them; None if it has
    one. unknown: whether it belongs to no class; None if no threshold was fitted.
    """

    probabilities: Scores
    labels: tuple[int, ...] | None = None
    unknown: bool | None = None

    def top(self, count: int) -> list[int]:
        """Return the `count` most probable classes, highest first; of equal ones the first."""
        order: list[int] = np.argsort(-self.probabilities, kind="stable")[:count].tolist()
        return order

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return `labels` by name and `unknown`, unless they are None."""
        values: dict[str, Any] = {}
        if self.labels is not None:
            values["labels"] = tuple(classes[number] for number in self.labels)
        if self.unknown is not None:
            values["unknown"] = self.unknown
        return values


def decide(logits: Scores, spec: Postprocess) -> list[Decision]:
    """Return a decision for each row of logits (B, K); NaN probabilities if it is not finite."""
    scores = probabilities(logits, spec)
    unknown: list[bool | None] = [None] * len(logits)
    if spec.min_score is not None:
        unknown = (known_scores(logits) < spec.min_score).tolist()
    labels: list[tuple[int, ...] | None] = [None] * len(logits)
    if spec.multilabel:
        chosen = scores >= np.array(spec.thresholds, np.float32)
        labels = [tuple(np.flatnonzero(row).tolist()) for row in chosen]
    return [Decision(*each) for each in zip(scores, labels, unknown, strict=True)]
