"""Residual and plain networks for ImageNet and CIFAR (He et al., CVPR 2016).

Read from top to bottom: blocks (Fig. 5), stem, and the network (Table 1). Shortcuts (options A, B,
C) are in `models.shortcut`, blocks of later papers in `models.residual_unit`. Layers are named
`conv1`, `norm1`, ... in execution order. A norm is one module that includes the addition of the
shortcut and the relu: `norm2(y, shortcut)` is `relu(batch_norm(y) + shortcut)`. With `norm="none"`
only addition and relu remain, and convolutions have biases.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from resnets.config import ModelSpec
from resnets.models import layers
from resnets.models.block_config import BlockConfig, MakeBlock, check_blocks, get_block_attr
from resnets.models.classifier import ImageClassifier, init_weights
from resnets.models.layers import BlurredMaxPool, DropPath
from resnets.models.norm import IdentityAct, MakeNorm, make_norm
from resnets.models.residual_unit import ORDERS, ResidualUnit, init_residual_units
from resnets.models.shortcut import make_shortcut
from resnets.models.speedrun_layers import (
    PooledBlock,
    ScaledLinear,
    WhiteningConv,
    check_speedrun_layers,
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, y = relu(F(x) + shortcut(x)) (Fig. 5 left)."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        channels, width, stride = config.in_channels, config.width, config.stride
        dilation1, dilation2 = config.dilation
        self.conv1 = config.conv(channels, width, 3, stride=stride, dilation=dilation1)
        self.norm1 = config.norm(width)
        self.conv2 = config.conv(width, width, 3, dilation=dilation2)
        self.norm2 = config.norm(width)
        self.shortcut = make_shortcut(config)
        self.drop_path = DropPath(config.drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        y = self.norm1(self.conv1(x))
        return self.norm2(self.conv2(y), self.shortcut(x), self.drop_path)

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return F(x) and the tensor that the shortcut adds, both (B, out_channels, H', W')."""
        y = self.norm1(self.conv1(x))
        return self.norm2.normalize(self.conv2(y)), self.shortcut(x)

    @property
    def last_layer(self) -> nn.Module:
        """The last layer of F(x)."""
        return self.norm2 if _has_parameters(self.norm2) else self.conv2


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; the last has four times the width (Fig. 5 right).

    The stride is in the 3x3 convolution ("v1.5"), or in the first 1x1 as in the paper (`stride_in`
    "1x1").
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        width, groups, dilation = config.bottleneck_width, config.spec.groups, config.dilation[0]
        stride1, stride2 = config.bottleneck_strides
        self.conv1 = config.conv(config.in_channels, width, 1, stride=stride1)
        self.norm1 = config.norm(width)
        self.conv2 = config.conv(width, width, 3, stride=stride2, groups=groups, dilation=dilation)
        self.norm2 = config.norm(width)
        self.conv3 = config.conv(width, config.out_channels, 1)
        self.norm3 = config.norm(config.out_channels)
        self.shortcut = make_shortcut(config)
        self.drop_path = DropPath(config.drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        y = self.norm1(self.conv1(x))
        y = self.norm2(self.conv2(y))
        return self.norm3(self.conv3(y), self.shortcut(x), self.drop_path)

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return F(x) and the tensor that the shortcut adds, both (B, out_channels, H', W')."""
        y = self.norm1(self.conv1(x))
        y = self.norm2(self.conv2(y))
        return self.norm3.normalize(self.conv3(y)), self.shortcut(x)

    @property
    def last_layer(self) -> nn.Module:
        """The last layer of F(x)."""
        return self.norm3 if _has_parameters(self.norm3) else self.conv3


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


BLOCKS: dict[str, MakeBlock] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
    **{
        f"{order}-{kind}": ResidualUnit
        for order in filter(None, ORDERS)
        for kind in ("basic", "bottleneck")
    },
}


def _select_block(spec: ModelSpec) -> MakeBlock:
    """Return the block class of `spec`."""
    if spec.scales_paths or spec.attention != "none":
        return ResidualUnit
    return BLOCKS[spec.block]


class Stem(nn.Module):
    """The layers before the first block: convolutions, each with norm and relu, and a max pool.

    - "imagenet": 7x7 convolution with stride 2, and 3x3 max pool with stride 2 (Table 1).
    - "deep", "tiered": three 3x3 convolutions, the first with stride 2, and the same pool.
    - "cifar": 3x3 convolution with stride 1, no pool.
    - "whitening": a fixed 2x2 convolution without padding (`WhiteningConv`), and relu.

    The pool is padded by one pixel (`stem_pool` "padded") or, as in Caffe, starts at the corner and
    rounds its output size up ("ceil"); both give 56 px for 224 px images. Layers run in the order
    in which they are added; `conv` is the first.
    """

    def __init__(self, spec: ModelSpec, norm: MakeNorm | None) -> None:
        super().__init__()
        if spec.stem == "whitening":
            self.conv = WhiteningConv(spec.in_channels)
            self.act = IdentityAct()
            self.act.activation = spec.activation
            return
        kernel_size, stride = {"imagenet": (7, 2), "cifar": (3, 1)}.get(spec.stem, (3, 2))
        channels, bias = spec.in_channels, spec.conv_bias == "stem"
        for number, width in enumerate(spec.stem_widths, 1):
            suffix = "" if number == 1 else str(number)
            conv = layers.conv(spec, channels, width, kernel_size, stride, bias=bias)
            self.add_module(f"conv{suffix}", conv)
            if number < len(spec.stem_widths) or spec.stem_norm:
                self.add_module(f"norm{suffix}", make_norm(spec, width, norm))
            channels, kernel_size, stride = width, 3, 1
        self.pool = nn.Identity() if spec.stem == "cifar" else _stem_pool(spec, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, stem_width, H / 4, W / 4), or (B, stem_width, H, W) for "cifar".

        For "whitening": (B, 8 C, H - 1, W - 1).
        """
        for layer in self.children():
            x = layer(x)
        return x


def _stem_pool(spec: ModelSpec, norm: MakeNorm | None) -> nn.Module:
    """Return the layer that halves the resolution after the stem's convolutions."""
    if spec.stem_pool == "conv":
        conv = layers.conv(spec, spec.stem_width, spec.stem_width, 3, 2)
        norm_layer = make_norm(spec, spec.stem_width, norm)
        return nn.Sequential(OrderedDict(conv=conv, norm=norm_layer))
    max_pool: type[nn.MaxPool1d | nn.MaxPool2d] = nn.MaxPool2d
    if spec.dims == 1:
        max_pool = nn.MaxPool1d
    elif spec.blur_pool:
        max_pool = BlurredMaxPool
    if spec.stem_pool == "zeros":
        return nn.Sequential(nn.ZeroPad2d(1), max_pool(3, stride=2))
    ceil = spec.stem_pool == "ceil"
    return max_pool(3, stride=2, padding=0 if ceil else 1, ceil_mode=ceil)


class ResNet(ImageClassifier):
    """A stem, stages of residual or plain blocks, global average pooling, linear head (Table 1).

    With `spec.dims` 1 the input is signals (B, C, L); then replace H, W by L in all shapes.

    Args:
        spec: Architecture of the network.
        block: Replaces the block of the spec, see `BlockConfig`.
        norm: Replaces the norm of the spec: a callable that takes the number of channels and
            returns a module that normalizes (B, C, H, W), such as `lambda channels: nn.GroupNorm(8,
            channels)`.

    Strides of `stages(x)` with the ImageNet stem: `stem` (after its pool) 4, `stage1` 4, `stage2`
    8, `stage3` 16, `stage4` 32. With the CIFAR stem: 1, 1, 2, 4; with `spec.downsample` "max-pool"
    1, 2, 4, 8. The last `spec.dilate` stages keep the stride of the stage before and use dilation
    instead. The stages of a pre-activation network return unnormalized sums; `norm`, the norm and
    relu after the last stage, is applied by `forward_features` and `classify`.
    """

    input_layer: ClassVar[str] = "stem.conv"

    def __init__(
        self, spec: ModelSpec, *, block: MakeBlock | None = None, norm: MakeNorm | None = None
    ) -> None:
        super().__init__(spec, block=block, norm=norm)
        check_speedrun_layers(spec)
        self.stage_names = ("stem", *(f"stage{number + 1}" for number in range(len(spec.depths))))
        self.stem = Stem(spec, norm)
        make_block, pooled = block or _select_block(spec), spec.downsample == "max-pool"
        for name, configs in zip(self.stage_names[1:], _block_configs(spec, norm), strict=True):
            first = partial(PooledBlock, make_block=make_block) if pooled else make_block
            blocks = [first(configs[0]), *map(make_block, configs[1:])]
            self.add_module(name, nn.Sequential(*blocks))
            if block is not None:
                check_blocks(self.get_submodule(name), configs, self.custom_names["block"])
        self.norm = _final_norm(spec, norm)
        self.pool = _head_pool(spec)
        self.dropout = nn.Dropout(spec.dropout)
        self.head = self._new_head(spec.num_classes)
        init_weights(self)
        init_residual_units(self)
        if spec.zero_init_residual and spec.residual:
            self._zero_init_residual()

    def blocks(self) -> dict[str, nn.Module]:
        """Residual or plain blocks by name ("stage1.0"), from input to output."""
        return {
            f"{stage}.{index}": block
            for stage in self.stage_names[1:]
            for index, block in self.get_submodule(stage).named_children()
        }

    def forward_features(self, x: Tensor) -> Tensor:
        """Return feature maps (B, C, H', W') for images `x` (B, C, H, W), after the final norm."""
        return self.norm(self.stages(x)[self.stage_names[-1]])

    def forward_head(self, features: Tensor) -> Tensor:
        """Return logits (B, K) for the feature maps (B, C, H, W) of `forward_features`."""
        return self.head(self.dropout(self.pool(features).flatten(1)))

    def classify(self, features: Tensor) -> Tensor:
        """Return logits (B, K) for the last stage's output (B, C, H, W)."""
        return self.forward_head(self.norm(features))

    def _new_head(self, num_classes: int) -> nn.Linear:
        head: nn.Linear = nn.Linear(self.spec.out_channels, num_classes)
        if self.spec.logit_scale != 1:
            head = ScaledLinear(self.spec.out_channels, num_classes, self.spec.logit_scale)
        return head

    def _zero_init_residual(self) -> None:
        """Zero the last layer of each F(x): blocks start as identities (Goyal et al. 2017)."""
        for block in self.blocks().values():
            for parameter in get_block_attr(block, "last_layer").parameters():
                nn.init.zeros_(parameter)


def _head_pool(spec: ModelSpec) -> nn.Module:
    """Return the global pooling layer before the head."""
    if spec.dims == 1:
        return nn.AdaptiveAvgPool1d(1)
    return nn.AdaptiveMaxPool2d(1) if spec.head_pool == "max" else nn.AdaptiveAvgPool2d(1)


def _final_norm(spec: ModelSpec, norm: MakeNorm | None) -> nn.Module:
    """Return the layers after the last stage: norm and relu for pre-activation blocks, or none."""
    if spec.is_preact:
        return make_norm(spec, spec.out_channels, norm, inplace=False)
    if spec.order == "relu-preact":
        return IdentityAct(inplace=False)
    if spec.branch_scale == "fixup":
        return make_norm(spec, spec.out_channels, norm, relu=False)
    return nn.Identity()


def _block_configs(spec: ModelSpec, norm: MakeNorm | None) -> list[list[BlockConfig]]:
    """Return the configs of each stage's blocks.

    The first block of each stage except stage 1 halves the resolution; with `spec.downsample`
    "max-pool", also that of stage 1.

    In a stage that uses dilation instead, the first 3x3 convolution has the dilation of the
    previous stage (as in torchvision and timm, which suits weights of strided networks best). The
    drop-path probability increases linearly from 0 at the first block to `spec.drop_path` at the
    last.
    """
    stages: list[list[BlockConfig]] = []
    channels, dilation, number = spec.stem_widths[-1], 1, 0
    last = max(1, sum(spec.depths) - 1)
    for index, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True)):
        keeps_size = index == 0 and spec.downsample == "stride"
        stride, before = 1 if keeps_size else 2, dilation
        if index >= len(spec.depths) - spec.dilate:
            dilation, stride = dilation * stride, 1
        stages.append([])
        for position in range(depth):
            config = BlockConfig(
                spec=spec,
                in_channels=channels,
                width=width,
                stride=stride if position == 0 else 1,
                dilation=(before if position == 0 else dilation, dilation),
                drop_path=spec.drop_path * number / last,
                first=number == 0,
                make_norm=norm,
            )
            stages[-1].append(config)
            channels, number = config.out_channels, number + 1
    return stages
