"""Initial weights: He's (the paper's) or a fixed Gaussian (what it replaced)."""

from __future__ import annotations

import math

from torch import nn

from resnets.models.net import Net

NAIVE_STD = 0.01


def initialise(net: Net) -> None:
    """Draw all weights of `net` anew as `net.spec.init` says; biases become zero.

    "he": Gaussian of standard deviation sqrt(2 / fan_in), which keeps the signal's size through
    relu layers (He et al., ICCV 2015); the head has no relu after it, hence sqrt(1 / fan_in).
    "naive": Gaussian of standard deviation 0.01 (Krizhevsky et al. 2012), whatever the fan-in.
    Norms keep the weight 1 and bias 0 they are built with.
    """
    for layer in net.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        fan_in = layer.weight[0].numel()
        gain = 1.0 if layer is net.head else 2.0
        std = math.sqrt(gain / fan_in) if net.spec.init == "he" else NAIVE_STD
        nn.init.normal_(layer.weight, std=std)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
