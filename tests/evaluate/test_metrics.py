"""Figures held against independent computations in numpy and torchmetrics."""

import json

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_f1_score,
)

from resnets.evaluate.metrics.multiclass import (
    ClassificationMeter,
    class_metrics,
    most_confused,
    wilson_interval,
)

CPU = torch.device("cpu")


def made_up(examples: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, classes, (examples,), generator=generator)
    logits = torch.randn(examples, classes, generator=generator)
    logits[torch.arange(examples), targets] += 1.0
    return logits, targets


def measure(logits: torch.Tensor, targets: torch.Tensor, batch: int = 64):
    meter = ClassificationMeter(logits.shape[1], CPU)
    for part, wanted in zip(logits.split(batch), targets.split(batch), strict=True):
        meter.update(part, wanted)
    return meter.sums()


@pytest.mark.parametrize("classes", [2, 3, 7, 40])
def test_figures_equal_an_independent_numpy_computation(classes):
    logits, targets = made_up(1000, classes)
    sums = measure(logits, targets)

    x, t = logits.double().numpy(), targets.numpy()
    p = np.exp(x - x.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    ranks = (x > x[np.arange(len(t)), t][:, None]).sum(1)  # classes ahead of the true one
    assert sums.examples == 1000
    assert sums.top1_error == pytest.approx(100 * np.mean(ranks > 0))
    assert sums.top5_error == pytest.approx(100 * np.mean(ranks >= min(5, classes)))
    assert sums.loss / 1000 == pytest.approx(-np.log(p[np.arange(len(t)), t]).mean(), rel=1e-6)

    confidence, hit = p.max(1), p.argmax(1) == t
    gaps = 0.0
    for k in range(15):
        inside = (confidence >= k / 15) & (confidence < (k + 1) / 15)
        if inside.any():
            gaps += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    assert sums.calibration_error == pytest.approx(gaps, rel=1e-5)

    for k, row in enumerate(class_metrics(sums.confusion, tuple(map(str, range(classes))))):
        said, is_k = p.argmax(1) == k, t == k
        assert row.examples == is_k.sum()
        assert row.precision == pytest.approx((said & is_k).sum() / said.sum())
        assert row.recall == pytest.approx((said & is_k).sum() / is_k.sum())


def test_figures_equal_torchmetrics():
    logits, targets = made_up(2000, 6)
    sums = measure(logits, targets)
    theirs = multiclass_calibration_error(logits.softmax(1), targets, 6, n_bins=15)
    assert sums.calibration_error == pytest.approx(theirs.item(), rel=1e-5)
    f1 = multiclass_f1_score(logits, targets, 6, average="none").tolist()
    assert [row.f1 for row in class_metrics(sums.confusion, tuple("abcdef"))] == pytest.approx(f1)


def test_batching_changes_nothing():
    logits, targets = made_up(501, 4)
    whole, parts = measure(logits, targets, 501), measure(logits, targets, 7)
    assert np.array_equal(whole.confusion, parts.confusion)
    assert whole.top5_hits == parts.top5_hits
    assert np.array_equal(whole.bin_counts, parts.bin_counts)
    assert whole.loss == pytest.approx(parts.loss, rel=1e-6)


def test_certain_predictions_fall_in_the_last_bin():
    sums = measure(torch.tensor([[200.0, 0.0], [200.0, 0.0]]), torch.tensor([0, 1]))
    assert sums.bin_counts.tolist() == [0] * 14 + [2]
    assert sums.calibration_error == pytest.approx(0.5)  # says 1.0, is right half the time


def test_figures_of_a_class_nobody_predicts_or_shows():
    confusion = np.array([[3, 1, 0, 0], [0, 4, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]])
    rows = class_metrics(confusion, ("a", "b", "never predicted", "absent"))
    assert (rows[0].precision, rows[0].recall, rows[0].f1) == (3 / 5, 3 / 4, 2 / 3)
    assert (rows[2].precision, rows[2].recall, rows[2].f1) == (None, 0, 0)
    assert (rows[3].precision, rows[3].recall, rows[3].f1) == (None, None, None)
    assert json.dumps([row.examples for row in rows]) == "[4, 4, 2, 0]"


def test_most_confused_pairs_come_largest_first_and_exclude_zeros():
    confusion = np.array([[9, 2, 0], [5, 9, 0], [0, 0, 9]])
    assert most_confused(confusion, ("a", "b", "c"), 5) == [("b", "a", 5), ("a", "b", 2)]


@pytest.mark.parametrize("classes", [2, 7, 40])
def test_metrics_of_rare_classes_equal_scikit_learns(classes):
    metrics = pytest.importorskip("sklearn.metrics")
    logits, targets = made_up(300, classes + 2)
    targets = targets.clamp(0, classes - 1).where(targets % 3 != 0, 0)  # some of no examples
    sums = measure(logits, targets)
    y, x = targets.numpy(), logits.argmax(1).numpy()
    recalls = [np.mean(x[y == k] == k) for k in np.unique(y)]
    assert sums.balanced_error == pytest.approx(100 * (1 - np.mean(recalls)))
    assert sums.macro_f1 == pytest.approx(100 * metrics.f1_score(y, x, average="macro"))
    assert sums.majority_error == pytest.approx(100 * np.mean(y != 0))


@pytest.mark.parametrize(
    ("events", "trials"), [(0, 20), (1, 10), (5, 20), (10, 10), (286, 1000), (3, 50_000)]
)
def test_wilsons_interval_is_scipys(events, trials):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(events, trials).proportion_ci(method="wilson")
    assert wilson_interval(events, trials) == pytest.approx((expected.low, expected.high), abs=1e-6)
