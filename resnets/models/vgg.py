"""VGG (Simonyan and Zisserman, ICLR 2015), the paper's baseline, with the same `ModelSpec`."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from resnets.config import ModelSpec
from resnets.models.classifier import ImageClassifier, init_weights
from resnets.models.norm import MakeNorm, make_norm

HIDDEN = 4096  # units of the first two linear layers
POOLED = 7  # [px] height and width of their input feature map


class ConvUnit(nn.Module):
    """A 3x3 convolution, a norm if the spec has one, and relu.

    The convolution has a bias even before a norm, as in all common VGG checkpoints.
    """

    def __init__(
        self, spec: ModelSpec, in_channels: int, out_channels: int, norm: MakeNorm | None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = make_norm(spec, out_channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self.norm(self.conv(x))


class VGG(ImageClassifier):
    """Stages of 3x3 convolutions, each with a final 2x2 max pool, then 4096-4096-K linear layers.

    Outputs of `stages(x)`: `stage1` to `stage5`, strides 2, 4, 8, 16, 32 (there is no stem). The
    pool is the last child of its stage, so `model.stage5[:-1]` returns conv5_3 at stride 16, which
    Faster R-CNN uses. Before the linear layers the features are average-pooled to 7x7.

    norm: replaces the norm of the spec, as in `ResNet`.
    """

    input_layer: ClassVar[str] = "stage1.0.conv"

    def __init__(self, spec: ModelSpec, *, norm: MakeNorm | None = None) -> None:
        super().__init__(spec, norm=norm)
        channels = spec.in_channels
        self.stage_names = tuple(f"stage{index + 1}" for index in range(len(spec.depths)))
        for name, depth, width in zip(self.stage_names, spec.depths, spec.widths, strict=True):
            units = [
                ConvUnit(spec, in_channels, width, norm)
                for in_channels in (channels, *[width] * (depth - 1))
            ]
            self.add_module(name, nn.Sequential(*units, nn.MaxPool2d(2)))
            channels = width
        self.pool = nn.AdaptiveAvgPool2d(POOLED)
        self.fc1 = nn.Linear(channels * POOLED**2, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.dropout = nn.Dropout(spec.dropout)
        self.head = self._new_head(spec.num_classes)
        init_weights(self)

    def forward_head(self, features: Tensor) -> Tensor:
        """Return logits (B, K) for the feature maps (B, C, H, W) of `forward_features`."""
        x = self.pool(features).flatten(1)  # (B, C * 49)
        x = self.dropout(F.relu(self.fc1(x), inplace=True))
        x = self.dropout(F.relu(self.fc2(x), inplace=True))
        return self.head(x)

    def _new_head(self, num_classes: int) -> nn.Linear:
        return nn.Linear(HIDDEN, num_classes)
