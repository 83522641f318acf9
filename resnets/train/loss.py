"""Task losses: the only place where the loop's tasks differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional as F

from resnets.data.batch import Batch


@dataclass(frozen=True)
class Losses:
    """What one batch gives the loop.

    total: scalar to monitor. sums: detached scalars added up over `count` examples; the log
    divides them, and by convention a sum named "errors" counts wrong answers.
    """

    total: torch.Tensor
    sums: dict[str, torch.Tensor]
    count: int


# Least share of a mixed picture at which a class counts as present in it.
PRESENT = 0.2

LossFn = Callable[[Callable[..., torch.Tensor], Batch], Losses]


def classification(
    label_smoothing: float = 0.0, kind: Literal["cross-entropy", "bce"] = "cross-entropy"
) -> LossFn:
    """Loss on integer targets (B,), of mixed pictures too, with label smoothing.

    "cross-entropy": label smoothing as Szegedy et al. 2016; a mixed picture's loss is the mean
    over its two classes, weighted by their shares (Zhang et al. 2018). "bce": see `binary`.
    Errors are counted against `targets` alone, so they run high where pictures are mixed.
    """
    loss_of = binary if kind == "bce" else cross_entropy

    def loss_fn(model: Callable[..., torch.Tensor], batch: Batch) -> Losses:
        logits = model(batch.images).float()  # (B, K)
        assert isinstance(batch.targets, torch.Tensor)
        loss = loss_of(logits, batch, label_smoothing)
        wrong = logits.detach().argmax(1).ne(batch.targets).sum()
        sums = {"loss": loss.detach() * len(batch), "errors": wrong}
        return Losses(loss, sums, len(batch))

    return loss_fn


def cross_entropy(logits: torch.Tensor, batch: Batch, smoothing: float) -> torch.Tensor:
    """Mean over pictures of the cross-entropy of `logits` (B, K)."""
    assert isinstance(batch.targets, torch.Tensor)
    if batch.other is None or batch.share is None:
        return F.cross_entropy(logits, batch.targets, label_smoothing=smoothing)
    first, second = (
        F.cross_entropy(logits, classes, label_smoothing=smoothing, reduction="none")
        for classes in (batch.targets, batch.other)
    )
    return (batch.share * first + (1 - batch.share) * second).mean()


def binary(logits: torch.Tensor, batch: Batch, smoothing: float) -> torch.Tensor:
    """Mean over pictures and classes of the loss of "is this class in the picture?", (B, K).

    Wightman et al. 2021, section 2.2: a mixed picture holds both of its classes, whatever their
    shares; as in their code, those of more than `PRESENT`. The answer is 1 for a class that is
    there, 0 for others, smoothed to 1 - smoothing + smoothing / K and smoothing / K.
    """
    off = smoothing / logits.shape[1]
    on = 1 - smoothing + off
    answers = torch.full_like(logits, off)
    assert isinstance(batch.targets, torch.Tensor)
    if batch.other is None or batch.share is None:
        answers.scatter_(1, batch.targets[:, None], on)
        return F.binary_cross_entropy_with_logits(logits, answers)
    for classes, share in ((batch.targets, batch.share), (batch.other, 1 - batch.share)):
        seen = answers.gather(1, classes[:, None])
        held = torch.where(share[:, None] > PRESENT, on, seen)
        answers.scatter_(1, classes[:, None], held)
    return F.binary_cross_entropy_with_logits(logits, answers)
