"""Residual units of later papers: layer orders, gates, attention, scaled branches.

`ResidualUnit` reads its layers from the spec. Layer orders: Fig. 4 of He, Zhang, Ren, Sun,
"Identity Mappings in Deep Residual Networks", ECCV 2016. Operations on the shortcut: its Table 1,
in `models.shortcut`. Scaling of the branch: `BranchScale`. Layers are named `conv1`, `norm1`, ...
in execution order, as in `models.resnet`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnets.models.block_config import BlockConfig, get_block_attr
from resnets.models.classifier import ImageClassifier
from resnets.models.layers import (
    DropPath,
    EfficientChannelAttention,
    Scale,
    SqueezeExcitation,
    add_shortcut,
)
from resnets.models.norm import IdentityAct
from resnets.models.shortcut import GatedShortcut, Projection, get_option, make_shortcut


@dataclass(frozen=True)
class Order:
    """Norm and relu before the first convolution, after the last one, and after the addition.

    Each is "norm", "relu", "norm relu" or "". Between two convolutions there is always a norm and
    relu.
    """

    before: str
    last: str
    after: str


# Keys: prefixes of `ModelSpec.block`; values: Fig. 4 (a), (b), (c), (d), (e).
ORDERS = {
    "": Order("", "norm", "relu"),
    "norm-after-add": Order("", "", "norm relu"),
    "relu-before-add": Order("", "norm relu", ""),
    "relu-preact": Order("relu", "norm", ""),
    "preact": Order("norm relu", "", ""),
}


class ResidualUnit(nn.Module):
    """`after(scale * F(x) + shortcut(x))`; F has two 3x3 convolutions, or 1x1, 3x3 and 1x1.

    The network's first pre-activation unit has no `norm1` if the stem already normalizes and
    activates its output. `attention` multiplies the channels of F(x). With an exclusive gate g the
    sum is `g(x) F(x) + (1 - g(x)) x`.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        spec, order = config.spec, ORDERS[config.spec.order]
        last = "" if spec.branch_scale == "fixup" else order.last  # `scale` has the bias there
        convs = _make_convs(config)
        self.exclusive = spec.shortcut_gate in ("exclusive", "highway")
        self.branch_layers: list[str] = []
        self._number = 0
        if order.before:
            channels = 0 if config.first and spec.stem_norm else config.in_channels
            self.branch_layers.append(self._add_act(config, order.before, channels))
        for number, conv in enumerate(convs, 1):
            self.add_module(f"conv{number}", conv)
            self.branch_layers.append(f"conv{number}")
            layers = last if number == len(convs) else "norm relu"
            if layers:
                self.branch_layers.append(self._add_act(config, layers, conv.out_channels))
        self.after_layer = order.after and self._add_act(config, order.after, config.out_channels)
        self.attention = _make_attention(config)
        self.scale = _make_scale(config)
        self.shortcut = make_shortcut(config)
        projects = isinstance(get_option(self.shortcut), Projection)
        self.activates_shortcut = bool(order.before) and projects
        self.biases_shortcut = spec.branch_scale == "fixup" and projects
        self.drop_path = DropPath(config.drop_path)

    def _add_act(self, config: BlockConfig, layers: str, channels: int) -> str:
        """Add `layers` ("norm relu") as one module and return its name; 0 channels: an identity."""
        module: nn.Module = nn.Identity()
        if "norm" in layers:
            self._number += 1
            name = f"norm{self._number}"
            if channels:  # the shortcut still needs the first norm's input
                first = not self.branch_layers
                module = config.norm(channels, relu="relu" in layers, inplace=not first)
        else:
            name = "relu"
            module = IdentityAct(relu=True, inplace=bool(self.branch_layers))
        self.add_module(name, module)
        return name

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        branch, shortcut = self.paths(x)
        return self.after_add(add_shortcut(branch, shortcut, self.drop_path))

    def paths(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return F(x) and the tensor that the shortcut adds; projections read the activated input.

        With Fixup the projection reads `x` plus the input bias of `conv1` (bias1a in the authors'
        code).
        """
        y = activated = x
        if self.biases_shortcut:
            activated = x + get_block_attr(self, "conv1").input_bias
        for number, name in enumerate(self.branch_layers):
            y = self.get_submodule(name)(y)
            if number == 0 and self.activates_shortcut:
                activated = y
        branch: Tensor = self.scale(self.attention(y))
        if not isinstance(self.shortcut, GatedShortcut):
            return branch, self.shortcut(activated)
        shortcut, gate = self.shortcut.split(x, activated)
        return branch * gate if self.exclusive else branch, shortcut

    def after_add(self, total: Tensor) -> Tensor:
        """Apply the layers after the addition: (B, C, H, W) to the same shape."""
        out: Tensor = self.get_submodule(self.after_layer)(total) if self.after_layer else total
        return out

    @property
    def last_layer(self) -> nn.Module:
        """The last layer of F(x); F(x) is zero if its parameters are."""
        if next(self.scale.parameters(), None) is not None:
            return self.scale
        layers = [self.get_submodule(name) for name in self.branch_layers]
        return next(each for each in reversed(layers) if next(each.parameters(), None) is not None)


def _make_convs(config: BlockConfig) -> list[nn.Conv1d | nn.Conv2d]:
    """Return the convolutions of F(x), as in Fig. 5 of the paper."""
    width, out, (dilation1, dilation2) = config.width, config.out_channels, config.dilation
    if not config.spec.is_bottleneck:
        first = config.conv(config.in_channels, width, 3, stride=config.stride, dilation=dilation1)
        return [first, config.conv(width, out, 3, dilation=dilation2)]
    inner, groups = config.bottleneck_width, config.spec.groups
    stride1, stride2 = config.bottleneck_strides
    return [
        config.conv(config.in_channels, inner, 1, stride=stride1),
        config.conv(inner, inner, 3, stride=stride2, groups=groups, dilation=dilation1),
        config.conv(inner, out, 1),
    ]


def _make_attention(config: BlockConfig) -> nn.Module:
    """Return the attention layer, which multiplies the channels of F(x)."""
    match config.spec.attention:
        case "se":
            return SqueezeExcitation(config.out_channels, config.spec.se_reduction)
        case "eca":
            return EfficientChannelAttention(config.out_channels)
    return nn.Identity()


def _make_scale(config: BlockConfig) -> nn.Module:
    """Return the layer that scales F(x), see `ModelSpec.branch_scale`."""
    match config.spec.branch_scale:
        case "rezero" | "skipinit":
            return Scale(0.0, learned=True)
        case "fixup":
            return Scale(1.0, learned=True, bias=True)
        case "rsqrt-depth":
            return Scale(1 / math.sqrt(sum(config.spec.depths)))
        case factor:
            return nn.Identity() if factor == 1 else Scale(float(factor))


def init_residual_units(model: ImageClassifier) -> None:
    """Initialize what `init_weights` does not: biases of gates, and the branches of Fixup.

    Fixup (Zhang, Dauphin, Ma 2019, section 3): the last layer of each branch and the head are zero;
    the other m - 1 layers of a branch are scaled by L ** (-1 / (2 m - 2)) for L branches.
    """
    spec = model.spec
    for module in model.modules():
        if isinstance(module, GatedShortcut):
            nn.init.constant_(module.gate.bias, spec.gate_bias)  # type: ignore[arg-type]
    if spec.branch_scale != "fixup":
        return
    factor = sum(spec.depths) ** (-1 / (2 * spec.layers_per_block - 2))
    for block in model.blocks().values():
        *convs, last = (get_block_attr(block, f"conv{n + 1}") for n in range(spec.layers_per_block))
        with torch.no_grad():
            for conv in convs:
                conv.weight.mul_(factor)
            last.weight.zero_()
