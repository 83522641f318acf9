"""Probabilities and decisions from logits, as predictions, bulk shards and the server give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.config import Postprocess

Scores = NDArray[np.float32]


def probabilities(logits: Scores, spec: Postprocess) -> Scores:
    """(B, K) of logits (B, K); rows of "softmax" sum to 1. NaN in rows that are not finite."""
    fine = np.isfinite(logits).all(1, keepdims=True)
    logits = np.where(fine, logits, np.float32("nan"))  # a softmax would hide -inf
    if spec.temperature != 1.0:
        logits = logits / np.float32(spec.temperature)
    if spec.multilabel:
        # Without overflow on either side.
        small = np.exp(-np.abs(logits))
        found: Scores = np.where(logits >= 0, 1, small) / (1 + small)
        return found.astype(np.float32)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    scores: Scores = exponentials / exponentials.sum(1, keepdims=True)
    return scores


def known_scores(logits: NDArray[Any]) -> NDArray[np.float64]:
    """(B,) the logsumexp of logits (B, K): the negative free energy (Liu et al. 2020, eq. 4).

    High for images as those that were trained on. The temperature does not count.
    """
    wide = logits.astype(np.float64)
    highest = wide.max(1, keepdims=True)
    found: NDArray[np.float64] = highest[:, 0] + np.log(np.exp(wide - highest).sum(1))
    return found


@dataclass(frozen=True, eq=False)
class Decision:
    """What is said of one image.

    probabilities: (K,). labels: the classes it has, where it may have any set of them; None where
    it has one. unknown: whether it is of none of the classes; None where no threshold was fitted.
    """

    probabilities: Scores
    labels: tuple[int, ...] | None = None
    unknown: bool | None = None

    def top(self, count: int) -> list[int]:
        """The `count` most probable classes, highest first; of equal ones the first."""
        order: list[int] = np.argsort(-self.probabilities, kind="stable")[:count].tolist()
        return order

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """`labels` by name and `unknown`, where there are such."""
        found: dict[str, Any] = {}
        if self.labels is not None:
            found["labels"] = tuple(classes[number] for number in self.labels)
        if self.unknown is not None:
            found["unknown"] = self.unknown
        return found


def decide(logits: Scores, spec: Postprocess) -> list[Decision]:
    """One decision for each row of logits (B, K); probabilities are NaN where logits are not
    finite."""
    found = probabilities(logits, spec)
    unknown: list[bool | None] = [None] * len(logits)
    if spec.min_score is not None:
        unknown = (known_scores(logits) < spec.min_score).tolist()
    labels: list[tuple[int, ...] | None] = [None] * len(logits)
    if spec.multilabel:
        chosen = found >= np.array(spec.thresholds, np.float32)
        labels = [tuple(np.flatnonzero(row).tolist()) for row in chosen]
    return [Decision(*each) for each in zip(found, labels, unknown, strict=True)]
