"""How pictures are shown to the net at test time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

ViewFn = Callable[[nn.Module, Tensor], Tensor]
"""`(model, images (B, C, H, W)) -> logits (B, K)`, averaged where it shows several views."""


def centre(model: nn.Module, images: Tensor) -> Tensor:
    """One view: the picture as the preprocessing gives it, which is its centre crop."""
    logits: Tensor = model(images)
    return logits


def logits_of(model: nn.Module, images: Tensor, *, precision: str, view: ViewFn = centre) -> Tensor:
    """Logits (B, K) float32 of normalised `images` (B, C, H, W), computed in `precision`.

    `precision` is "float32" or "bfloat16" (autocast).
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = view(model, images.contiguous(memory_format=torch.channels_last))
    return logits.float()
