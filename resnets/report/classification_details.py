"""Details of a classifier's run for its report: classes, confusions, mistakes, a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resnets.report.figure_style import Thumbnail

MATRIX_CLASSES = 20  # up to which the confusion matrix is shown as a table
MAX_CLASSES = 40  # rows of the table of classes
MAX_CONFUSIONS = 12


@dataclass(frozen=True)
class CaptionedImage:
    """An image with the lines of its caption; empty if it could not be read."""

    image: Thumbnail
    lines: Sequence[str]


@dataclass(frozen=True)
class ClassRow:
    """A class: its training images, images of the measured split, and metrics in 0..1 or None."""

    name: str
    trained: int
    measured: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class RunDetails:
    """A classifier's evaluation in full, and images of its run.

    split: the one that was measured, "test" or "val". classes: rows of the table, in the order of
    the data. confusion: (K, K) counts, rows the true class; () for multi-label data. mistakes: the
    most confident errors. batch: augmented training images, as the network gets them.
    """

    split: str
    classes: Sequence[ClassRow]
    confusion: Sequence[Sequence[int]]
    mistakes: Sequence[CaptionedImage]
    batch: Sequence[CaptionedImage]

    @property
    def worst_classes(self) -> Sequence[ClassRow]:
        """The rows of the table, lowest recall first."""
        return sorted(self.classes, key=lambda row: 2.0 if row.recall is None else row.recall)[
            :MAX_CLASSES
        ]

    @property
    def most_trained(self) -> int:
        """Training images of the most frequent class."""
        return max((row.trained for row in self.classes), default=0)

    @property
    def matrix(self) -> Sequence[tuple[str, Sequence[tuple[int, float]]]]:
        """Each class with its row of counts and shares in 0..1; empty for many classes."""
        if len(self.classes) > MATRIX_CLASSES or not self.confusion:
            return ()
        return [
            (row.name, [(count, count / max(1, sum(counts))) for count in counts])
            for row, counts in zip(self.classes, self.confusion, strict=True)
        ]

    @property
    def confused(self) -> Sequence[tuple[str, str, int]]:
        """True class, predicted class and images of the most frequent confusions."""
        confusions = [
            (self.classes[true].name, self.classes[predicted].name, count)
            for true, counts in enumerate(self.confusion)
            for predicted, count in enumerate(counts)
            if count and true != predicted
        ]
        return sorted(confusions, key=lambda pair: -pair[2])[:MAX_CONFUSIONS]


def class_rows(
    per_class: Sequence[Mapping[str, Any]], trained: Mapping[str, int]
) -> list[ClassRow]:
    """Return the rows of an evaluation's `per_class`, with the training images of each class."""
    return [
        ClassRow(
            row["class"],
            trained.get(row["class"], 0),
            row["examples"],
            row["precision"],
            row["recall"],
            row["f1"],
        )
        for row in per_class
    ]
