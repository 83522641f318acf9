"""The residual family: residual, plain and pre-activation nets for ImageNet and CIFAR."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from resnets.config import ConfigError, ModelSpec
from resnets.models import blocks
from resnets.models.initialise import initialise
from resnets.models.net import Net

BLOCKS: dict[str, type[blocks.Block]] = {
    "basic": blocks.Basic,
    "bottleneck": blocks.Bottleneck,
}
PREACT_BLOCKS: dict[str, type[blocks.PreActBasic] | type[blocks.PreActBottleneck]] = {
    "preact-basic": blocks.PreActBasic,
    "preact-bottleneck": blocks.PreActBottleneck,
}


class Stem(nn.Module):
    """What comes before the first block: convolution, norm, relu and, for ImageNet, a max pool.

    "imagenet": 7x7 stride 2 and 3x3 max pool stride 2 (paper, Table 1). "cifar": 3x3 stride 1.
    The pool's windows start one pixel outside the map (`stem_pool` "padded") or, as in Caffe, at
    its corner ("ceil"); both give 56 px at 224 px.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        imagenet = spec.stem == "imagenet"
        kernel, stride = (7, 2) if imagenet else (3, 1)
        bias = spec.conv_bias == "stem"
        self.conv = blocks.conv(spec, spec.in_channels, spec.stem_width, kernel, stride, bias=bias)
        self.norm = blocks.norm(spec, spec.stem_width)
        ceil = spec.stem_pool == "ceil"
        pool = nn.MaxPool2d(3, stride=2, padding=0 if ceil else 1, ceil_mode=ceil)
        self.pool = pool if imagenet else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, stem_width, H / 4, W / 4), or (B, stem_width, H, W) for "cifar"."""
        return self.pool(F.relu(self.norm(self.conv(x)), inplace=True))


class ResNet(Net):
    """A stem, stages of equal blocks, global average pooling and a linear head.

    Strides of `stages(x)` for the ImageNet stem: `stem` (after its pool) 4, `stage1` 4, `stage2`
    8, `stage3` 16, `stage4` 32; for the CIFAR stem 1, 1, 2, 4. Widths are those of the spec,
    times four for bottlenecks. A pre-activation net's stages are the raw sums; the norm and relu
    that close it (`norm`) come after the last stage, in `classify`.
    """

    input_layer: ClassVar[str] = "stem.conv"

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        _check(spec)
        self.stem = Stem(spec)
        channels = spec.stem_width
        names = ["stem"]
        for index, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True)):
            names.append(f"stage{index + 1}")
            self.add_module(names[-1], _stage(spec, index, depth, channels, width))
            channels = width * spec.expansion
        self.stage_names = tuple(names)
        preact = spec.block in PREACT_BLOCKS
        self.norm = blocks.norm(spec, channels) if preact else None
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(channels, spec.num_classes)
        initialise(self)
        if spec.zero_init_residual and spec.residual:
            _start_as_identity(self)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, K) from the last stage's output (B, C, H, W)."""
        if self.norm is not None:
            features = F.relu(self.norm(features))
        return self.head(self.dropout(self.pool(features).flatten(1)))


def _stage(spec: ModelSpec, index: int, depth: int, c_in: int, width: int) -> nn.Sequential:
    """`depth` blocks; the first one of every stage but stage 1 halves the resolution."""
    stage = nn.Sequential()
    for position in range(depth):
        stride = 2 if position == 0 and index > 0 else 1
        if spec.block in PREACT_BLOCKS:
            first = index == 0 and position == 0
            stage.append(PREACT_BLOCKS[spec.block](spec, c_in, width, stride, first))
        else:
            stage.append(BLOCKS[spec.block](spec, c_in, width, stride))
        c_in = width * spec.expansion
    return stage


def _start_as_identity(net: ResNet) -> None:
    """Null the last layer of each branch, so that each block starts as its shortcut.

    Goyal et al. 2017, section 5.1; the last norm, or the last convolution where no norm follows.
    """
    for block in net.modules():
        if isinstance(block, blocks.Block):
            for parameter in block.last_layer.parameters():
                nn.init.zeros_(parameter)


def _check(spec: ModelSpec) -> None:
    """Raise ConfigError where the fields of `spec` contradict each other."""
    channels = (spec.stem_width, *(width * spec.expansion for width in spec.widths))
    if spec.shortcut == "A" and list(channels) != sorted(channels):
        raise ConfigError(
            f"model.shortcut: option A pads with zeros and cannot narrow; stem_width and widths "
            f"give {channels}; use B"
        )
    if spec.expansion == 1 and (spec.groups, spec.width_per_group) != (1, 64):
        raise ConfigError(
            f"model.groups, model.width_per_group: only bottlenecks have them, not {spec.block!r}"
        )
    if spec.groups < 1 or min(spec.widths) * spec.width_per_group < 64:
        raise ConfigError(
            f"model.groups {spec.groups} with width_per_group {spec.width_per_group}: too narrow"
        )
