"""Prediction of the next character as a task of a training run."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from resnets.data.batch import Batch
from resnets.sequence.evaluate import BITS, bits, cross_entropy
from resnets.train.loss import Losses, LossFn
from resnets.train.tasks.sequence import SequenceTask


class TextTask(SequenceTask):
    """A transformer and its text."""

    monitor = BITS

    @property
    def loss_fn(self) -> LossFn:
        """Mean cross-entropy of the next character."""
        return text_loss


def text_loss(model: Callable[..., Tensor], batch: Batch) -> Losses:
    """Mean cross-entropy of the next character (a `LossFn`); of characters (B, T) each."""
    assert isinstance(batch.targets, Tensor)
    loss = cross_entropy(model(batch.images).float(), batch.targets)
    total = loss.detach() * len(batch)
    return Losses(loss, {"loss": total, BITS: bits(total)}, len(batch))
