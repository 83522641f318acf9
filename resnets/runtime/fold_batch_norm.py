"""Fold batch norms into the preceding convolutions: same outputs, fewer passes over memory.

In eval mode a batch norm scales and shifts each channel, which a convolution can do too. A norm
after an addition (the first of a pre-activation block) has no convolution to fold into and stays.
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

from resnets.models import ImageClassifier
from resnets.models.norm import without_norm


class _ReadCounter(TorchFunctionMode):
    """Counts the operations that read each of `tensors`, in this thread.

    Tracing with torch.fx would give the same, but patches `nn.Module` for the whole process: models
    running in other threads then fail (those of a server that loads another model).
    """

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[int, Tensor] = {}  # by id, which is unique while they are alive
        self.count: Counter[int] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):  # reading a shape or device does not count
            reads = (id(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor))
            self.count.update(number for number in reads if number in self.tensors)
        return out


def fold_batch_norms(model: ImageClassifier) -> ImageClassifier:
    """Return a copy of `model` in eval mode with norms folded into preceding convolutions.

    Of folded norms only addition and relu are left, and their convolutions get biases; layer names
    are kept. `model` itself is not modified.
    """
    folded = copy.deepcopy(model).eval()
    layers = dict(folded.named_modules())
    with torch.no_grad():
        for norm, convolution in _foldable_norms(folded).items():
            fused = fuse_conv_bn_eval(layers[convolution], layers[norm])
            folded.set_submodule(convolution, fused)
            folded.set_submodule(norm, without_norm(layers[norm]))
    return folded


def _foldable_norms(model: ImageClassifier) -> dict[str, str]:
    """Map each norm that is the only reader of a convolution's output to that convolution.

    Runs the model on one image. (The meta device would compute nothing, but makes torch import its
    compiler, which takes longer than any image.)
    """
    counter = _ReadCounter()
    produced_by: dict[int, str] = {}
    reads: dict[str, int] = {}
    hooks = []

    def record(name: str, out: Tensor) -> None:
        produced_by[id(out)], counter.tensors[id(out)] = name, out

    def add_hook(name: str, layer: nn.Module) -> None:
        if isinstance(layer, nn.Conv2d):
            hooks.append(layer.register_forward_hook(lambda _, x, out: record(name, out)))
        elif isinstance(layer, nn.BatchNorm2d):
            hook = layer.register_forward_pre_hook(lambda _, x: reads.update({name: id(x[0])}))
            hooks.append(hook)

    for name, layer in model.named_modules():
        add_hook(name, layer)
    spec, device = model.spec, next(model.parameters()).device
    image = torch.zeros(1, spec.in_channels, spec.input_size, spec.input_size, device=device)
    try:
        with counter:
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: produced_by[tensor]
        for name, tensor in reads.items()
        if tensor in produced_by and counter.count[tensor] == 1
    }
