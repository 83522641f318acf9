"""Layers that the blocks of all networks are built from, except norms.

Blurred layers have the same parameters and names as the layers they replace, so weights fit both.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.config import ModelSpec

# Inputs with fewer channels, such as images, are not blurred, as in Zhang 2019 and the FFCV
# recipes, whose first convolution is a regular one.
MIN_BLURRED_CHANNELS = 16


def conv(
    spec: ModelSpec,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    dilation: int = 1,
    input_bias: bool = False,
) -> nn.Conv1d | nn.Conv2d:
    """Return a convolution over `spec.dims` dimensions that keeps the resolution at stride 1.

    It has no bias if a norm follows.
    """
    kind: type[nn.Conv1d | nn.Conv2d] = nn.Conv2d
    if spec.dims == 1:
        kind = nn.Conv1d
    elif spec.norm == "group+ws":
        kind = StdConv
    elif input_bias:
        kind = BiasedConv
    elif spec.blur_pool and stride > 1 and in_channels >= MIN_BLURRED_CHANNELS:
        kind = BlurredConv
    unnormalized = spec.norm == "none" and spec.branch_scale != "fixup"
    return kind(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding=kernel_size // 2 * dilation,
        dilation=dilation,
        groups=groups,
        bias=bias or unnormalized or spec.conv_bias == "all",
    )


def low_pass(x: Tensor, stride: int = 1) -> Tensor:
    """Blur, then subsample: (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride)).

    The filter is (1, 2, 1) / 4 in each direction ("Triangle-3" of Zhang 2019), computed as two
    averages of neighbors; the border pixels are replicated.
    """
    x = F.avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=False)
    return F.avg_pool2d(x, 2, stride=stride)


class BlurredConv(nn.Conv2d):
    """A strided convolution of the blurred input (as in the FFCV recipes)."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        return super().forward(low_pass(input))


class StdConv(nn.Conv2d):
    """Convolution with weight standardization: mean 0, variance 1 per filter (Qiao et al. 2019)."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-10)
        return self._conv_forward(input, weight, self.bias)


class BiasedConv(nn.Conv2d):
    """A convolution of `input + input_bias`, a learned scalar (Fixup, Zhang et al. 2019)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.input_bias = nn.Parameter(torch.zeros(1))

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return super().forward(input + self.input_bias)


class Scale(nn.Module):
    """`factor * x` with a constant or learned scalar; with `bias`, a learned scalar is added."""

    def __init__(self, factor: float, *, learned: bool = False, bias: bool = False) -> None:
        super().__init__()
        self.factor = factor
        self.weight = nn.Parameter(torch.full((1,), factor)) if learned else None
        self.bias = nn.Parameter(torch.zeros(1)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        x = x * (self.factor if self.weight is None else self.weight)
        return x if self.bias is None else x + self.bias

    def extra_repr(self) -> str:
        """Return the factor, if it is constant."""
        return f"{self.factor:g}" if self.weight is None else "learned"


class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018): `x * sigmoid(fc2(relu(fc1(mean))))` per channel.

    The two layers are 1x1 convolutions, with biases, of the mean over positions.
    """

    label = "squeeze and excitation"

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = max(8, int(channels / reduction + 4) // 8 * 8)  # rounded as in timm
        self.fc1 = nn.Conv2d(channels, inner, 1)
        self.fc2 = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        means = x.mean((2, 3), keepdim=True)
        factors: Tensor = self.fc2(F.relu(self.fc1(means))).sigmoid()
        return x * factors


class EfficientChannelAttention(nn.Module):
    """ECA (Wang et al. 2020): `x * sigmoid(conv(mean))`, convolved over neighboring channels.

    The kernel size grows with the logarithm of the channels (their eq. 12): 5 at 256, 7 at 2048.
    """

    label = "channel attention"

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = max(3, int((math.log2(channels) + 1) / 2) // 2 * 2 + 1)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        factors: Tensor = self.conv(x.mean((2, 3))[:, None]).sigmoid()
        return x * factors[:, 0, :, None, None]


class BlurredMaxPool(nn.MaxPool2d):
    """Max pooling with stride 1, blurred, then subsampled (Zhang 2019, eq. 8)."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""
        dense = F.max_pool2d(input, self.kernel_size, stride=1, padding=self.padding)
        assert isinstance(self.stride, int)
        return low_pass(dense, self.stride)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): zeroes F(x) of an image with probability `p`.

    Only in training. The other images are scaled by 1 / (1 - p), which preserves the mean.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    @property
    def active(self) -> bool:
        """True if branches are dropped: in training mode with p > 0."""
        return self.training and self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        if not self.active:
            return x
        from torchvision.ops import stochastic_depth  # slow: imports torch's compiler

        return stochastic_depth(x, self.p, mode="row", training=True)


def add_shortcut(
    branch: Tensor,
    shortcut: Tensor | None,
    drop_path: DropPath | None = None,
    *,
    inplace: bool = False,
) -> Tensor:
    """Return `drop_path(branch) + shortcut`, all (B, C, H, W); no shortcut in a plain network."""
    if shortcut is None:
        return branch
    if drop_path is not None:
        branch = drop_path(branch)
    return branch.add_(shortcut) if inplace else branch + shortcut
