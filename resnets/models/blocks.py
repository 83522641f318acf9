"""Building blocks: shortcuts (options A, B, C) and the four residual blocks.

Shapes: every block maps (B, c_in, H, W) to (B, c_out, H', W') with H' = ceil(H / stride). Layers
are called `conv1`, `norm1`, ... in the order of the data. Where `norm` is "none", the norms are
`nn.Identity` and the convolutions have biases.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.config import ModelSpec
from resnets.models.layers import conv, low_pass, norm
from resnets.models.norm_act import norm_alone, norm_relu, second_use


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Where in a net a block stands, and what follows from it.

    width: of its 3x3 convolutions. dilation: of the first 3x3 convolution and of the one after it.
    drop_path: probability that training leaves its branch out. first: whether it opens the net.
    """

    c_in: int
    width: int
    stride: int = 1
    dilation: tuple[int, int] = (1, 1)
    drop_path: float = 0.0
    first: bool = False


class ZeroPad(nn.Module):
    """Option A: the identity, subsampled by the stride and padded with zero channels.

    The zeros go half before and half after the channels, as the CIFAR checkpoints in circulation
    have it; any other place is the same net with its channels in another order.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, blur: bool = False) -> None:
        super().__init__()
        self.stride = stride
        self.blur = blur and stride > 1
        self.before = (c_out - c_in) // 2
        self.after = c_out - c_in - self.before

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H / stride), ceil(W / stride))."""
        step = self.stride
        if self.blur:
            x = low_pass(x, step)
        elif x.requires_grad and x.is_contiguous(memory_format=torch.channels_last):
            # The gradient of a slice is contiguous, and adding it to one that is channels last
            # takes ten times as long: 5% of a step of cifar-resnet20 on a CPU.
            x = x.permute(0, 2, 3, 1)[:, ::step, ::step].permute(0, 3, 1, 2)
        else:
            x = x[:, :, ::step, ::step]
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
        return norm_alone(self.norm, self.conv(x))


def make_shortcut(spec: ModelSpec, place: BlockConfig) -> nn.Module | None:
    """The shortcut that `spec.shortcut` asks for at this place; None in a plain net."""
    c_in, c_out, stride = place.c_in, place.width * spec.expansion, place.stride
    fits = stride == 1 and c_in == c_out
    if spec.shortcut == "none":
        return None
    if spec.shortcut == "C" or (spec.shortcut == "B" and not fits):
        return Projection(spec, c_in, c_out, stride, normed=not spec.block.startswith("preact"))
    return nn.Identity() if fits else ZeroPad(c_in, c_out, stride, spec.blur_pool)


class Block(nn.Module, ABC):
    """`relu(F(x) + shortcut(x))` (paper, eq. 1 and 2); in a plain net `relu(F(x))`.

    `shortcut` is a module, None in a plain net. `paths` is what a study measures. In training,
    F(x) is zero for a share `drop_path` of the pictures and scaled up for the others, so that its
    mean stays (stochastic depth, Huang et al. 2016).
    """

    shortcut: nn.Module | None

    def __init__(self, place: BlockConfig) -> None:
        super().__init__()
        self.drop_path = place.drop_path

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

    def _drop(self, branch: Tensor) -> Tensor:
        """`branch` (B, C, H, W), left out for some pictures in training."""
        if not (self.training and self.drop_path):
            return branch
        from torchvision.ops import stochastic_depth  # torch's compiler comes with it: seconds

        return stochastic_depth(branch, self.drop_path, mode="row", training=True)


class PostActBlock(Block):
    """A block as in the paper: norm after each convolution, relu after the addition."""

    @property
    @abstractmethod
    def closing_norm(self) -> nn.Module:
        """The norm at the end of the branch."""

    @abstractmethod
    def _convolve(self, x: Tensor) -> Tensor:
        """The branch up to its closing norm."""

    def branch(self, x: Tensor) -> Tensor:
        """F(x): conv and norm, repeated, with relu between."""
        return self.closing_norm(self._convolve(x))

    @property
    def last_layer(self) -> nn.Module:
        """The closing norm, or the last convolution in a net without norms."""
        *_, last = (layer for layer in self.children() if isinstance(layer, nn.Conv2d))
        return last if isinstance(self.closing_norm, nn.Identity) else self.closing_norm

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H', W')."""
        shortcut = None if self.shortcut is None else self.shortcut(second_use(x))
        if shortcut is not None and self.training and self.drop_path:
            return F.relu(self._drop(self.branch(x)) + shortcut, inplace=True)
        return norm_relu(self.closing_norm, self._convolve(x), shortcut)


class Basic(PostActBlock):
    """Two 3x3 convolutions (paper, Fig. 5 left)."""

    def __init__(self, spec: ModelSpec, place: BlockConfig) -> None:
        super().__init__(place)
        width, (first, second) = place.width, place.dilation
        self.conv1 = conv(spec, place.c_in, width, 3, place.stride, dilation=first)
        self.norm1 = norm(spec, width)
        self.conv2 = conv(spec, width, width, 3, dilation=second)
        self.norm2 = norm(spec, width)
        self.shortcut = make_shortcut(spec, place)

    def _convolve(self, x: Tensor) -> Tensor:
        return self.conv2(norm_relu(self.norm1, self.conv1(x)))

    @property
    def closing_norm(self) -> nn.Module:
        """`norm2`."""
        return self.norm2


class Bottleneck(PostActBlock):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide (paper, Fig. 5 right).

    `groups` and `width_per_group` make it a ResNeXt's (Xie et al. 2017) or a wide one's
    (Zagoruyko and Komodakis 2016).
    """

    def __init__(self, spec: ModelSpec, place: BlockConfig) -> None:
        super().__init__(place)
        c_out, dilation = place.width * spec.expansion, place.dilation[0]
        inner, first, second = bottleneck_plan(spec, place)
        self.conv1 = conv(spec, place.c_in, inner, 1, first)
        self.norm1 = norm(spec, inner)
        self.conv2 = conv(spec, inner, inner, 3, second, spec.groups, dilation=dilation)
        self.norm2 = norm(spec, inner)
        self.conv3 = conv(spec, inner, c_out, 1)
        self.norm3 = norm(spec, c_out)
        self.shortcut = make_shortcut(spec, place)

    def _convolve(self, x: Tensor) -> Tensor:
        x = norm_relu(self.norm1, self.conv1(x))
        return self.conv3(norm_relu(self.norm2, self.conv2(x)))

    @property
    def closing_norm(self) -> nn.Module:
        """`norm3`."""
        return self.norm3


def bottleneck_plan(spec: ModelSpec, place: BlockConfig) -> tuple[int, int, int]:
    """Inner width, stride of the first 1x1 and stride of the 3x3."""
    inner = place.width * spec.width_per_group // 64 * spec.groups
    return (inner, place.stride, 1) if spec.stride_in == "1x1" else (inner, 1, place.stride)


class PreActBlock(Block):
    """`F(x) + shortcut(x)` with norm and relu before each convolution (He et al., ECCV 2016).

    The input of the first block of the net comes normalised and activated from the stem and is
    split into two paths as it is, so its `norm1` is an `nn.Identity` (their appendix).
    """

    norm1: nn.Module

    @abstractmethod
    def _convolve(self, x: Tensor) -> Tensor:
        """The rest of the branch, after the pre-activation `relu(norm1(x))`."""

    def branch(self, x: Tensor) -> Tensor:
        """F(x): norm, relu and conv, repeated."""
        return self._convolve(norm_relu(self.norm1, x, keep=True))

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """F(x) and what the shortcut adds to it; a projection reads the pre-activated input."""
        # Not in place: without a norm, this relu would overwrite what the shortcut carries.
        active = norm_relu(self.norm1, x, keep=True)
        source = active if isinstance(self.shortcut, Projection) else x
        return self._convolve(active), None if self.shortcut is None else self.shortcut(source)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H', W')."""
        out, shortcut = self.paths(x)
        return out if shortcut is None else self._drop(out) + shortcut


class PreActBasic(PreActBlock):
    """Pre-activation block with two 3x3 convolutions."""

    def __init__(self, spec: ModelSpec, place: BlockConfig) -> None:
        super().__init__(place)
        width, (first, second) = place.width, place.dilation
        self.norm1 = nn.Identity() if place.first else norm(spec, place.c_in)
        self.conv1 = conv(spec, place.c_in, width, 3, place.stride, dilation=first)
        self.norm2 = norm(spec, width)
        self.conv2 = conv(spec, width, width, 3, dilation=second)
        self.shortcut = make_shortcut(spec, place)

    def _convolve(self, x: Tensor) -> Tensor:
        x = norm_relu(self.norm2, self.conv1(x))
        return self.conv2(x)

    @property
    def last_layer(self) -> nn.Module:
        """`conv2`."""
        return self.conv2


class PreActBottleneck(PreActBlock):
    """Pre-activation block with 1x1, 3x3 and 1x1 convolutions."""

    def __init__(self, spec: ModelSpec, place: BlockConfig) -> None:
        super().__init__(place)
        dilation = place.dilation[0]
        inner, first, second = bottleneck_plan(spec, place)
        self.norm1 = nn.Identity() if place.first else norm(spec, place.c_in)
        self.conv1 = conv(spec, place.c_in, inner, 1, first)
        self.norm2 = norm(spec, inner)
        self.conv2 = conv(spec, inner, inner, 3, second, spec.groups, dilation=dilation)
        self.norm3 = norm(spec, inner)
        self.conv3 = conv(spec, inner, place.width * spec.expansion, 1)
        self.shortcut = make_shortcut(spec, place)

    def _convolve(self, x: Tensor) -> Tensor:
        x = norm_relu(self.norm2, self.conv1(x))
        x = norm_relu(self.norm3, self.conv2(x))
        return self.conv3(x)

    @property
    def last_layer(self) -> nn.Module:
        """`conv3`."""
        return self.conv3
