"""Measure an ensemble on a split under a protocol: figures, what was missed, what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from resnets.data import Split
from resnets.evaluate.ensemble import Scored
from resnets.evaluate.run import Evaluation, evaluate_scores
from resnets.evaluate.truth import Truth
from resnets.evaluate.views.crops import picture_name
from resnets.utils.distributed import ProcessGroup

KEPT = 24  # most confident errors


class Scorer(Protocol):
    """What gives scores of pictures: an `Ensemble`, or an artifact's runtime.

    classes: of its outputs. `protocol` is the sentence that says how `scores` come about.
    """

    classes: tuple[str, ...]

    def scores(
        self, split: Split, rows: Sequence[int], workers: int | None = None
    ) -> Iterator[Scored]:
        """All `rows` of `split`, each once."""
        ...

    def protocol(self, names: Sequence[str]) -> str:
        """How they come about; `names` of the weights."""
        ...


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: picture `row` of the split, what it is, what it was taken for."""

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
    """An evaluation with the 24 most confident mistakes, surest first, and what was not counted.

    errors: one message for each picture that could not be read. warnings: where the images may not
    be what they seem, from the split's `DataSummary`.
    """

    evaluation: Evaluation
    mistakes: tuple[Mistake, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON: those of the evaluation, the mistakes and the errors."""
        return {
            **self.evaluation.to_json(),
            "confident_errors": [mistake.to_json() for mistake in self.mistakes],
            "unreadable": list(self.errors),
            "warnings": list(self.warnings),
        }


def measure(
    scorer: Scorer,
    split: Split,
    truth: Truth,
    *,
    weights: list[str],
    watch: Callable[[Iterable[Scored]], Iterable[Scored]] = iter,
    rank: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    workers: int | None = None,
) -> Measurement:
    """Figures of `scorer` on the pictures of `split` that have a label, each counted once.

    `weights` name the members in the protocol. `watch` hands on what goes by, to show progress. A
    picture that cannot be read is left out, and its message kept. Raises ValueError when none is
    left.
    """
    errors: list[tuple[int, str]] = []
    mistakes: list[Mistake] = []

    def scores() -> Iterator[tuple[Tensor, Tensor]]:
        for scored in watch(scorer.scores(split, rank.shard(truth.rows), workers)):
            errors.extend(scored.errors)
            if len(scored.rows):
                targets = truth.targets(scored.rows, scored.logits)
                found = _mistakes(split, scored, targets, scorer.classes)
                mistakes[:] = _surest(mistakes + found)
                yield scored.logits, targets

    evaluation = evaluate_scores(
        scores(),
        scorer.classes,
        protocol=f"{scorer.protocol(weights)}, {split.description}"
        + (f", {truth.note}" if truth.note else ""),
        device=torch.device("cpu"),
    )
    errors = sorted(rank.gather(errors))
    evaluation = evaluation.leaving_out(len(errors))
    surest = _surest(rank.gather(mistakes))
    summary = getattr(split, "summary", None)
    return Measurement(
        evaluation,
        tuple(surest),
        tuple(text for _, text in errors),
        () if summary is None else tuple(summary.warnings),
    )


def _mistakes(
    split: Split, scored: Scored, targets: Tensor, classes: tuple[str, ...]
) -> list[Mistake]:
    shares, predicted = scored.logits.softmax(1).max(1)  # (B,), (B,)
    found = []
    for place in torch.nonzero(predicted != targets)[:, 0].tolist():
        row = int(scored.rows[place])
        found.append(
            Mistake(
                row=row,
                path=picture_name(split, row),
                true=classes[int(targets[place])],
                predicted=classes[int(predicted[place])],
                probability=float(shares[place]),
            )
        )
    return found


def _surest(mistakes: list[Mistake]) -> list[Mistake]:
    return sorted(mistakes, key=lambda each: (-each.probability, each.row))[:KEPT]
