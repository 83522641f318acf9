"""Layers that the blocks of all nets are made of: convolution, norm, and subsampling without alias.

A blurred layer has the parameters and the name of the layer it replaces, so the same weights fit.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from resnets.config import ModelSpec

# Pictures and other inputs of few channels are not blurred: they are as sharp as they should be
# seen (Zhang 2019 and the FFCV recipes leave the stem's convolution alone, too).
BLURRED_FROM = 16


def conv(
    spec: ModelSpec,
    c_in: int,
    c_out: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    dilation: int = 1,
) -> nn.Conv2d:
    """Convolution that keeps the size at stride 1; its bias would be undone by a norm after it."""
    kind = BlurredConv if spec.blur_pool and stride > 1 and c_in >= BLURRED_FROM else nn.Conv2d
    return kind(
        c_in,
        c_out,
        kernel,
        stride,
        padding=kernel // 2 * dilation,
        dilation=dilation,
        groups=groups,
        bias=bias or spec.norm == "none" or spec.conv_bias == "all",
    )


def norm(spec: ModelSpec, channels: int) -> nn.Module:
    """Batch normalisation (Ioffe and Szegedy 2015), or nothing."""
    return nn.BatchNorm2d(channels, spec.norm_eps) if spec.norm == "batch" else nn.Identity()


def low_pass(x: Tensor, stride: int = 1) -> Tensor:
    """(B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride)), blurred, then subsampled.

    The filter is (1, 2, 1) / 4 each way ("Triangle-3" of Zhang 2019), done as two averages over
    neighbours; at the border the outermost pixels count as repeated.
    """
    x = F.avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=False)
    return F.avg_pool2d(x, 2, stride=stride)


class BlurredConv(nn.Conv2d):
    """A strided convolution of the blurred input (the form of the FFCV recipes)."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H / stride), ceil(W / stride))."""
        return super().forward(low_pass(input))


class BlurredMaxPool(nn.MaxPool2d):
    """Maxima at stride 1, blurred, then subsampled (Zhang 2019, eq. 8)."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride))."""
        dense = F.max_pool2d(input, self.kernel_size, stride=1, padding=self.padding)
        assert isinstance(self.stride, int)
        return low_pass(dense, self.stride)
