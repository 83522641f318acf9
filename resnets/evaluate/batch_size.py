"""How many pictures a net computes at once: found by trying, never told."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Input pixels (pictures x height x width) computed at once. A CPU takes a megapixel, which costs
# ResNet-50 0.4 GiB and VGG-16 1.5 (measured); a larger picture goes alone. An accelerator starts
# with 256 pictures of 224 px and halves that when its memory runs out.
CPU_PIXELS = 1 << 20
DEVICE_PIXELS = 256 * 224 * 224


class Budget:
    """Input pixels that fit a device; starts large and is halved whenever memory runs out."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pixels = CPU_PIXELS if device.type == "cpu" else DEVICE_PIXELS

    def pictures(self, pixels: int) -> int:
        """How many pictures of so many pixels are computed at once; at least 1."""
        return max(1, self.pixels // pixels)

    def run(self, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """`function` of `images` (B, C, H, W), computed in parts along B that fit.

        Raises ValueError when not even one picture fits.
        """
        height, width = images.shape[2:]
        done: list[Tensor] = []
        start = 0
        while start < len(images):
            part = images[start : start + self.pictures(height * width)]
            try:
                done.append(function(part))
                start += len(part)
                continue
            except torch.OutOfMemoryError:
                self.pixels = len(part) * height * width // 2
            # Outside of `except`, whose traceback still held the tensors that filled the memory.
            torch.accelerator.empty_cache()
            if len(part) == 1:
                raise ValueError(
                    f"{self.device}: out of memory with one picture of {width}x{height} px;"
                    " choose smaller scales or --device cpu"
                )
        return torch.cat(done)
