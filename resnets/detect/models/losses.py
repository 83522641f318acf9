"""Task losses of detectors and segmenters for the one training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from resnets.data.batch import Batch
from resnets.train.loss import Losses

LEARNT = ("boxes", "labels", "masks")


def model_losses(model: Callable[..., Any], batch: Batch) -> Losses:
    """What the model says its losses are (a `LossFn`): their sum is minimised, each is logged.

    Regions of many objects (COCO's iscrowd) teach nothing. Losses are means over a batch, so they
    are logged as means weighted by pictures.
    """
    targets = batch.targets
    if isinstance(targets, list):
        targets = [_learnt(target) for target in targets]
    losses: dict[str, Tensor] = model(batch.images, targets)
    total = sum(losses.values())
    assert isinstance(total, Tensor)
    parts = {"loss": total, **losses}
    return Losses(
        total, {name: each.detach() * len(batch) for name, each in parts.items()}, len(batch)
    )


def _learnt(target: dict[str, Any]) -> dict[str, Any]:
    kept = {name: target[name] for name in LEARNT if name in target}
    crowd = target.get("iscrowd")
    if crowd is None or not crowd.any():
        return kept
    single = crowd == 0
    return {name: values[single] for name, values in kept.items()}
