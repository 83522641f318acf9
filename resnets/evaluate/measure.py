"""Evaluate an ensemble on a split: metrics with their protocol, mistakes, unreadable images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from resnets.config import SOFTMAX, Postprocess
from resnets.data import Split
from resnets.data.dataset.labels import NO_LABEL, format_label
from resnets.evaluate.data.ground_truth import GroundTruth
from resnets.evaluate.ensemble import ScoredBatch
from resnets.evaluate.evaluation import AnyEvaluation, evaluate_scores, without_unreadable
from resnets.evaluate.postprocess import probabilities
from resnets.evaluate.views import image_name
from resnets.utils.distributed import ProcessGroup

if TYPE_CHECKING:
    from resnets.evaluate.unknown import UnknownMetrics

MAX_MISTAKES = 24  # the most confident ones are kept


class Scorer(Protocol):
    """What computes scores of images: an `Ensemble`, or an artifact's runtime.

    classes: of its outputs. postprocess: what its logits mean. `protocol`: how `scores` are
    computed, in one line.
    """

    classes: tuple[str, ...]
    postprocess: Postprocess

    def scores(
        self, split: Split, rows: Sequence[int], workers: int | None = None
    ) -> Iterator[ScoredBatch]:
        """All `rows` of `split`, each once."""
        ...

    def protocol(self, names: Sequence[str]) -> str:
        """How they are computed; `names` of the weights."""
        ...


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: image `row` of the split, its class and the predicted one.

    Of sets of labels: the image's labels, and the label that it is most wrongly given ("cat") or
    not given ("no cat"); `probability` is that of the wrong answer.
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


@dataclass(frozen=True, eq=False)
class Measurement:
    """An evaluation with the 24 most confident mistakes, and the images not counted.

    errors: one message for each image that could not be read. warnings: possible mistakes in how
    the data were understood, from the split's `DataSummary`, and those of the evaluation. unknown:
    metrics of images of no class, where they were asked for.
    """

    evaluation: AnyEvaluation
    mistakes: tuple[Mistake, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    unknown: UnknownMetrics | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON: those of the evaluation, the mistakes and the errors."""
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
    watch: Callable[[Iterable[ScoredBatch]], Iterable[ScoredBatch]] = iter,
    rank: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    workers: int | None = None,
) -> Measurement:
    """Metrics of `scorer` on the images of `split` that have a label, each counted once.

    `weights` name the members in the protocol. `watch` wraps the iteration, to show progress. An
    image that cannot be read is left out, and its message kept. Raises ValueError when none is
    left.
    """
    errors: list[tuple[int, str]] = []
    mistakes: list[Mistake] = []

    def scores() -> Iterator[tuple[Tensor, Tensor]]:
        for scored in watch(scorer.scores(split, rank.shard(truth.rows), workers)):
            errors.extend(scored.errors)
            if len(scored.rows):
                targets = truth.targets(scored.rows, scored.logits)
                found = find_mistakes(
                    split,
                    scored.rows,
                    scored.logits,
                    targets,
                    scorer.classes,
                    scorer.postprocess,
                )
                mistakes[:] = most_confident(mistakes + found)
                yield scored.logits, targets

    evaluation = evaluate_scores(
        scores(),
        scorer.classes,
        protocol=f"{scorer.protocol(weights)}, {split.description}"
        + (f", {truth.note}" if truth.note else ""),
        device=torch.device("cpu"),
        postprocess=scorer.postprocess,
    )
    errors = sorted(rank.all_gather(errors))
    evaluation = without_unreadable(evaluation, len(errors))
    confident = most_confident(rank.all_gather(mistakes))
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
    """The wrong predictions among those of images `rows` (B,), with logits (B, K)."""
    if spec.multilabel:
        return _wrong_labels(split, rows, logits, targets, classes, spec)
    logits = logits if spec.temperature == 1.0 else logits / spec.temperature
    shares, predicted = (each.cpu() for each in logits.softmax(1).max(1))  # (B,), (B,)
    found, targets = [], targets.cpu()
    for place in torch.nonzero(predicted != targets)[:, 0].tolist():
        row = int(rows[place])
        found.append(
            Mistake(
                row=row,
                path=image_name(split, row),
                true=classes[int(targets[place])],
                predicted=classes[int(predicted[place])],
                probability=float(shares[place]),
            )
        )
    return found


def _wrong_labels(
    split: Split,
    rows: Sequence[int] | Tensor,
    logits: Tensor,
    targets: Tensor,
    classes: Sequence[str],
    spec: Postprocess,
) -> list[Mistake]:
    """The most confident wrong answer on each image, where there is one."""
    scores = probabilities(logits.cpu().numpy(), spec)
    truth = targets.cpu().numpy() > 0
    wrong = (scores >= np.array(spec.thresholds, np.float32)) != truth
    confidence = np.where(wrong, np.where(truth, 1 - scores, scores), -1.0)
    found = []
    for place in np.flatnonzero(wrong.any(1)).tolist():
        row, label = int(rows[place]), int(confidence[place].argmax())
        name = classes[label]
        found.append(
            Mistake(
                row=row,
                path=image_name(split, row),
                true=format_label(truth[place], classes, NO_LABEL),
                predicted=f"no {name}" if truth[place, label] else name,
                probability=float(confidence[place, label]),
            )
        )
    return found


def most_confident(mistakes: list[Mistake]) -> list[Mistake]:
    """The `MAX_MISTAKES` of the highest probability."""
    return sorted(mistakes, key=lambda each: (-each.probability, each.row))[:MAX_MISTAKES]
