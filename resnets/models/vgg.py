"""VGG (Simonyan and Zisserman, ICLR 2015), the paper's baseline, from the same `ModelSpec`."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from resnets.config import ConfigError, ModelSpec
from resnets.models import layers
from resnets.models.init import initialise
from resnets.models.net import Net
from resnets.models.norm_act import norm_relu

CLASSIFIER_WIDTH = 4096
POOLED = 7


class ConvUnit(nn.Module):
    """A 3x3 convolution, a norm where the spec has one, and relu.

    The convolution has a bias even before a norm, as in every VGG checkpoint in circulation.
    """

    def __init__(self, spec: ModelSpec, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm = layers.norm(spec, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H, W)."""
        return norm_relu(self.norm, self.conv(x))


class VGG(Net):
    """Stages of 3x3 convolutions that end with a 2x2 max pool, then 4096-4096-K linear layers.

    `stages(x)`: `stage1` ... `stage5`, strides 2, 4, 8, 16, 32 (there is no stem). The pool is the
    last child of its stage, so `net.stage5[:-1]` gives conv5_3 at stride 16, which Faster R-CNN
    reads. Before the linear layers the features are average-pooled to 7x7.
    """

    input_layer: ClassVar[str] = "stage1.0.conv"

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        for field in ("drop_path", "blur_pool", "dilate"):
            if getattr(spec, field):
                raise ConfigError(f"model.{field}: only nets of blocks have it, not {spec.name}")
        smallest = 2 ** len(spec.depths)
        if spec.input_size < smallest:
            raise ConfigError(
                f"model.input_size: {spec.input_size} px is less than the {smallest} px that the "
                f"{len(spec.depths)} pools of {spec.name} need; use larger pictures (data.size)"
            )
        channels = spec.in_channels
        names = []
        for index, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True)):
            inputs = (channels, *[width] * (depth - 1))
            units = [ConvUnit(spec, c_in, width) for c_in in inputs]
            names.append(f"stage{index + 1}")
            self.add_module(names[-1], nn.Sequential(*units, nn.MaxPool2d(2)))
            channels = width
        self.stage_names = tuple(names)
        self.pool = nn.AdaptiveAvgPool2d(POOLED)
        self.fc1 = nn.Linear(channels * POOLED**2, CLASSIFIER_WIDTH)
        self.fc2 = nn.Linear(CLASSIFIER_WIDTH, CLASSIFIER_WIDTH)
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(CLASSIFIER_WIDTH, spec.num_classes)
        initialise(self)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, K) from the last stage's output (B, C, H, W)."""
        x = self.pool(features).flatten(1)  # (B, C * 49)
        x = self.dropout(F.relu(self.fc1(x), inplace=True))
        x = self.dropout(F.relu(self.fc2(x), inplace=True))
        return self.head(x)
