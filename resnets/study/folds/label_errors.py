"""Likely label errors by confident learning (Northcutt et al. 2021), with the library cleanlab."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resnets.study.folds.predictions import Predictions
from resnets.utils.imports import require_package


@dataclass(frozen=True)
class LabelIssue:
    """An image whose label is likely wrong.

    row: its place in the predictions. score: the probability of its label, by a network that did
    not see it; the lowest are the surest. label, suggested: names of classes.
    """

    row: int
    path: str
    label: str
    suggested: str
    score: float
    probability: float


def find_label_issues(found: Predictions) -> list[LabelIssue]:
    """Images whose labels are likely wrong, the surest first.

    An image counts where the joint distribution of given and true labels, estimated from the
    predictions, says that so many of its class are of another (cleanlab's "prune by noise rate").
    ConfigError where cleanlab is not installed.
    """
    require_package("cleanlab", "finding label errors", "check")
    from cleanlab.filter import find_label_issues as find

    scores = found.probabilities.astype(np.float64)
    scores /= scores.sum(1, keepdims=True)
    rows: Sequence[int] = find(
        found.labels, scores, return_indices_ranked_by="self_confidence", n_jobs=1
    ).tolist()
    return [
        LabelIssue(
            row,
            found.paths[row],
            found.classes[found.labels[row]],
            found.classes[predicted],
            float(scores[row, found.labels[row]]),
            float(scores[row, predicted]),
        )
        for row in rows
        if (predicted := int(scores[row].argmax())) != found.labels[row]
    ]
