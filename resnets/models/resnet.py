"""The residual family: residual, plain and pre-activation nets for ImageNet and CIFAR."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from resnets.config import ConfigError, ModelSpec
from resnets.models import blocks, layers
from resnets.models.init import initialise
from resnets.models.net import Net
from resnets.models.norm_act import norm_relu

BLOCKS: dict[str, Callable[[ModelSpec, blocks.BlockConfig], blocks.Block]] = {
    "basic": blocks.Basic,
    "bottleneck": blocks.Bottleneck,
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
        self.conv = layers.conv(spec, spec.in_channels, spec.stem_width, kernel, stride, bias=bias)
        self.norm = layers.norm(spec, spec.stem_width)
        ceil = spec.stem_pool == "ceil"
        pool_kind = layers.BlurredMaxPool if spec.blur_pool else nn.MaxPool2d
        pool = pool_kind(3, stride=2, padding=0 if ceil else 1, ceil_mode=ceil)
        self.pool = pool if imagenet else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, stem_width, H / 4, W / 4), or (B, stem_width, H, W) for "cifar"."""
        return self.pool(norm_relu(self.norm, self.conv(x)))


class ResNet(Net):
    """A stem, stages of equal blocks, global average pooling and a linear head.

    Strides of `stages(x)` for the ImageNet stem: `stem` (after its pool) 4, `stage1` 4, `stage2`
    8, `stage3` 16, `stage4` 32; for the CIFAR stem 1, 1, 2, 4. The last `spec.dilate` stages keep
    the stride of the one before and dilate instead. Widths are those of the spec, times four for
    bottlenecks. A pre-activation net's stages are the raw sums; the norm and relu
    that close it (`norm`) come after the last stage, in `classify`.
    """

    input_layer: ClassVar[str] = "stem.conv"

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        _check(spec)
        self.stem = Stem(spec)
        self.stage_names = ("stem", *(f"stage{index + 1}" for index in range(len(spec.depths))))
        for name, places in zip(self.stage_names[1:], _places(spec), strict=True):
            self.add_module(name, nn.Sequential(*(BLOCKS[spec.block](spec, p) for p in places)))
        channels = spec.widths[-1] * spec.expansion
        preact = spec.block.startswith("preact")
        self.norm = layers.norm(spec, channels) if preact else None
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(channels, spec.num_classes)
        initialise(self)
        if spec.zero_init_residual and spec.residual:
            _start_as_identity(self)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, K) from the last stage's output (B, C, H, W)."""
        if self.norm is not None:
            features = norm_relu(self.norm, features)
        return self.head(self.dropout(self.pool(features).flatten(1)))


def _places(spec: ModelSpec) -> list[list[blocks.BlockConfig]]:
    """Each stage's blocks; the first one of every stage but stage 1 halves the resolution.

    Where a stage dilates instead, its first 3x3 still works at the spacing of the stage before
    (torchvision's and timm's rule, which fits weights of strided nets best). The rate of dropped
    branches rises linearly from 0 at the first block to `spec.drop_path` at the last.
    """
    stages: list[list[blocks.BlockConfig]] = []
    c_in, dilation, number = spec.stem_width, 1, 0
    last = max(1, sum(spec.depths) - 1)
    for index, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True)):
        stride, before = 1 if index == 0 else 2, dilation
        if index >= len(spec.depths) - spec.dilate:
            dilation, stride = dilation * stride, 1
        stages.append([])
        for position in range(depth):
            opens = position == 0
            place = blocks.BlockConfig(
                c_in=c_in,
                width=width,
                stride=stride if opens else 1,
                dilation=(before if opens else dilation, dilation),
                drop_path=spec.drop_path * number / last,
                first=number == 0,
            )
            stages[-1].append(place)
            c_in, number = width * spec.expansion, number + 1
    return stages


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
    if not 0 <= spec.drop_path < 1 or (spec.drop_path and not spec.residual):
        raise ConfigError(
            f"model.drop_path: {spec.drop_path} must be a share in [0, 1), and {spec.name} residual"
        )
    if not 0 <= spec.dilate < len(spec.depths):
        raise ConfigError(
            f"model.dilate: {spec.dilate} of {len(spec.depths)} stages; the first one has no stride"
        )
    if spec.blur_pool and spec.stem_pool == "ceil":
        raise ConfigError("model.blur_pool: needs model.stem_pool 'padded', not 'ceil'")
