"""`Batch`: the input of the training loop and of evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images ready for a model, with their targets and rows.

    images: (B, C, H, W) float32 on the device, or a list of (C, H, W) if sizes differ (detection).
    targets: (B,) int64 classes, or a list of B dicts. ids: (B,) int64 on the CPU, the rows of the
    images in the split.

    For mixed images (mixup, cutmix), `targets` have the weight `target_weight` (B,) in 0..1 in the
    loss, and the classes `other_targets` (B,) int64 the rest; None for images that are not mixed.
    """

    images: Tensor | list[Tensor]
    targets: Tensor | list[dict[str, Any]]
    ids: Tensor
    other_targets: Tensor | None = None
    target_weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> Batch:
        """Return images start .. stop - 1."""
        indices = slice(start, stop)
        return Batch(
            self.images[indices],
            self.targets[indices],
            self.ids[indices],
            None if self.other_targets is None else self.other_targets[indices],
            None if self.target_weight is None else self.target_weight[indices],
        )
