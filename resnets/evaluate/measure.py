"""Evaluate an ensemble on a split: metrics with their protocol, mistakes, unreadable images.

`measure_unknown` also measures how well images of no class are told from those of the split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from resnets.config import SOFTMAX, ConfigError, Postprocess
from resnets.data import DataError, FileSplit, Split
from resnets.data.dataset.labels import NO_LABEL, format_label
from resnets.data.splits.all_images import open_unlabeled
from resnets.evaluate.calibrate import RECALL
from resnets.evaluate.data.ground_truth import GroundTruth
from resnets.evaluate.ensemble import ScoredBatch
from resnets.evaluate.evaluation import (
    AnyEvaluation,
    describe_metrics,
    evaluate_scores,
    note_unreadable,
)
from resnets.evaluate.postprocess import known_scores, probabilities
from resnets.evaluate.views import image_name
from resnets.utils.machine.distributed import ProcessGroup

MAX_MISTAKES = 24  # the most confident ones


class Scorer(Protocol):
    """An `Ensemble` or an artifact's runtime, which computes scores of images.

    classes: of its outputs. postprocess: how its logits become predictions.
    """

    classes: tuple[str, ...]
    postprocess: Postprocess

    def scores(
        self, split: Split, rows: Sequence[int], workers: int | None = None
    ) -> Iterator[ScoredBatch]:
        """Yield the scores of all `rows` of `split`, each once."""
        ...

    def protocol(self, names: Sequence[str]) -> str:
        """Describe in one line how scores are computed; `names` are those of the weights."""
        ...


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: image `row` of the split, its class and the predicted one.

    For multi-label data, `true` has the image's labels and `predicted` the most confident wrong
    label ("cat") or missing one ("no cat"); `probability` is that of the wrong decision.
    """

    row: int
    path: str
    true: str
    predicted: str
    probability: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "path": self.path,
            "class": self.true,
            "predicted": self.predicted,
            "probability": self.probability,
        }


@dataclass(frozen=True)
class UnknownMetrics:
    """How well images of no class, `unknown`, are told from the split's, `known`, by energy.

    auroc: [0..1] probability that an image of the split has the higher score. false_accepts:
    [percent] unknown images that are accepted at the threshold that accepts 95% of the split.
    accepted_known, accepted_unknown: [percent] at the threshold stored with the weights, None if
    they have none. errors: one message for each image that could not be read.
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
        """Return plain values for JSON."""
        return {**asdict(self), "errors": list(self.errors)}


@dataclass(frozen=True, eq=False)
class Measurement:
    """An evaluation with the 24 most confident mistakes and the unreadable images.

    errors: one message for each image that could not be read. warnings: those of the split's
    `DataSummary` and of the evaluation. unknown: metrics of images of no class, if requested.
    """

    evaluation: AnyEvaluation
    mistakes: tuple[Mistake, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    unknown: UnknownMetrics | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics by name; those of errors and scores are in percent."""
        return self.evaluation.metrics

    @property
    def examples(self) -> int:
        """Number of images that were evaluated."""
        return self.evaluation.examples

    @property
    def protocol(self) -> str:
        """How they were measured: views, resolution, precision, weights and data."""
        return self.evaluation.protocol

    def __str__(self) -> str:
        return describe_metrics(self.metrics, self.protocol)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON: those of the evaluation, the mistakes and the errors."""
        return {
            **self.evaluation.to_json(),
            "confident_errors": [mistake.to_json() for mistake in self.mistakes],
            "unreadable": list(self.errors),
            "warnings": list(self.warnings),
            **({} if self.unknown is None else {"unknown": self.unknown.to_json()}),
        }


def measure(
    scorer: Scorer,
    split: Split,
    truth: GroundTruth,
    *,
    weights: list[str],
    progress: Callable[[Iterable[ScoredBatch]], Iterable[ScoredBatch]] = iter,
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    workers: int | None = None,
) -> Measurement:
    """Compute the metrics of `scorer` on the images of `split` that have a label.

    weights: names of the members for the protocol. progress: wraps the iteration over batches.
    Images that cannot be read are skipped and listed in `errors`. Raises ValueError if no image is
    left.
    """
    errors: list[tuple[int, str]] = []
    mistakes: list[Mistake] = []

    def scores() -> Iterator[tuple[Tensor, Tensor]]:
        for scored in progress(scorer.scores(split, group.shard(truth.rows), workers)):
            errors.extend(scored.errors)
            if len(scored.rows):
                targets = truth.targets(scored.rows, scored.logits)
                new = find_mistakes(
                    split,
                    scored.rows,
                    scored.logits,
                    targets,
                    scorer.classes,
                    scorer.postprocess,
                )
                mistakes[:] = most_confident(mistakes + new)
                yield scored.logits, targets

    evaluation = evaluate_scores(
        scores(),
        scorer.classes,
        protocol=f"{scorer.protocol(weights)}, {split.description}"
        + (f", {truth.note}" if truth.note else ""),
        device=torch.device("cpu"),
        postprocess=scorer.postprocess,
    )
    errors = sorted(group.all_gather(errors))
    evaluation = note_unreadable(evaluation, len(errors))
    confident = most_confident(group.all_gather(mistakes))
    summary = getattr(split, "summary", None)
    return Measurement(
        evaluation,
        tuple(confident),
        tuple(text for _, text in errors),
        (*(() if summary is None else summary.warnings), *evaluation.warnings),
    )


def find_mistakes(
    split: Split,
    rows: Sequence[int] | Tensor,
    logits: Tensor,
    targets: Tensor,
    classes: Sequence[str],
    spec: Postprocess = SOFTMAX,
) -> list[Mistake]:
    """Find the wrong predictions among images `rows` (B,) with logits (B, K)."""
    if spec.multilabel:
        return _find_wrong_labels(split, rows, logits, targets, classes, spec)
    logits = logits if spec.temperature == 1.0 else logits / spec.temperature
    confidence, predicted = (each.cpu() for each in logits.softmax(1).max(1))  # (B,), (B,)
    mistakes, targets = [], targets.cpu()
    for index in torch.nonzero(predicted != targets)[:, 0].tolist():
        row = int(rows[index])
        mistakes.append(
            Mistake(
                row=row,
                path=image_name(split, row),
                true=classes[int(targets[index])],
                predicted=classes[int(predicted[index])],
                probability=float(confidence[index]),
            )
        )
    return mistakes


def _find_wrong_labels(
    split: Split,
    rows: Sequence[int] | Tensor,
    logits: Tensor,
    targets: Tensor,
    classes: Sequence[str],
    spec: Postprocess,
) -> list[Mistake]:
    """Find the most confident wrong decision on each image, if there is one."""
    scores = probabilities(logits.cpu().numpy(), spec)
    truth = targets.cpu().numpy() > 0
    wrong = (scores >= np.array(spec.thresholds, np.float32)) != truth
    confidence = np.where(wrong, np.where(truth, 1 - scores, scores), -1.0)
    mistakes = []
    for index in np.flatnonzero(wrong.any(1)).tolist():
        row, label = int(rows[index]), int(confidence[index].argmax())
        name = classes[label]
        mistakes.append(
            Mistake(
                row=row,
                path=image_name(split, row),
                true=format_label(truth[index], classes, NO_LABEL),
                predicted=f"no {name}" if truth[index, label] else name,
                probability=float(confidence[index, label]),
            )
        )
    return mistakes


def most_confident(mistakes: list[Mistake]) -> list[Mistake]:
    """Return the `MAX_MISTAKES` mistakes of the highest probability."""
    return sorted(mistakes, key=lambda each: (-each.probability, each.row))[:MAX_MISTAKES]


def open_unknown(folder: str) -> FileSplit:
    """Open the images of a folder or archive; DataError if there are none."""
    split = open_unlabeled(folder)
    if split is None:
        raise DataError(f"--unknown {folder}: no folder or archive with images")
    return split


@dataclass
class KnownScores:
    """Collects the energy scores of the measured split while its metrics are computed."""

    scores: list[np.ndarray] = field(default_factory=list)

    def collect(self, batches: Iterable[ScoredBatch]) -> Iterator[ScoredBatch]:
        """Iterate over `batches`, and collect their scores."""
        for each in batches:
            self.scores.append(known_scores(each.logits.numpy()))
            yield each


def measure_unknown(scorer: Scorer, known: KnownScores, unknown: FileSplit) -> UnknownMetrics:
    """Measure how well `scorer` tells the images `unknown` from those already scored.

    AUROC and false accepts at 95% recall are those of Liu et al. 2020 (section 4.1). Raises
    ConfigError for multi-label data, whose images may have none, and DataError without readable
    images.
    """
    if scorer.postprocess.multilabel:
        raise ConfigError("--unknown: only for single-label models")
    batches = list(scorer.scores(unknown, list(range(len(unknown)))))
    known_energy = np.concatenate(known.scores)
    unknown_energy = np.concatenate([known_scores(each.logits.numpy()) for each in batches])
    errors = tuple(text for each in batches for _, text in each.errors)
    if not len(unknown_energy):
        raise DataError(f"{unknown.description}: no image can be read, such as {errors[0]}")
    from sklearn.metrics import roc_auc_score  # deferred: slow to import

    truth = np.r_[np.ones(len(known_energy)), np.zeros(len(unknown_energy))]
    threshold = np.quantile(known_energy, 1 - RECALL, method="lower")
    stored = scorer.postprocess.min_score
    return UnknownMetrics(
        len(known_energy),
        len(unknown_energy),
        float(roc_auc_score(truth, np.r_[known_energy, unknown_energy])),
        100 * float((unknown_energy >= threshold).mean()),
        None if stored is None else 100 * float((known_energy >= stored).mean()),
        None if stored is None else 100 * float((unknown_energy >= stored).mean()),
        unknown.description,
        errors,
    )
