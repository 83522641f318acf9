"""The interface of losses, and the losses of classification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from resnets.config import ConfigError
from resnets.data.batch import Batch


@dataclass(frozen=True)
class Losses:
    """The loss of one batch.

    total: the scalar to minimize. sums: detached scalars summed over `count` examples; the log
    divides them by the count. A sum named "errors" counts wrong predictions.
    """

    total: torch.Tensor
    sums: dict[str, torch.Tensor]
    count: int


# Minimum share of a mixed image at which a class counts as present in it.
MIN_SHARE = 0.2

LossFn = Callable[[Callable[..., torch.Tensor], Batch], Losses]


def classification_loss(
    label_smoothing: float = 0.0, kind: Literal["cross-entropy", "bce"] = "cross-entropy"
) -> LossFn:
    """Loss on integer targets (B,), with label smoothing; images may be mixed.

    "cross-entropy": label smoothing as Szegedy et al. 2016; a mixed picture's loss is the mean
    over its two classes, weighted by their shares (Zhang et al. 2018). "bce": see
    `binary_cross_entropy`.
    Errors are counted against `targets` only, so they are high for mixed images.
    """
    criterion = binary_cross_entropy if kind == "bce" else cross_entropy

    def loss_fn(model: Callable[..., torch.Tensor], batch: Batch) -> Losses:
        logits = model(batch.images).float()  # (B, K)
        assert isinstance(batch.targets, torch.Tensor)
        loss = criterion(logits, batch, label_smoothing)
        errors = logits.detach().argmax(1).ne(batch.targets).sum()
        sums = {"loss": loss.detach() * len(batch), "errors": errors}
        return Losses(loss, sums, len(batch))

    return loss_fn


def custom_loss(loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> LossFn:
    """`loss(logits, targets)` of logits (B, K) and classes (B,) as the loss to minimize.

    It returns the mean over the images, or (B,) values; mixed images (mixup, cutmix) need the
    latter, which are weighted by the shares of their two classes. A module is moved to the device
    of the logits; its own parameters are not trained. Raises ConfigError for another result.
    """

    def values(logits: torch.Tensor, targets: torch.Tensor, batch: Batch) -> torch.Tensor:
        value = loss(logits, targets)
        if value.shape not in ((), (len(batch),)):
            raise ConfigError(
                f"loss: returns {tuple(value.shape)} for {len(batch)} images; a mean () or one"
                " value per image are needed"
            )
        if value.dim() == 0 and batch.other is not None:
            raise ConfigError(
                "loss: returns a mean, which cannot be weighted for mixed images; return one value"
                " per image, or set data.augment.mixup and cutmix to 0"
            )
        return value

    def loss_fn(model: Callable[..., torch.Tensor], batch: Batch) -> Losses:
        logits = model(batch.images).float()  # (B, K)
        assert isinstance(batch.targets, torch.Tensor)
        if isinstance(loss, nn.Module):
            loss.to(logits.device)
        total = values(logits, batch.targets, batch)
        if batch.other is not None and batch.share is not None:
            other = values(logits, batch.other, batch)
            total = batch.share * total + (1 - batch.share) * other
        total = total.mean()
        errors = logits.detach().argmax(1).ne(batch.targets).sum()
        sums = {"loss": total.detach() * len(batch), "errors": errors}
        return Losses(total, sums, len(batch))

    return loss_fn


def cross_entropy(logits: torch.Tensor, batch: Batch, smoothing: float) -> torch.Tensor:
    """Mean cross-entropy of `logits` (B, K)."""
    assert isinstance(batch.targets, torch.Tensor)
    if batch.other is None or batch.share is None:
        return F.cross_entropy(logits, batch.targets, label_smoothing=smoothing)
    first, second = (
        F.cross_entropy(logits, classes, label_smoothing=smoothing, reduction="none")
        for classes in (batch.targets, batch.other)
    )
    return (batch.share * first + (1 - batch.share) * second).mean()


def binary_cross_entropy(logits: torch.Tensor, batch: Batch, smoothing: float) -> torch.Tensor:
    """Mean binary cross-entropy of `logits` (B, K), one yes-or-no question per class.

    Wightman et al. 2021, section 2.2: a mixed image contains both of its classes, whatever their
    shares; as in their code, those of more than `MIN_SHARE`. Targets are 1 for present classes and
    0 for others, smoothed to 1 - smoothing + smoothing / K and smoothing / K.
    """
    off = smoothing / logits.shape[1]
    on = 1 - smoothing + off
    targets = torch.full_like(logits, off)
    assert isinstance(batch.targets, torch.Tensor)
    if batch.other is None or batch.share is None:
        targets.scatter_(1, batch.targets[:, None], on)
        return F.binary_cross_entropy_with_logits(logits, targets)
    for classes, share in ((batch.targets, batch.share), (batch.other, 1 - batch.share)):
        current = targets.gather(1, classes[:, None])
        value = torch.where(share[:, None] > MIN_SHARE, on, current)
        targets.scatter_(1, classes[:, None], value)
    return F.binary_cross_entropy_with_logits(logits, targets)
