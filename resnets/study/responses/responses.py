"""How strongly each 3x3 layer responds (paper, section 4.2, Fig. 7)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnets.config import ModelSpec
from resnets.data import Batch
from resnets.models import ImageClassifier
from resnets.models.norm import NormAct
from resnets.study.batches import images_of

SEED = 0  # of the draw of pictures


@dataclass(frozen=True)
class LayerResponse:
    """Standard deviation of the response of one 3x3 convolution, named as in the net."""

    layer: str
    std: float


@dataclass(frozen=True)
class NetResponses:
    """The responses of one net, first layer to last."""

    label: str
    spec: ModelSpec
    layers: tuple[LayerResponse, ...]

    @property
    def mean(self) -> float:
        """Mean over layers of the standard deviation."""
        return sum(layer.std for layer in self.layers) / len(self.layers)

    @property
    def sorted(self) -> list[float]:
        """Standard deviations from the largest down, as in the lower half of Fig. 7."""
        return sorted((layer.std for layer in self.layers), reverse=True)


def responses(net: ImageClassifier, batches: Iterable[Batch]) -> tuple[LayerResponse, ...]:
    """Standard deviation of what each 3x3 convolution gives, in the order in which they run.

    A response is what leaves the convolution and its batch norm, where one follows, before relu
    or addition. It is taken over all pictures, channels and places. `net` is put in eval mode.
    """
    net.eval()
    count = 0
    sums: dict[str, Tensor] = {}
    with torch.inference_mode(), _listening(net) as heard:
        for batch in batches:
            net(images_of(batch))
            for layer, moments in heard.items():
                sums[layer] = sums.get(layer, 0) + len(batch) * moments
            count += len(batch)
    means = {layer: (total / count).tolist() for layer, total in sums.items()}
    return tuple(
        LayerResponse(layer, math.sqrt(max(0.0, square - mean**2)))
        for layer, (mean, square) in means.items()
    )


@contextmanager
def _listening(net: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While it lasts: layer -> mean and mean square (2,) of its response in the last forward pass.

    Taken at once, as the relu after it may work in place.
    """
    heard: dict[str, Tensor] = {}
    latest: list[tuple[str, Tensor]] = []  # the newest convolution and its output

    def after_conv(name: str, output: Tensor) -> None:
        latest[:] = [(name, output)]
        heard[name] = _moments(output)

    def after_norm(norm: nn.Module, seen: Tensor) -> None:
        for name, response in latest:
            if seen is response:
                assert isinstance(norm, NormAct)
                heard[name] = _moments(norm.normalize(seen))

    handles = [
        layer.register_forward_hook(
            lambda _layer, _inputs, output, name=name: after_conv(name, output)
        )
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
    ] + [
        layer.register_forward_pre_hook(lambda layer, inputs: after_norm(layer, inputs[0]))
        for layer in net.modules()
        if isinstance(layer, NormAct)
    ]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _moments(response: Tensor) -> Tensor:
    """Mean and mean square (2,) float64 on the CPU."""
    variance, mean = torch.var_mean(response.float(), correction=0)
    variance, mean = variance.cpu().double(), mean.cpu().double()
    return torch.stack((mean, variance + mean**2))
