"""Batch norms folded into the convolutions before them: the same net with fewer passes over memory.

In eval mode a norm is a scale and a shift of each plane, and a convolution can do both. A norm
that follows an addition (the first of a pre-activation block) has no convolution to go into and
stays.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from resnets.models import Net


class _Readers(TorchFunctionMode):
    """Counts the operations that read each of the tensors `watched`, in this thread.

    A trace by torch.fx says the same, but replaces methods of `nn.Module` for the whole process
    meanwhile: nets that other threads compute then fail (a server's, while it loads the next one).
    """

    def __init__(self) -> None:
        super().__init__()
        self.watched: dict[int, Tensor] = {}  # by id, which is theirs while they are kept
        self.count: Counter[int] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):  # a shape or a device is no reading
            read = (id(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor))
            self.count.update(number for number in read if number in self.watched)
        return out


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
        for norm, convolution in _followers(folded).items():
            fused = fuse_conv_bn_eval(layers[convolution], layers[norm])
            folded.set_submodule(convolution, fused)
            folded.set_submodule(norm, nn.Identity())
    return folded


def _followers(net: Net) -> dict[str, str]:
    """Each norm of `net` that alone reads what a convolution gives, and that convolution.

    Follows one picture through the net. (On the meta device nothing would be computed, but torch
    imports its compiler for that, which takes longer than any picture.)
    """
    readers = _Readers()
    made: dict[int, str] = {}
    read: dict[str, int] = {}
    hooks = []

    def watch(name: str, out: Tensor) -> None:
        made[id(out)], readers.watched[id(out)] = name, out

    def note(name: str, layer: nn.Module) -> None:
        if isinstance(layer, nn.Conv2d):
            hooks.append(layer.register_forward_hook(lambda _, x, out: watch(name, out)))
        elif isinstance(layer, nn.BatchNorm2d):
            hook = layer.register_forward_pre_hook(lambda _, x: read.update({name: id(x[0])}))
            hooks.append(hook)

    for name, layer in net.named_modules():
        note(name, layer)
    spec, device = net.spec, next(net.parameters()).device
    picture = torch.zeros(1, spec.in_channels, spec.input_size, spec.input_size, device=device)
    try:
        with readers:
            net(picture)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: made[tensor]
        for name, tensor in read.items()
        if tensor in made and readers.count[tensor] == 1
    }
