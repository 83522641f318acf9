"""Classification of signals as a task of a training run."""

from __future__ import annotations

from resnets.train.loss import LossFn, classification_loss
from resnets.train.tasks.sequence import SequenceTask


class SignalTask(SequenceTask):
    """A 1-D residual network and its signals."""

    monitor = "top1_error"

    @property
    def loss_fn(self) -> LossFn:
        """The recipe's loss."""
        return classification_loss(self.recipe.loss)
