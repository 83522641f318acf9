"""Temperature, thresholds and "unknown" from validation; metrics of sets of labels."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

from resnets.config import ConfigError, Postprocess
from resnets.evaluate.calibrate import calibrate
from resnets.evaluate.evaluation import evaluate_scores
from resnets.evaluate.metrics.multiclass import (
    average_precision,
    best_threshold,
    calibration_error,
    equal_mass_error,
)
from resnets.evaluate.metrics.multilabel import MultilabelEvaluation
from resnets.evaluate.postprocess import decide, known_scores, probabilities

CLASSES = tuple("abcde")


def drawn(count: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are right in about the share that their softmax says, and classes."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, 5, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


def labels_drawn(count: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of sets of labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, 5, generator=generator) - 1
    return logits, torch.bernoulli(logits.sigmoid(), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_a_factor_on_the_logits(factor: float) -> None:
    logits, targets = drawn(4000)
    found = calibrate(factor * logits, targets, Postprocess())
    assert found.postprocess.temperature == pytest.approx(factor, rel=0.08)
    assert found.after["loss"] <= found.before["loss"]
    if factor == 3:
        for key in ("calibration_error", "calibration_error_equal_mass"):
            assert found.after[key] < found.before[key] / 3
    sets, truth = labels_drawn(2000)
    unfitted = Postprocess(activation="sigmoid", thresholds=(0.5,) * 5)
    of_sets = calibrate(factor * sets, truth, unfitted)
    assert of_sets.postprocess.temperature == pytest.approx(factor, rel=0.08)


def test_what_is_not_fitted_says_why() -> None:
    logits, targets = drawn(49)
    few = calibrate(logits, targets, Postprocess())
    assert (few.postprocess, "50 validation images" in few.note) == (Postprocess(), True)
    sure = 9 * torch.eye(5).repeat(20, 1)
    right = calibrate(sure, sure.argmax(1), Postprocess())
    assert (right.postprocess.temperature, "no validation image" in right.note) == (1.0, True)
    with pytest.raises(ConfigError, match="thresholds"):
        Postprocess(activation="sigmoid", thresholds=(0.5,)).check(2)


def test_unknown_images_are_below_the_score_of_95_percent() -> None:
    logits, targets = drawn()
    spec = calibrate(logits, targets, Postprocess()).postprocess
    assert spec.min_score is not None
    said = [each.unknown for each in decide(logits.numpy(), spec)]
    assert sum(said) == round(0.05 * len(logits)) - 1  # those at the threshold are known
    assert known_scores(logits.numpy()) == pytest.approx(logits.double().logsumexp(1).numpy())
    assert decide(logits.numpy(), Postprocess())[0].unknown is None


def test_probabilities_are_those_of_torch() -> None:
    logits = torch.tensor([[300.0, -300.0, 2.0], [0.1, float("inf"), 0.0], [1.0, 2.0, 3.0]])
    for spec, expected in (
        (Postprocess(temperature=2.0), (logits / 2).softmax(1)),
        (Postprocess(activation="sigmoid", thresholds=(0.5,) * 3), logits.sigmoid()),
    ):
        found = probabilities(logits.numpy(), spec)
        assert found.dtype == np.float32
        assert np.isnan(found[1]).all()
        assert found[[0, 2]] == pytest.approx(expected[[0, 2]].numpy(), abs=1e-7)


def test_metrics_of_sets_equal_scikit_learns() -> None:
    logits, targets = labels_drawn()
    logits = logits.round(decimals=1)  # with ties
    spec = Postprocess(activation="sigmoid", thresholds=(0.3, 0.5, 0.5, 0.6, 0.2), temperature=1.5)
    batches = list(zip(logits.split(150), targets.split(150), strict=True))
    found = evaluate_scores(
        batches, CLASSES, protocol="x", device=torch.device("cpu"), postprocess=spec
    )
    assert isinstance(found, MultilabelEvaluation)
    scores, truth = probabilities(logits.numpy(), spec), targets.numpy()
    for place, row in enumerate(found.per_class):
        wanted = average_precision_score(truth[:, place], scores[:, place])
        assert row.average_precision == pytest.approx(wanted, abs=1e-12)
    assert found.mAP == pytest.approx(100 * average_precision_score(truth, scores))
    chosen = scores >= np.array(spec.thresholds, np.float32)
    assert found.macro_f1 == pytest.approx(100 * f1_score(truth, chosen, average="macro"))
    assert found.micro_f1 == pytest.approx(100 * f1_score(truth, chosen, average="micro"))
    assert found.error == 100 - found.mAP
    assert found.protocol == "x, temperature 1.5"
    assert average_precision(scores[:, 0], np.zeros(400)) is None


def test_thresholds_have_the_highest_f1_and_rare_labels_share_one() -> None:
    logits, targets = labels_drawn()
    targets[:, 4] = 0
    targets[:3, 4] = 1
    unfitted = Postprocess(activation="sigmoid", thresholds=(0.5,) * 5)
    spec = calibrate(logits, targets, unfitted).postprocess
    scores, truth = probabilities(logits.numpy(), spec), targets.numpy()
    for place in range(4):
        precision, recall, _ = precision_recall_curve(truth[:, place], scores[:, place])
        f1 = 2 * precision * recall / (precision + recall)  # with each score as threshold
        chosen = scores[:, place] >= np.float32(spec.thresholds[place])
        assert f1_score(truth[:, place], chosen) == pytest.approx(max(f1))
    assert spec.thresholds[4] == best_threshold(scores.reshape(-1), truth.reshape(-1))


def test_calibration_errors_by_hand() -> None:
    confidence, hits = np.array([0.9, 0.9, 0.9, 0.1]), np.array([1, 1, 0, 0])
    assert calibration_error(confidence, hits) == pytest.approx((0.7 + 0.1) / 4)
    # Two bins of two by rank: 0.1 and 0.9 (no and yes), 0.9 and 0.9 (yes and no).
    assert equal_mass_error(confidence, hits, 2) == pytest.approx((0.0 + 0.8) / 4)
    assert equal_mass_error(confidence, hits, 1) == pytest.approx(0.8 / 4)
