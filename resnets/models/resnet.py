"""Residual, plain and pre-activation networks for ImageNet and CIFAR (He et al., CVPR 2016).

Read top down: shortcuts (options A, B, C), blocks (Fig. 5), stem, and the network (Table 1). Layers
are called `conv1`, `norm1`, ... in the order of the data. A norm is one module with the addition
of the shortcut and relu: `norm2(y, shortcut)` is `relu(batch_norm(y) + shortcut)`. With
`norm="none"` only addition and relu are left, and convolutions have biases.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.config import ModelSpec
from resnets.models import layers
from resnets.models.block import BlockConfig, MakeBlock, check_blocks, require
from resnets.models.classifier import ImageClassifier, init_weights
from resnets.models.layers import BlurredMaxPool, DropPath, add_shortcut
from resnets.models.norm import MakeNorm, make_norm


class NoShortcut(nn.Module):
    """The shortcut of a plain network."""

    def forward(self, x: Tensor) -> None:
        """None, which a block does not add."""


class ZeroPad(nn.Module):
    """Option A: the identity, subsampled by the stride and padded with zero channels.

    Half of the zeros come before the channels and half after them, as in common CIFAR checkpoints;
    any other place is the same network with its channels in another order.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.stride = config.stride
        self.blur = config.spec.blur_pool and config.stride > 1
        self.before = (config.out_channels - config.in_channels) // 2
        self.after = config.out_channels - config.in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        stride = self.stride
        if self.blur:
            x = layers.low_pass(x, stride)
        elif x.requires_grad and x.is_contiguous(memory_format=torch.channels_last):
            # The gradient of a slice is contiguous, and adding it to one that is channels last
            # takes ten times as long: 5% of a step of cifar-resnet20 on a CPU.
            x = x.permute(0, 2, 3, 1)[:, ::stride, ::stride].permute(0, 3, 1, 2)
        else:
            x = x[:, :, ::stride, ::stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class Projection(nn.Module):
    """Options B and C: a 1x1 convolution with the block's stride, then a norm.

    In a pre-activation block there is no norm: its input is normalized already.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        channels = config.out_channels
        self.conv = config.conv(config.in_channels, channels, 1, stride=config.stride)
        self.norm = nn.Identity() if config.spec.is_preact else config.norm(channels, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.norm(self.conv(x))


def make_shortcut(config: BlockConfig) -> nn.Module:
    """The shortcut that `spec.shortcut` asks for; one that returns None in a plain network."""
    option = config.spec.shortcut
    changes = config.stride > 1 or config.in_channels != config.out_channels
    if option == "none":
        return NoShortcut()
    if option == "C" or (option == "B" and changes):
        return Projection(config)
    return ZeroPad(config) if changes else nn.Identity()


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, y = relu(F(x) + shortcut(x)) (Fig. 5 left)."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        width, (dilation1, dilation2) = config.width, config.dilation
        stride = config.stride
        self.conv1 = config.conv(config.in_channels, width, 3, stride=stride, dilation=dilation1)
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
        """F(x) and what the shortcut adds to it, both (B, out_channels, H', W')."""
        y = self.norm1(self.conv1(x))
        return self.norm2.normalize(self.conv2(y)), self.shortcut(x)

    @property
    def last_layer(self) -> nn.Module:
        """The layer at the end of F(x)."""
        return self.norm2 if _has_parameters(self.norm2) else self.conv2


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide (Fig. 5 right)."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        width, channels, dilation = config.bottleneck_width, config.out_channels, config.dilation[0]
        (stride1, stride2), groups = config.bottleneck_strides, config.spec.groups
        self.conv1 = config.conv(config.in_channels, width, 1, stride=stride1)
        self.norm1 = config.norm(width)
        self.conv2 = config.conv(width, width, 3, stride=stride2, groups=groups, dilation=dilation)
        self.norm2 = config.norm(width)
        self.conv3 = config.conv(width, channels, 1)
        self.norm3 = config.norm(channels)
        self.shortcut = make_shortcut(config)
        self.drop_path = DropPath(config.drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        y = self.norm1(self.conv1(x))
        y = self.norm2(self.conv2(y))
        return self.norm3(self.conv3(y), self.shortcut(x), self.drop_path)

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """F(x) and what the shortcut adds to it, both (B, out_channels, H', W')."""
        y = self.norm1(self.conv1(x))
        y = self.norm2(self.conv2(y))
        return self.norm3.normalize(self.conv3(y)), self.shortcut(x)

    @property
    def last_layer(self) -> nn.Module:
        """The layer at the end of F(x)."""
        return self.norm3 if _has_parameters(self.norm3) else self.conv3


class PreActBasicBlock(nn.Module):
    """Two 3x3 convolutions with norm and relu before each (He et al., ECCV 2016).

    The network's first block has no `norm1`: the stem has normalized and activated its input.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        width, (dilation1, dilation2) = config.width, config.dilation
        stride = config.stride
        self.norm1 = _first_norm(config)
        self.conv1 = config.conv(config.in_channels, width, 3, stride=stride, dilation=dilation1)
        self.norm2 = config.norm(width)
        self.conv2 = config.conv(width, width, 3, dilation=dilation2)
        self.shortcut = make_shortcut(config)
        self.drop_path = DropPath(config.drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        branch, shortcut = self.paths(x)
        return add_shortcut(branch, shortcut, self.drop_path)

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """F(x) and what the shortcut adds to it; a projection reads the activated input."""
        y = self.norm1(x)
        shortcut = self.shortcut(y if isinstance(self.shortcut, Projection) else x)
        y = self.norm2(self.conv1(y))
        return self.conv2(y), shortcut

    @property
    def last_layer(self) -> nn.Module:
        """The layer at the end of F(x)."""
        return self.conv2


class PreActBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with norm and relu before each (He et al., ECCV 2016)."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        width, channels, dilation = config.bottleneck_width, config.out_channels, config.dilation[0]
        (stride1, stride2), groups = config.bottleneck_strides, config.spec.groups
        self.norm1 = _first_norm(config)
        self.conv1 = config.conv(config.in_channels, width, 1, stride=stride1)
        self.norm2 = config.norm(width)
        self.conv2 = config.conv(width, width, 3, stride=stride2, groups=groups, dilation=dilation)
        self.norm3 = config.norm(width)
        self.conv3 = config.conv(width, channels, 1)
        self.shortcut = make_shortcut(config)
        self.drop_path = DropPath(config.drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        branch, shortcut = self.paths(x)
        return add_shortcut(branch, shortcut, self.drop_path)

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """F(x) and what the shortcut adds to it; a projection reads the activated input."""
        y = self.norm1(x)
        shortcut = self.shortcut(y if isinstance(self.shortcut, Projection) else x)
        y = self.norm2(self.conv1(y))
        y = self.norm3(self.conv2(y))
        return self.conv3(y), shortcut

    @property
    def last_layer(self) -> nn.Module:
        """The layer at the end of F(x)."""
        return self.conv3


def _first_norm(config: BlockConfig) -> nn.Module:
    """The norm and relu before a pre-activation block; the shortcut still needs its input."""
    return nn.Identity() if config.first else config.norm(config.in_channels, inplace=False)


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


BLOCKS: dict[str, MakeBlock] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
    "preact-basic": PreActBasicBlock,
    "preact-bottleneck": PreActBottleneck,
}


class Stem(nn.Module):
    """What comes before the first block: convolution, norm, relu and, for ImageNet, a max pool.

    "imagenet": 7x7 stride 2 and 3x3 max pool stride 2 (Table 1). "cifar": 3x3 stride 1.
    The pool's windows start one pixel outside the map (`stem_pool` "padded") or, as in Caffe, at
    its corner ("ceil"); both give 56 px at 224 px.
    """

    def __init__(self, spec: ModelSpec, norm: MakeNorm | None) -> None:
        super().__init__()
        imagenet, bias = spec.stem == "imagenet", spec.conv_bias == "stem"
        kernel_size, stride = (7, 2) if imagenet else (3, 1)
        width = spec.stem_width
        self.conv = layers.conv(spec, spec.in_channels, width, kernel_size, stride, bias=bias)
        self.norm = make_norm(spec, width, norm)
        ceil = spec.stem_pool == "ceil"
        max_pool = BlurredMaxPool if spec.blur_pool else nn.MaxPool2d
        pool = max_pool(3, stride=2, padding=0 if ceil else 1, ceil_mode=ceil)
        self.pool = pool if imagenet else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, stem_width, H / 4, W / 4), or (B, stem_width, H, W) for "cifar"."""
        return self.pool(self.norm(self.conv(x)))


class ResNet(ImageClassifier):
    """A stem, stages of equal blocks, global average pooling and a linear head (Table 1).

    block: replaces the block of the spec, see `BlockConfig`. norm: replaces its norm; a callable
    that takes the number of channels and returns a module that normalizes (B, C, H, W), such as
    `lambda channels: nn.GroupNorm(8, channels)`.

    Strides of `stages(x)` for the ImageNet stem: `stem` (after its pool) 4, `stage1` 4, `stage2`
    8, `stage3` 16, `stage4` 32; for the CIFAR stem 1, 1, 2, 4. The last `spec.dilate` stages keep
    the stride of the one before and dilate instead. The stages of a pre-activation network return
    raw sums; `norm`, the norm and relu after the last stage, belongs to `classify`.
    """

    input_layer: ClassVar[str] = "stem.conv"

    def __init__(
        self, spec: ModelSpec, *, block: MakeBlock | None = None, norm: MakeNorm | None = None
    ) -> None:
        super().__init__(spec, block=block, norm=norm)
        self.stem = Stem(spec, norm)
        self.stage_names = ("stem", *(f"stage{index + 1}" for index in range(len(spec.depths))))
        make_block = block or BLOCKS[spec.block]
        for name, configs in zip(self.stage_names[1:], _block_configs(spec, norm), strict=True):
            self.add_module(name, nn.Sequential(*(make_block(config) for config in configs)))
            if block is not None:
                check_blocks(self.get_submodule(name), configs, self.custom_names["block"])
        channels = spec.out_channels
        self.norm: nn.Module = nn.Identity()
        if spec.is_preact:
            self.norm = make_norm(spec, channels, norm, inplace=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(channels, spec.num_classes)
        init_weights(self)
        if spec.zero_init_residual and spec.residual:
            self._zero_init_residual()

    def blocks(self) -> dict[str, nn.Module]:
        """The residual or plain blocks by name ("stage1.0"), from input to output."""
        return {
            f"{stage}.{index}": block
            for stage in self.stage_names[1:]
            for index, block in self.get_submodule(stage).named_children()
        }

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, K) from the last stage's output (B, C, H, W)."""
        features = self.norm(features)
        return self.head(self.dropout(self.pool(features).flatten(1)))

    def _zero_init_residual(self) -> None:
        """Start each block as its shortcut (Goyal et al. 2017, section 5.1)."""
        for block in self.blocks().values():
            for parameter in require(block, "last_layer").parameters():
                nn.init.zeros_(parameter)


def _block_configs(spec: ModelSpec, norm: MakeNorm | None) -> list[list[BlockConfig]]:
    """Each stage's blocks; the first one of every stage but stage 1 halves the resolution.

    Where a stage dilates instead, its first 3x3 still works at the spacing of the stage before
    (as in torchvision and timm, which fits weights of strided networks best). The probability of
    dropping a branch rises linearly from 0 at the first block to `spec.drop_path` at the last.
    """
    stages: list[list[BlockConfig]] = []
    channels, dilation, number = spec.stem_width, 1, 0
    last = max(1, sum(spec.depths) - 1)
    for index, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True)):
        stride, before = 1 if index == 0 else 2, dilation
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
