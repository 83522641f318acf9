"""`BlockConfig`: the settings of a block, and the interface of custom blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnets.config import ConfigError, ModelSpec
from resnets.models import layers
from resnets.models.norm import MakeNorm, NormAct, make_norm


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """Settings of one block: the only argument of its constructor.

    A custom block, `ResNet(spec, block=MyBlock)`, is a callable that takes a `BlockConfig` and
    returns a module that maps (B, in_channels, H, W) to (B, out_channels, ceil(H / stride),
    ceil(W / stride)). It may ignore any of the fields and methods. The module may have these
    attributes, each of which is required only for the uses listed:

    - `shortcut`, the module on the shortcut (`models.shortcut.make_shortcut`): for diagrams,
      studies and the CPU kernels;
    - `paths(x)`, which returns F(x) and the tensor that the shortcut adds to it: for studies;
    - `after_add(total)`, the layers after the addition, if not relu, gelu or none: for studies;
    - `last_layer`, the last layer of F(x); F(x) is zero if its weight and bias are: for
      `zero_init_residual`, and studies that remove or add blocks.

    Attributes:
        spec: Architecture of the network.
        in_channels: Channels of the block's input.
        width: Channels of the 3x3 convolutions.
        stride: Stride of the block.
        dilation: Dilations of the first 3x3 convolution and of the following ones.
        drop_path: Probability of dropping F(x) in training (stochastic depth).
        first: Whether this is the first block of the network.
        make_norm: Custom norm, or None for the norm of the spec.
    """

    spec: ModelSpec
    in_channels: int
    width: int
    stride: int = 1
    dilation: tuple[int, int] = (1, 1)
    drop_path: float = 0.0
    first: bool = False
    make_norm: MakeNorm | None = None

    @property
    def out_channels(self) -> int:
        """Channels of the block's output: `width`, or four times `width` for bottlenecks."""
        return self.width * self.spec.expansion

    @property
    def bottleneck_width(self) -> int:
        """Channels inside a bottleneck; wider in ResNeXt (Xie et al. 2017) and wide ResNets."""
        return self.width * self.spec.width_per_group // 64 * self.spec.groups

    @property
    def bottleneck_strides(self) -> tuple[int, int]:
        """Strides of a bottleneck's first 1x1 and of its 3x3 convolution."""
        return (self.stride, 1) if self.spec.stride_in == "1x1" else (1, self.stride)

    def conv(
        self, in_channels: int, out_channels: int, kernel_size: int, **options: Any
    ) -> nn.Conv1d | nn.Conv2d:
        """Return a convolution that keeps the resolution at stride 1; see `layers.conv`."""
        biased = self.spec.branch_scale == "fixup"
        channels = (in_channels, out_channels)
        return layers.conv(self.spec, *channels, kernel_size, input_bias=biased, **options)

    def norm(self, channels: int, *, relu: bool = True, inplace: bool = True) -> NormAct:
        """Return a norm with relu; `norm(x, shortcut)` adds the shortcut before the relu."""
        return make_norm(self.spec, channels, self.make_norm, relu=relu, inplace=inplace)


MakeBlock = Callable[[BlockConfig], nn.Module]


def get_block_attr(block: nn.Module, name: str) -> Any:
    """Return an optional attribute of a block; raises ConfigError if a custom block lacks it."""
    if not hasattr(block, name):
        raise ConfigError(
            f"block {type(block).__qualname__} has no `{name}`, which is needed here; "
            "resnets.models.block_config.BlockConfig describes it"
        )
    return getattr(block, name)


def residual_paths(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return F(x), shortcut(x) and the output of a residual block in eval mode, all (B, C, H, W).

    Raises ConfigError if a custom block has no `paths`, or if its `paths` contradicts its `forward`
    (for example because it is inherited).
    """
    branch, shortcut = get_block_attr(block, "paths")(x)
    out = block(x)
    activation_after_add(block, branch + shortcut, out)
    return branch, shortcut, out


def activation_after_add(
    block: nn.Module, total: Tensor, out: Tensor
) -> Callable[[Tensor], Tensor]:
    """Return the function from the sum `total` to the output `out` of `block`, both (B, C, H, W).

    This is the block's `after_add` if it exists, otherwise the identity, relu or gelu. Raises
    ConfigError if none of these returns `out`.
    """
    candidates: list[Callable[[Tensor], Tensor]] = [nn.Identity(), torch.relu, F.gelu]
    if hasattr(block, "after_add"):
        candidates = [get_block_attr(block, "after_add")]
    for activation in candidates:
        if torch.allclose(out, activation(total.clone()), rtol=1e-3, atol=1e-3):
            return activation
    raise ConfigError(
        f"block {type(block).__qualname__}: `paths(x)` returns other tensors than those that "
        "`forward(x)` adds; resnets.models.block_config.BlockConfig describes it"
    )


def check_blocks(stage: nn.Module, configs: Sequence[BlockConfig], name: str) -> None:
    """Raise ConfigError if a block of `stage` returns a wrong shape."""
    for config, block in zip(
        configs[:2], stage.children(), strict=False
    ):  # the other blocks equal the second
        dims = config.spec.dims
        x = torch.zeros(2, config.in_channels, *(8,) * dims)
        with eval_mode(block), torch.no_grad():
            shape = tuple(block(x).shape)
        size = math.ceil(8 / config.stride)
        expected = (2, config.out_channels, *(size,) * dims)
        if shape != expected:
            raise ConfigError(
                f"block {name} maps {tuple(x.shape)} to {shape}, expected {expected}; "
                "resnets.models.block_config.BlockConfig describes what a block must do"
            )


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Context in which `model` is in eval mode; on exit each module's own mode is restored."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
