"""`Batch`: what the training loop and evaluation take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images ready for a model, with their targets and rows.

    images: (B, C, H, W) float32 on the device, or a list of (C, H, W) where sizes differ
    (detection). targets: (B,) int64 classes, or a list of B dicts. ids: (B,) int64 on the CPU, the
    rows of the split the images came from.

    Where images were mixed (mixup, cutmix), `targets` count for `share` (B,) in 0..1 of each and
    the classes `other` (B,) int64 for the rest; None where nothing was mixed.
    """

    images: Tensor | list[Tensor]
    targets: Tensor | list[dict[str, Any]]
    ids: Tensor
    other: Tensor | None = None
    share: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> Batch:
        """Images start .. stop - 1 alone."""
        place = slice(start, stop)
        return Batch(
            self.images[place],
            self.targets[place],
            self.ids[place],
            None if self.other is None else self.other[place],
            None if self.share is None else self.share[place],
        )
