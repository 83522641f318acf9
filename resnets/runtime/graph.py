"""The graph of every artifact: uint8 images in, logits out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resnets.models import ImageClassifier
from resnets.runtime.fold_batch_norm import fold_batch_norms

INPUT, OUTPUT = "images", "logits"


class InferenceModule(nn.Module):
    """A folded model with its normalization: uint8 (B, size, size, C) to float32 (B, K).

    precision: of the model, "float32" or "bfloat16"; images are normalized in float32.
    channels_first: NCHW memory format, which gives simpler graphs for other runtimes.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, net: ImageClassifier, precision: str = "float32", *, channels_first: bool = False
    ) -> None:
        super().__init__()
        mean, scale = net.preprocess.mean_and_scale(torch.device("cpu"))
        self.bgr = net.preprocess.spec.channel_order == "bgr"
        self.register_buffer("mean", mean.clone())
        self.register_buffer("scale", scale.clone())
        self.net = fold_batch_norms(net)
        if precision == "bfloat16":
            self.net = self.net.to(torch.bfloat16)
        self.dtype = getattr(torch, precision)
        self.channels_first = channels_first
        if not channels_first:
            self.net = self.net.to(memory_format=torch.channels_last)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(B, size, size, C) uint8 -> logits (B, K) float32."""
        images = images.permute(0, 3, 1, 2)  # channels last in memory
        images = images.contiguous() if self.channels_first else images
        images = images.flip(1) if self.bgr else images
        images = (images.float() - self.mean) * self.scale
        logits: Tensor = self.net(images.to(self.dtype))
        return logits.float()
