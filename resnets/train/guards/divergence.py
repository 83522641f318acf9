"""A run that is no longer worth going on with, and how that is seen in its tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch

CURES = (
    "try a lower rate (--set optim.lr=...), a longer warm-up (--set schedule.warmup=0.05), "
    "clipping (--set optim.clip_norm=1) or --set precision=float32"
)


class Diverged(ValueError):  # noqa: N818  (the field's word)
    """The loss became NaN, infinite or absurd, or a weight did; says where and what to try."""


def not_finite(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first tensor with NaN or infinity in it, or None.

    By its extremes: NaN is both of them. `isfinite` takes six times as long.
    """
    for name, tensor in tensors.items():
        counts = tensor.is_floating_point() and tensor.numel() > 0
        if counts and not all(map(torch.isfinite, tensor.aminmax())):
            return name
    return None
