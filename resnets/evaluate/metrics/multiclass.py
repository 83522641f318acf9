"""Metrics of a classifier as sums over examples, so that batches and devices add up."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from resnets.utils.machine.environment import accumulator_dtype

BINS = 15
Z = 1.959964  # of the normal distribution: 95% lie within


def wilson_interval(events: int, trials: int, z: float = Z) -> tuple[float, float]:
    """Return the confidence interval, in 0..1, of the probability of an event.

    It happened `events` times in `trials` trials. Wilson 1927, as recommended by Brown, Cai and
    DasGupta 2001; z = 1.96 is 95%.
    """
    share, spread = events / trials, z * z / trials
    center = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return max(0.0, center - half), min(1.0, center + half)


def balanced_error(confusion: np.ndarray) -> float:
    """Return the mean over the classes of the percent of their examples predicted as another.

    1 - balanced accuracy (Brodersen et al. 2010); classes without examples are excluded.
    confusion: (K, K) counts, rows the true class.
    """
    true = confusion.sum(1)
    recalls = confusion.diagonal()[true > 0] / true[true > 0]
    return 100 * (1 - float(recalls.mean()))


def macro_f1(confusion: np.ndarray) -> float:
    """Return the mean F1 in percent of the classes that have examples or are predicted."""
    both = confusion.sum(1) + confusion.sum(0)
    return 100 * float((2 * confusion.diagonal()[both > 0] / both[both > 0]).mean())


@dataclass(frozen=True, eq=False)
class ClassificationSums:
    """The sums of a `ClassificationMeter`, and the metrics computed from them.

    confusion: (K, K) int64, rows the true class, columns the predicted one.
    top5_hits: examples whose true class is among the min(5, K) highest logits.
    loss: cross-entropy in nats, summed.
    bin_counts, bin_confidence, bin_hits: (15,) over equal bins of the predicted probability.
    confidence, hits: (N,) the predicted probability of each example, and whether it is right.
    """

    confusion: np.ndarray
    top5_hits: int
    loss: float
    bin_counts: np.ndarray
    bin_confidence: np.ndarray
    bin_hits: np.ndarray
    confidence: np.ndarray
    hits: np.ndarray

    @property
    def examples(self) -> int:
        """Number of examples."""
        return int(self.confusion.sum())

    @property
    def top1_error(self) -> float:
        """Percent of examples whose highest logit is of another class."""
        return 100 * (self.examples - int(np.trace(self.confusion))) / self.examples

    @property
    def top1_interval(self) -> tuple[float, float]:
        """95% confidence interval of `top1_error`, in percent."""
        wrong = self.examples - int(np.trace(self.confusion))
        low, high = wilson_interval(wrong, self.examples)
        return 100 * low, 100 * high

    @property
    def balanced_error(self) -> float:
        """Mean error of the classes in percent; see `balanced_error`."""
        return balanced_error(self.confusion)

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes in percent; see `macro_f1`."""
        return macro_f1(self.confusion)

    @property
    def majority_error(self) -> float:
        """Top-1 error in percent of always predicting the most frequent class of the examples."""
        return 100 * (self.examples - int(self.confusion.sum(1).max())) / self.examples

    @property
    def top5_error(self) -> float:
        """Percent of examples whose class is not among the min(5, K) highest logits."""
        return 100 * (self.examples - self.top5_hits) / self.examples

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, L1 over 15 equal bins, in 0..1 (Guo et al. 2017, eq. 3)."""
        return float(np.abs(self.bin_hits - self.bin_confidence).sum() / self.examples)

    @property
    def calibration_error_equal_mass(self) -> float:
        """Calibration error over 15 bins of equally many examples; see `equal_mass_error`."""
        return equal_mass_error(self.confidence, self.hits)


class ClassificationMeter:
    """Adds up `ClassificationSums` over batches of logits, on their device, and over all processes.

    Not a torchmetrics.Metric: importing that takes longer than torch itself, and it counts
    confidence 1.0 as a 16th bin.
    """

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.num_classes = num_classes
        wide = accumulator_dtype(device)

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.confusion = zeros(num_classes, num_classes)
        self.top5_hits = zeros()
        self.loss = zeros(dtype=wide)
        self.bin_counts = zeros(BINS)
        self.bin_confidence = zeros(BINS, dtype=wide)
        self.bin_hits = zeros(BINS)
        self._confidence: list[Tensor] = []
        self._hits: list[Tensor] = []

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: `logits` (B, K) float32, `targets` (B,) int64 in 0..K-1."""
        confidence, predicted = logits.softmax(1).max(1)  # (B,), (B,)
        top5 = logits.topk(min(5, self.num_classes), 1).indices  # (B, min(5, K))
        bins = (confidence * BINS).long().clamp(0, BINS - 1)  # (B,)
        hits, ones = predicted.eq(targets).long(), torch.ones_like(targets)
        self.confusion.view(-1).index_add_(0, targets * self.num_classes + predicted, ones)
        self.top5_hits += top5.eq(targets[:, None]).sum()
        self.loss += F.cross_entropy(logits, targets, reduction="sum")
        self.bin_counts.index_add_(0, bins, ones)
        self.bin_confidence.index_add_(0, bins, confidence.to(self.bin_confidence.dtype))
        self.bin_hits.index_add_(0, bins, hits)
        self._confidence.append(confidence)
        self._hits.append(hits.bool())

    def sums(self) -> ClassificationSums:
        """Return the sums over all examples of all processes; each of them must call this."""
        state = {
            name: tensor.cpu() for name, tensor in vars(self).items() if isinstance(tensor, Tensor)
        }
        if distributed.is_available() and distributed.is_initialized():
            for tensor in state.values():
                distributed.all_reduce(tensor)
        confidence, hits = (gather_rows(each) for each in (self._confidence, self._hits))
        return ClassificationSums(
            **{name: tensor.numpy() for name, tensor in state.items() if tensor.ndim},
            top5_hits=int(state["top5_hits"]),
            loss=float(state["loss"]),
            confidence=confidence,
            hits=hits,
        )


def gather_rows(chunks: list[Tensor]) -> np.ndarray:
    """Concatenate the rows of all chunks of all processes, in the order of ranks, on the CPU."""
    own = torch.cat(chunks).cpu() if chunks else torch.empty(0)
    if not (distributed.is_available() and distributed.is_initialized()):
        return own.numpy()
    parts: list[np.ndarray] = [np.empty(0)] * distributed.get_world_size()
    distributed.all_gather_object(parts, own.numpy())
    return np.concatenate([each for each in parts if len(each)] or [own.numpy()])


def calibration_error(confidence: np.ndarray, hits: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error of (N,) confidences, L1 over equal bins.

    Guo et al. 2017. hits: (N,), 1 for each correct prediction, else 0.
    """
    indices = (confidence * bins).astype(np.int64).clip(0, bins - 1)
    gaps = np.bincount(indices, hits, bins) - np.bincount(indices, confidence, bins)
    return float(np.abs(gaps).sum() / max(1, len(hits)))


def equal_mass_error(confidence: np.ndarray, hits: np.ndarray, bins: int = BINS) -> float:
    """Return the calibration error over bins of equally many examples.

    Bins are by rank (Nguyen and O'Connor 2015, section 4). Most bins of equal width are nearly
    empty if a network is confident about nearly all images.
    """
    order = np.argsort(confidence, kind="stable")
    gaps = [
        abs(float(hits[rows].sum()) - float(confidence[rows].sum()))
        for rows in np.array_split(order, min(bins, max(1, len(order))))
    ]
    return sum(gaps) / max(1, len(hits))


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class against the rest, in 0..1; None if the denominator is 0.

    precision: share of predictions of this class that are correct. recall: share of its examples
    that are predicted as it. f1: their harmonic mean.
    """

    name: str
    examples: int
    precision: float | None
    recall: float | None
    f1: float | None


def class_metrics(confusion: np.ndarray, classes: tuple[str, ...]) -> tuple[ClassMetrics, ...]:
    """Compute per-class metrics of a (K, K) confusion matrix, in class order."""

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    true, predicted = confusion.sum(1).tolist(), confusion.sum(0).tolist()
    return tuple(
        ClassMetrics(
            name=name,
            examples=true[k],
            precision=share(hits, predicted[k]),
            recall=share(hits, true[k]),
            f1=share(2 * hits, true[k] + predicted[k]),
        )
        for k, (name, hits) in enumerate(zip(classes, confusion.diagonal().tolist(), strict=True))
    )


def most_confused(
    confusion: np.ndarray, classes: tuple[str, ...], count: int
) -> list[tuple[str, str, int]]:
    """Return the `count` largest off-diagonal entries: (true class, predicted class, examples)."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(order, wrong.shape)
    return [
        (classes[i], classes[j], int(wrong[i, j]))
        for i, j in zip(rows, columns, strict=True)
        if wrong[i, j]
    ]


MIN_POSITIVES = 10  # validation images of a label, to have a threshold of its own


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float | None:
    """Return the area under the precision-recall steps: sum of (R_n - R_n-1) P_n, in 0..1.

    The sum is over the distinct values of (N,) scores from the highest on, without interpolation,
    like scikit-learn's `average_precision_score`; None without a positive target.
    """
    positives = int(targets.sum())
    if not positives:
        return None
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])  # of equal scores
    hits = np.cumsum(targets[order] > 0)[last]
    recall = np.r_[0, hits / positives]
    return float((np.diff(recall) * hits / (last + 1)).sum())


def f1_thresholds(scores: np.ndarray, targets: np.ndarray) -> tuple[float, ...]:
    """Return the threshold of the highest F1 for each label of scores and targets (N, K).

    A label with fewer than 10 positives has the one that is best for all labels together (micro
    F1), which does not depend on a few images. A threshold lies halfway to the next lower score.
    """
    common = best_threshold(scores.reshape(-1), targets.reshape(-1))
    return tuple(
        best_threshold(column, truth) if truth.sum() >= MIN_POSITIVES else common
        for column, truth in zip(scores.T, targets.T, strict=True)
    )


def best_threshold(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the highest threshold of (N,) scores with the best F1; 0.5 without positives."""
    if not targets.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order].astype(np.float64)
    last = np.flatnonzero(np.r_[np.diff(ordered) != 0, True])
    hits = np.cumsum(targets[order] > 0)[last]
    f1 = 2 * hits / (last + 1 + targets.sum())
    best = int(last[int(f1.argmax())])
    lower = ordered[best + 1] if best + 1 < len(ordered) else 0.0
    return float((ordered[best] + lower) / 2)
