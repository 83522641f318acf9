"""Losses of mixed pictures: against dense targets, and against timm's."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from resnets.data.batch import Batch
from resnets.train.loss import LossFn, classification_loss

COUNT, CLASSES = 6, 5


def numbers() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, two classes of each picture (once the same), and shares of the first."""
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
def test_cross_entropy_of_mixed_pictures(smoothing: float) -> None:
    logits, targets, *_ = numbers()
    loss_fn = classification_loss(smoothing)
    assert value(loss_fn, True) == pytest.approx(
        F.cross_entropy(logits, dense(smoothing)).item(), rel=1e-5
    )
    plain = F.cross_entropy(logits, targets, label_smoothing=smoothing).item()
    assert value(loss_fn, False) == plain


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bce_of_plain_pictures_is_timms(smoothing: float) -> None:
    timm = pytest.importorskip("timm.loss")
    logits, targets, *_ = numbers()
    theirs = timm.BinaryCrossEntropy(smoothing=smoothing)(logits, targets).item()
    assert value(classification_loss(smoothing, "bce"), False) == pytest.approx(theirs, rel=1e-6)


def test_bce_of_mixed_pictures_is_timms_with_its_threshold() -> None:
    timm = pytest.importorskip("timm.loss")
    theirs = timm.BinaryCrossEntropy(smoothing=0.0, target_threshold=0.2)
    expected = theirs(numbers()[0], dense(0.0)).item()
    assert value(classification_loss(0.0, "bce"), True) == pytest.approx(expected, rel=1e-6)


def test_bce_smooths_the_answers_of_mixed_pictures() -> None:
    logits, targets, other, share = numbers()
    answers = torch.full((COUNT, CLASSES), 0.1 / CLASSES)
    for row in range(COUNT):
        if share[row] > 0.2:
            answers[row, targets[row]] = 0.9 + 0.1 / CLASSES
        if 1 - share[row] > 0.2:
            answers[row, other[row]] = 0.9 + 0.1 / CLASSES
    expected = F.binary_cross_entropy_with_logits(logits, answers).item()
    assert value(classification_loss(0.1, "bce"), True) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["cross-entropy", "bce"])
def test_errors_count_the_first_class(kind: str) -> None:
    logits, targets, *_ = numbers()
    losses = classification_loss(0.1, kind)(lambda images: logits, batch(True))
    assert losses.sums["errors"] == (logits.argmax(1) != targets).sum()
    assert losses.count == COUNT
    assert losses.sums["loss"].item() == pytest.approx(losses.total.item() * COUNT)
