"""Building blocks: shortcuts (options A, B, C) and the four residual blocks.

Shapes: every block maps (B, c_in, H, W) to (B, c_out, H', W') with H' = ceil(H / stride). Layers
are called `conv1`, `norm1`, ... in the order of the data. Where `norm` is "none", the norms are
`nn.Identity` and the convolutions have biases.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from resnets.config import ModelSpec


def conv(
    spec: ModelSpec,
    c_in: int,
    c_out: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> nn.Conv2d:
    """Convolution that keeps the size at stride 1; its bias would be undone by a norm after it."""
    bias = bias or spec.norm == "none" or spec.conv_bias == "all"
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=bias)


def norm(spec: ModelSpec, channels: int) -> nn.Module:
    """Batch normalisation (Ioffe and Szegedy 2015), or nothing."""
    return nn.BatchNorm2d(channels, spec.norm_eps) if spec.norm == "batch" else nn.Identity()


class ZeroPad(nn.Module):
    """Option A: the identity, subsampled by the stride and padded with zero channels.

    The zeros go half before and half after the channels, as the CIFAR checkpoints in circulation
    have it; any other place is the same net with its channels in another order.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (c_out - c_in) // 2
        self.after = c_out - c_in - self.before

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H / stride), ceil(W / stride))."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


class Projection(nn.Module):
    """Options B and C: a 1x1 convolution with the block's stride, then a norm.

    Before a pre-activation block there is no norm: its input is normalised already.
    """

    def __init__(
        self, spec: ModelSpec, c_in: int, c_out: int, stride: int, normed: bool = True
    ) -> None:
        super().__init__()
        self.conv = conv(spec, c_in, c_out, 1, stride)
        self.norm = norm(spec, c_out) if normed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H / stride), ceil(W / stride))."""
        return self.norm(self.conv(x))


def make_shortcut(spec: ModelSpec, c_in: int, c_out: int, stride: int) -> nn.Module | None:
    """The shortcut that `spec.shortcut` asks for at this place; None in a plain net."""
    fits = stride == 1 and c_in == c_out
    if spec.shortcut == "none":
        return None
    if spec.shortcut == "C" or (spec.shortcut == "B" and not fits):
        return Projection(spec, c_in, c_out, stride, normed=not spec.block.startswith("preact"))
    return nn.Identity() if fits else ZeroPad(c_in, c_out, stride)


class Block(nn.Module, ABC):
    """`relu(F(x) + shortcut(x))` (paper, eq. 1 and 2); in a plain net `relu(F(x))`.

    `shortcut` is a module, None in a plain net. `paths` is what a study measures.
    """

    shortcut: nn.Module | None

    @abstractmethod
    def branch(self, x: Tensor) -> Tensor:
        """F(x): (B, c_in, H, W) -> (B, c_out, H', W')."""

    @property
    @abstractmethod
    def last_layer(self) -> nn.Module:
        """The layer at the end of the branch: F is zero where its weight and bias are."""

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """F(x) and what the shortcut adds to it, both (B, c_out, H', W')."""
        return self.branch(x), None if self.shortcut is None else self.shortcut(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H', W')."""
        out, shortcut = self.paths(x)
        if shortcut is not None:
            out += shortcut
        return F.relu(out, inplace=True)


class Basic(Block):
    """Two 3x3 convolutions (paper, Fig. 5 left)."""

    def __init__(self, spec: ModelSpec, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(spec, c_in, width, 3, stride)
        self.norm1 = norm(spec, width)
        self.conv2 = conv(spec, width, width, 3)
        self.norm2 = norm(spec, width)
        self.shortcut = make_shortcut(spec, c_in, width, stride)

    def branch(self, x: Tensor) -> Tensor:
        """F(x): conv, norm, relu, conv, norm."""
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return self.norm2(self.conv2(x))

    @property
    def last_layer(self) -> nn.Module:
        """`norm2`, or `conv2` in a net without norms."""
        return self.conv2 if isinstance(self.norm2, nn.Identity) else self.norm2


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide (paper, Fig. 5 right).

    `groups` and `width_per_group` make it a ResNeXt's (Xie et al. 2017) or a wide one's
    (Zagoruyko and Komodakis 2016).
    """

    def __init__(self, spec: ModelSpec, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        c_out = width * spec.expansion
        inner, first, second = bottleneck_plan(spec, width, stride)
        self.conv1 = conv(spec, c_in, inner, 1, first)
        self.norm1 = norm(spec, inner)
        self.conv2 = conv(spec, inner, inner, 3, second, spec.groups)
        self.norm2 = norm(spec, inner)
        self.conv3 = conv(spec, inner, c_out, 1)
        self.norm3 = norm(spec, c_out)
        self.shortcut = make_shortcut(spec, c_in, c_out, stride)

    def branch(self, x: Tensor) -> Tensor:
        """F(x): conv, norm and relu twice, then conv, norm."""
        x = F.relu(self.norm1(self.conv1(x)), inplace=True)
        x = F.relu(self.norm2(self.conv2(x)), inplace=True)
        return self.norm3(self.conv3(x))

    @property
    def last_layer(self) -> nn.Module:
        """`norm3`, or `conv3` in a net without norms."""
        return self.conv3 if isinstance(self.norm3, nn.Identity) else self.norm3


def bottleneck_plan(spec: ModelSpec, width: int, stride: int) -> tuple[int, int, int]:
    """Inner width, stride of the first 1x1 and stride of the 3x3."""
    inner = width * spec.width_per_group // 64 * spec.groups
    return (inner, stride, 1) if spec.stride_in == "1x1" else (inner, 1, stride)


class PreActBlock(Block):
    """`F(x) + shortcut(x)` with norm and relu before each convolution (He et al., ECCV 2016).

    `first` marks the first block of the net. Its input comes normalised and activated from the
    stem and is split into two paths as it is, so its `norm1` is an `nn.Identity` (their appendix).
    """

    norm1: nn.Module

    @abstractmethod
    def _convolve(self, x: Tensor) -> Tensor:
        """The rest of the branch, after the pre-activation `relu(norm1(x))`."""

    def branch(self, x: Tensor) -> Tensor:
        """F(x): norm, relu and conv, repeated."""
        return self._convolve(F.relu(self.norm1(x)))

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """F(x) and what the shortcut adds to it; a projection reads the pre-activated input."""
        # Not in place: without a norm, this relu would overwrite what the shortcut carries.
        active = F.relu(self.norm1(x))
        source = active if isinstance(self.shortcut, Projection) else x
        return self._convolve(active), None if self.shortcut is None else self.shortcut(source)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H', W')."""
        out, shortcut = self.paths(x)
        return out if shortcut is None else out + shortcut


class PreActBasic(PreActBlock):
    """Pre-activation block with two 3x3 convolutions."""

    def __init__(
        self, spec: ModelSpec, c_in: int, width: int, stride: int, first: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = nn.Identity() if first else norm(spec, c_in)
        self.conv1 = conv(spec, c_in, width, 3, stride)
        self.norm2 = norm(spec, width)
        self.conv2 = conv(spec, width, width, 3)
        self.shortcut = make_shortcut(spec, c_in, width, stride)

    def _convolve(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm2(self.conv1(x)), inplace=True)
        return self.conv2(x)

    @property
    def last_layer(self) -> nn.Module:
        """`conv2`."""
        return self.conv2


class PreActBottleneck(PreActBlock):
    """Pre-activation block with 1x1, 3x3 and 1x1 convolutions."""

    def __init__(
        self, spec: ModelSpec, c_in: int, width: int, stride: int, first: bool = False
    ) -> None:
        super().__init__()
        c_out = width * spec.expansion
        inner, first_stride, second_stride = bottleneck_plan(spec, width, stride)
        self.norm1 = nn.Identity() if first else norm(spec, c_in)
        self.conv1 = conv(spec, c_in, inner, 1, first_stride)
        self.norm2 = norm(spec, inner)
        self.conv2 = conv(spec, inner, inner, 3, second_stride, spec.groups)
        self.norm3 = norm(spec, inner)
        self.conv3 = conv(spec, inner, c_out, 1)
        self.shortcut = make_shortcut(spec, c_in, c_out, stride)

    def _convolve(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm2(self.conv1(x)), inplace=True)
        x = F.relu(self.norm3(self.conv2(x)), inplace=True)
        return self.conv3(x)

    @property
    def last_layer(self) -> nn.Module:
        """`conv3`."""
        return self.conv3
