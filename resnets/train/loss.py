"""Task losses: the only place where the loop's tasks differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from resnets.data.batch import Batch


@dataclass(frozen=True)
class Losses:
    """What one batch gives the loop.

    total: scalar to minimise. sums: detached scalars added up over `count` examples; the log
    divides them, and by convention a sum named "errors" counts wrong answers.
    """

    total: torch.Tensor
    sums: dict[str, torch.Tensor]
    count: int


LossFn = Callable[[Callable[..., torch.Tensor], Batch], Losses]


def classification(label_smoothing: float = 0.0) -> LossFn:
    """Cross-entropy on integer targets (B,), with label smoothing (Szegedy et al. 2016)."""

    def loss_fn(model: Callable[..., torch.Tensor], batch: Batch) -> Losses:
        logits = model(batch.images).float()  # (B, K)
        targets = batch.targets  # (B,)
        assert isinstance(targets, torch.Tensor)
        loss = F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
        wrong = logits.detach().argmax(1).ne(targets).sum()
        sums = {"loss": loss.detach() * len(batch), "errors": wrong}
        return Losses(loss, sums, len(batch))

    return loss_fn
