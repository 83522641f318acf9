"""Losses of mixed images: against dense targets, and against timm's."""

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from resnets.config import ConfigError, LossSpec
from resnets.data.batch import Batch
from resnets.train.loss import LossFn, class_weights, classification_loss

COUNT, CLASSES = 6, 5
Kind = Literal["cross-entropy", "bce", "focal"]
KINDS: tuple[Kind, ...] = ("cross-entropy", "bce", "focal")


def numbers() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, two classes of each image (once the same), and shares of the first."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(COUNT, CLASSES, generator=generator)
    targets = torch.tensor([0, 1, 2, 3, 4, 0])
    other = torch.tensor([1, 1, 0, 4, 3, 2])
    share = torch.tensor([0.7, 0.4, 1.0, 0.1, 0.5, 0.85])
    return logits, targets, other, share


def batch(mixed: bool) -> Batch:
    _, targets, other, share = numbers()
    images, ids = torch.zeros(COUNT, 3, 2, 2), torch.arange(COUNT)
    return Batch(images, targets, ids, other, share) if mixed else Batch(images, targets, ids)


def value(loss_fn: LossFn, mixed: bool) -> float:
    logits = numbers()[0]
    return loss_fn(lambda images: logits, batch(mixed)).total.item()


def dense(smoothing: float) -> Tensor:
    """Soft targets (B, K) as timm's mixup makes them."""
    _, targets, other, share = numbers()
    first, second = (
        F.one_hot(each, CLASSES) * (1 - smoothing) + smoothing / CLASSES
        for each in (targets, other)
    )
    return share[:, None] * first + (1 - share[:, None]) * second


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_mixed_images(smoothing: float) -> None:
    logits, targets, *_ = numbers()
    loss_fn = classification_loss(LossSpec(label_smoothing=smoothing))
    assert value(loss_fn, True) == pytest.approx(
        F.cross_entropy(logits, dense(smoothing)).item(), rel=1e-5
    )
    plain = F.cross_entropy(logits, targets, label_smoothing=smoothing).item()
    assert value(loss_fn, False) == plain


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bce_of_plain_images_is_timms(smoothing: float) -> None:
    timm = pytest.importorskip("timm.loss")
    logits, targets, *_ = numbers()
    theirs = timm.BinaryCrossEntropy(smoothing=smoothing)(logits, targets).item()
    assert value(
        classification_loss(LossSpec(kind="bce", label_smoothing=smoothing)), False
    ) == pytest.approx(theirs, rel=1e-6)


def test_bce_of_mixed_images_is_timms_with_its_threshold() -> None:
    timm = pytest.importorskip("timm.loss")
    theirs = timm.BinaryCrossEntropy(smoothing=0.0, target_threshold=0.2)
    expected = theirs(numbers()[0], dense(0.0)).item()
    assert value(
        classification_loss(LossSpec(kind="bce", label_smoothing=0.0)), True
    ) == pytest.approx(expected, rel=1e-6)


def test_bce_smooths_the_answers_of_mixed_images() -> None:
    logits, targets, other, share = numbers()
    answers = torch.full((COUNT, CLASSES), 0.1 / CLASSES)
    for row in range(COUNT):
        if share[row] > 0.2:
            answers[row, targets[row]] = 0.9 + 0.1 / CLASSES
        if 1 - share[row] > 0.2:
            answers[row, other[row]] = 0.9 + 0.1 / CLASSES
    expected = F.binary_cross_entropy_with_logits(logits, answers).item()
    assert value(
        classification_loss(LossSpec(kind="bce", label_smoothing=0.1)), True
    ) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_count_the_first_class(kind: Kind) -> None:
    logits, targets, *_ = numbers()
    spec = LossSpec(kind=kind, label_smoothing=0.1)
    losses = classification_loss(spec)(lambda images: logits, batch(True))
    assert losses.sums["errors"] == (logits.argmax(1) != targets).sum()
    assert losses.count == COUNT
    assert losses.sums["loss"].item() == pytest.approx(losses.total.item() * COUNT)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss(smoothing: float, mixed: bool) -> None:
    """Without gamma it is the cross-entropy; with it, that of dense targets, term by term."""
    focal, plain = (
        LossSpec(kind="focal", gamma=0.0, label_smoothing=smoothing),
        LossSpec(label_smoothing=smoothing),
    )
    same = value(classification_loss(plain), mixed)
    assert value(classification_loss(focal), mixed) == pytest.approx(same, rel=1e-5)
    logits, targets, *_ = numbers()
    p = logits.double().softmax(1)
    q = (
        dense(smoothing)
        if mixed
        else F.one_hot(targets, CLASSES) * (1 - smoothing) + smoothing / CLASSES
    )
    expected = -(q * (1 - p) ** 1.5 * p.log()).sum(1).mean().item()
    spec = LossSpec(kind="focal", gamma=1.5, label_smoothing=smoothing)
    assert value(classification_loss(spec), mixed) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_class_weights_multiply_the_loss_of_each_image(kind: Kind) -> None:
    logits, targets, other, share = numbers()
    weights, images = torch.tensor([0.5, 3.0, 0.0, 1.0, 2.0]), torch.zeros(COUNT, 3, 2, 2)
    spec = LossSpec(kind=kind, label_smoothing=0.1)
    plain, weighted = classification_loss(spec), classification_loss(spec, weights)

    def alone(k: int, target: Tensor) -> float:
        one = Batch(images[k : k + 1], target[k : k + 1], torch.arange(1))
        return plain(lambda _: logits[k : k + 1], one).total.item()

    each = [weights[targets[k]] * alone(k, targets) for k in range(COUNT)]
    assert value(weighted, False) == pytest.approx(float(sum(each)) / COUNT, rel=1e-5)
    if kind != "bce":  # whose mixed targets are not the mean of two
        both = [
            share[k] * weights[targets[k]] * alone(k, targets)
            + (1 - share[k]) * weights[other[k]] * alone(k, other)
            for k in range(COUNT)
        ]
        assert value(weighted, True) == pytest.approx(float(sum(both)) / COUNT, rel=1e-5)
    ones = classification_loss(spec, torch.ones(CLASSES))
    for mixed in (False, True):
        assert value(ones, mixed) == pytest.approx(value(plain, mixed), rel=1e-5)


def test_automatic_weights_are_inversely_proportional_and_one_on_average() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [3])
    weights = class_weights(LossSpec(class_weights="auto"), labels, "abcd")
    assert weights[labels].mean() == pytest.approx(1)
    assert weights[1] == 2 * weights[0]
    assert weights[3] == pytest.approx(6 * weights[0])
    assert weights[2] == 1  # of no images


def test_given_weights() -> None:
    labels, names = torch.tensor([0, 1, 2]), ("ant", "bee", "cat")
    spec = LossSpec(class_weights={"cat": 4.0, "ant": 0.5})
    assert class_weights(spec, labels, names).tolist() == [0.5, 1.0, 4.0]
    with pytest.raises(ConfigError, match=r"loss\.class_weights\.cats"):
        class_weights(LossSpec(class_weights={"cats": 4.0}), labels, names)
