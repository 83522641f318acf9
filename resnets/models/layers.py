"""Layers that the blocks of all networks are built from, besides norms.

Blurred layers have the parameters and names of the layers they replace, so the same weights fit.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from resnets.config import ModelSpec

# Inputs of fewer channels, such as images, are not blurred: Zhang 2019 and the FFCV recipes leave
# the stem's convolution alone, too.
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
) -> nn.Conv2d:
    """Convolution that keeps the resolution at stride 1; without a bias where a norm follows."""
    blurred = spec.blur_pool and stride > 1 and in_channels >= MIN_BLURRED_CHANNELS
    return (BlurredConv if blurred else nn.Conv2d)(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding=kernel_size // 2 * dilation,
        dilation=dilation,
        groups=groups,
        bias=bias or spec.norm == "none" or spec.conv_bias == "all",
    )


def low_pass(x: Tensor, stride: int = 1) -> Tensor:
    """(B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride)), blurred, then subsampled.

    The filter is (1, 2, 1) / 4 in each direction ("Triangle-3" of Zhang 2019), computed as two
    averages over neighbors; at the border the outermost pixels count as repeated.
    """
    x = F.avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=False)
    return F.avg_pool2d(x, 2, stride=stride)


class BlurredConv(nn.Conv2d):
    """A strided convolution of the blurred input (as in the FFCV recipes)."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        return super().forward(low_pass(input))


class BlurredMaxPool(nn.MaxPool2d):
    """Maxima at stride 1, blurred, then subsampled (Zhang 2019, eq. 8)."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""
        dense = F.max_pool2d(input, self.kernel_size, stride=1, padding=self.padding)
        assert isinstance(self.stride, int)
        return low_pass(dense, self.stride)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, F(x) of an image is zero with chance `p`.

    The others are scaled by 1 / (1 - p), so the mean stays.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    @property
    def active(self) -> bool:
        """Whether anything is dropped now."""
        return self.training and self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        if not self.active:
            return x
        from torchvision.ops import stochastic_depth  # imports torch's compiler: seconds

        return stochastic_depth(x, self.p, mode="row", training=True)


def add_shortcut(
    branch: Tensor,
    shortcut: Tensor | None,
    drop_path: DropPath | None = None,
    *,
    inplace: bool = False,
) -> Tensor:
    """`drop_path(branch) + shortcut`: all (B, C, H, W). In a plain network `shortcut` is None."""
    if shortcut is None:
        return branch
    if drop_path is not None:
        branch = drop_path(branch)
    return branch.add_(shortcut) if inplace else branch + shortcut
