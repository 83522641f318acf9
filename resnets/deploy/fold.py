"""Batch norms folded into the convolutions before them: the same net with fewer passes over memory.

In eval mode a norm is a scale and a shift of each plane, and a convolution can do both. A norm
that follows an addition (the first of a pre-activation block) has no convolution to go into and
stays.
"""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnets.models import Net


class _Layers(fx.Tracer):
    """Follows the data between the layers of a net, without looking into them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


def fold(net: Net) -> Net:
    """A copy of `net` in eval mode, its norms folded where they follow a convolution.

    The folded norms are `nn.Identity`, the convolutions have biases; all other layers keep their
    names. `net` itself stays as it is.
    """
    folded = copy.deepcopy(net).eval()
    for module in folded.modules():
        module.__dict__.pop("fused", None)  # the training kernel's mark
    layers = dict(folded.named_modules())
    with torch.no_grad():
        for node in _Layers().trace(folded).nodes:
            if node.op != "call_module" or not isinstance(layers[node.target], nn.BatchNorm2d):
                continue
            before = node.args[0]
            if not _is_convolution(before, layers) or len(before.users) > 1:
                continue
            fused = fuse_conv_bn_eval(layers[before.target], layers[node.target])
            folded.set_submodule(before.target, fused)
            folded.set_submodule(node.target, nn.Identity())
    return folded


def _is_convolution(node: fx.Node, layers: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(layers[str(node.target)], nn.Conv2d)
