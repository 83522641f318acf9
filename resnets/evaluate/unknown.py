"""How well images that are of none of the classes are told from those that are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from resnets.config import ConfigError
from resnets.data import DataError, FileSplit
from resnets.data.splits.all_images import open_unlabeled
from resnets.evaluate.calibrate import RECALL
from resnets.evaluate.ensemble import ScoredBatch
from resnets.evaluate.measure import Scorer
from resnets.evaluate.postprocess import known_scores


@dataclass(frozen=True)
class UnknownMetrics:
    """Images of no class, `unknown`, against those of the measured split, `known`, by their energy.

    auroc: 0..1, the chance that an image of the split has the higher score. false_accepts:
    [percent] unknown images that are taken for known at the threshold that accepts 95% of the
    split. accepted_known, accepted_unknown: [percent] at the threshold stored with the weights;
    None where they have none. errors: one message for each image that could not be read.
    """

    known: int
    unknown: int
    auroc: float
    false_accepts: float
    accepted_known: float | None
    accepted_unknown: float | None
    source: str
    errors: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "errors": list(self.errors)}


def open_unknown(folder: str) -> FileSplit:
    """The images of a folder or archive; DataError where there are none."""
    found = open_unlabeled(folder)
    if found is None:
        raise DataError(f"--unknown {folder}: no folder or archive with images")
    return found


@dataclass
class KnownScores:
    """Collects the scores of the measured split on the way to its metrics."""

    scores: list[np.ndarray] = field(default_factory=list)

    def watch(self, batches: Iterable[ScoredBatch]) -> Iterator[ScoredBatch]:
        """Hand on the batches."""
        for each in batches:
            self.scores.append(known_scores(each.logits.numpy()))
            yield each


def measure_unknown(scorer: Scorer, known: KnownScores, unknown: FileSplit) -> UnknownMetrics:
    """The metrics of `scorer` on the images `unknown`, against those already scored.

    AUROC and false accepts at 95% recall as Liu et al. 2020 (section 4.1) report them. Raises
    ConfigError for sets of labels, whose images may have none, DataError without readable images.
    """
    if scorer.postprocess.multilabel:
        raise ConfigError("--unknown: not for sets of labels, where an image may have none")
    batches = list(scorer.scores(unknown, list(range(len(unknown)))))
    ours = np.concatenate(known.scores)
    theirs = np.concatenate([known_scores(each.logits.numpy()) for each in batches])
    errors = tuple(text for each in batches for _, text in each.errors)
    if not len(theirs):
        raise DataError(f"{unknown.description}: no image can be read, such as {errors[0]}")
    from sklearn.metrics import roc_auc_score  # deferred: slow to import

    truth = np.r_[np.ones(len(ours)), np.zeros(len(theirs))]
    cut = np.quantile(ours, 1 - RECALL, method="lower")
    stored = scorer.postprocess.min_score
    return UnknownMetrics(
        len(ours),
        len(theirs),
        float(roc_auc_score(truth, np.r_[ours, theirs])),
        100 * float((theirs >= cut).mean()),
        None if stored is None else 100 * float((ours >= stored).mean()),
        None if stored is None else 100 * float((theirs >= stored).mean()),
        unknown.description,
        errors,
    )
