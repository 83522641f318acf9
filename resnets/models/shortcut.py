"""Shortcuts of a block: options A, B and C of the paper, and variants of later papers.

Options: He et al., CVPR 2016, section 4.1. Average pooling: He et al. 2019 (ResNet-D). A constant
factor, dropout or a gate: He et al., ECCV 2016, Table 1; Srivastava et al. 2015.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.models import layers
from resnets.models.block_config import BlockConfig
from resnets.models.layers import Scale


class NoShortcut(nn.Module):
    """The shortcut of a plain network: none."""

    def forward(self, x: Tensor) -> None:
        """Return None; then a block adds nothing."""


class ZeroPad(nn.Module):
    """Option A: identity, subsampled by the stride and padded with zero channels.

    Half of the zeros come before the channels and half after them, as in common CIFAR checkpoints.
    Other positions give an equivalent network with its channels permuted.
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
        elif x.ndim == 3:
            return F.pad(x[:, :, ::stride], (0, 0, self.before, self.after))
        elif x.requires_grad and x.is_contiguous(memory_format=torch.channels_last):
            # The gradient of a slice is contiguous. Adding it to a channels-last gradient takes ten
            # times as long: 5% of a step of cifar-resnet20 on a CPU.
            x = x.permute(0, 2, 3, 1)[:, ::stride, ::stride].permute(0, 3, 1, 2)
        else:
            x = x[:, :, ::stride, ::stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class Projection(nn.Module):
    """Options B and C: a 1x1 convolution with the block's stride, then a norm.

    With `spec.shortcut_pool` "average" a 2x2 average pool before the convolution has the stride. In
    a pre-activation block no norm follows, because the input is already normalized. With Fixup
    there is no norm either, and the block adds the bias of its first convolution to the input
    (Zhang et al. 2019).
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        channels = config.out_channels
        self.pool, stride = _average_pool(config)
        self.conv = layers.conv(config.spec, config.in_channels, channels, 1, stride=stride)
        unnormalized = config.spec.is_preact or config.spec.branch_scale == "fixup"
        self.norm = nn.Identity() if unnormalized else config.norm(channels, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.norm(self.conv(self.pool(x)))


def _average_pool(config: BlockConfig) -> tuple[nn.Module, int]:
    """Return the pool before a projection, and the stride of the projection itself.

    If the stage uses dilation, the pool has stride 1 (as in timm).
    """
    dilates = config.dilation[0] != config.dilation[1]
    if config.spec.shortcut_pool == "none" or (config.stride == 1 and not dilates):
        return nn.Identity(), config.stride
    if dilates:
        return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(2, stride=1)), 1
    return nn.AvgPool2d(2, config.stride, ceil_mode=True, count_include_pad=False), 1


class GatedShortcut(nn.Module):
    """`(1 - g(x)) option(x)`, where g is the sigmoid of a convolution, per channel and position.

    The convolution is 1x1 in He et al. (ECCV 2016, section 3.1), and 3x3 in highway networks
    (Srivastava et al. 2015), where 1 - g is the carry gate. The gate has the stride of the block.
    """

    def __init__(self, config: BlockConfig, option: nn.Module) -> None:
        super().__init__()
        size = 3 if config.spec.shortcut_gate == "highway" else 1
        channels = (config.in_channels, config.out_channels)
        self.option = option
        kind = nn.Conv1d if config.spec.dims == 1 else nn.Conv2d
        self.gate = kind(*channels, size, config.stride, padding=size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        return self.split(x, x)[0]

    def split(self, x: Tensor, activated: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tensor that the shortcut adds, and g(x); a projection reads `activated`."""
        gate = self.gate(x).sigmoid()
        return (1 - gate) * self.option(activated), gate


def make_shortcut(config: BlockConfig) -> nn.Module:
    """Return the shortcut of the spec; in a plain network its output is None."""
    spec, option = config.spec, _make_option(config)
    if spec.shortcut_gate != "none":
        return GatedShortcut(config, option)
    if spec.shortcut_scale != 1:
        return ScaledShortcut(option, Scale(spec.shortcut_scale))
    if spec.shortcut_dropout:
        return ScaledShortcut(option, nn.Dropout(spec.shortcut_dropout))
    return option


class ScaledShortcut(nn.Module):
    """`scale(option(x))`: an option, followed by a constant factor or dropout."""

    def __init__(self, option: nn.Module, scale: nn.Module) -> None:
        super().__init__()
        self.option, self.scale = option, scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        out: Tensor = self.scale(self.option(x))
        return out


def get_option(shortcut: nn.Module) -> nn.Module:
    """Return the identity, `ZeroPad` or `Projection` inside a shortcut of `make_shortcut`."""
    return shortcut.option if isinstance(shortcut, GatedShortcut | ScaledShortcut) else shortcut


def _make_option(config: BlockConfig) -> nn.Module:
    option = config.spec.shortcut
    changes_shape = config.stride > 1 or config.in_channels != config.out_channels
    if option == "none":
        return NoShortcut()
    if option == "C" or (option == "B" and changes_shape):
        return Projection(config)
    return ZeroPad(config) if changes_shape else nn.Identity()
