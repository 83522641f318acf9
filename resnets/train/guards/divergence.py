"""Divergence: the loss or a weight is no longer a usable number."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from resnets.utils.errors import ResnetsError

HINTS = (
    "try a lower learning rate (--set optim.lr=...), a longer warmup (--set schedule.warmup=0.05), "
    "clipping (--set optim.clip_norm=1) or --set precision=float32"
)


class Diverged(ResnetsError):  # noqa: N818  (the field's word)
    """The loss became NaN, infinite or far too large, or a weight not finite."""


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first tensor that contains NaN or infinity, or None.

    Checks the minimum and maximum, which NaN propagates to; `isfinite` takes six times as long.
    """
    for name, tensor in tensors.items():
        checked = tensor.is_floating_point() and tensor.numel() > 0
        if checked and not all(map(torch.isfinite, tensor.aminmax())):
            return name
    return None
