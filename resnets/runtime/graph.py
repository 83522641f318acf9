"""The graph that every artifact carries: uint8 pictures in, logits out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resnets.models import Net
from resnets.runtime.fold_batch_norm import fold

INPUT, OUTPUT = "pictures", "logits"


class Deployed(nn.Module):
    """A folded net with its normalisation: (B, size, size, C) uint8 RGB or grey to (B, K) float32.

    `precision` is that of the net ("float32" or "bfloat16"); pictures are normalised in float32.
    `plain`: planes first in memory, which leaves the graphs that other runtimes read simpler.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, net: Net, precision: str = "float32", *, plain: bool = False) -> None:
        super().__init__()
        mean, scale = net.preprocess.mean_and_scale(torch.device("cpu"))
        self.bgr = net.preprocess.spec.channel_order == "bgr"
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", scale.clone())
        self.net = fold(net)
        if precision == "bfloat16":
            self.net = self.net.to(torch.bfloat16)
        self.dtype = getattr(torch, precision)
        self.plain = plain
        if not plain:
            self.net = self.net.to(memory_format=torch.channels_last)
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, size, size, C) uint8 -> logits (B, K) float32."""
        images = pictures.permute(0, 3, 1, 2)  # channels last in memory
        images = images.contiguous() if self.plain else images
        images = images.flip(1) if self.bgr else images
        images = (images.float() - self.mean) * self.scale
        logits: Tensor = self.net(images.to(self.dtype))
        return logits.float()
