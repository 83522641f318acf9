"""Standard deviation of layer responses (paper, section 4.2, Fig. 7)."""

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
from resnets.study.analysis import images_of


@dataclass(frozen=True)
class LayerResponse:
    """Standard deviation of the response of one 3x3 convolution, named as in the model."""

    layer: str
    std: float


@dataclass(frozen=True)
class ModelResponses:
    """The responses of one model, first layer to last."""

    label: str
    spec: ModelSpec
    layers: tuple[LayerResponse, ...]

    @property
    def mean(self) -> float:
        """Mean over layers of the standard deviation."""
        return sum(layer.std for layer in self.layers) / len(self.layers)

    @property
    def sorted(self) -> list[float]:
        """Standard deviations in descending order, as in the lower half of Fig. 7."""
        return sorted((layer.std for layer in self.layers), reverse=True)


def layer_responses(model: ImageClassifier, batches: Iterable[Batch]) -> tuple[LayerResponse, ...]:
    """Standard deviation of the response of each 3x3 convolution, in execution order.

    A response is the output of the convolution and of the batch norm that follows it, if any,
    before ReLU or addition. It is taken over all images, channels and positions. `model` is put in
    eval mode.
    """
    model.eval()
    count = 0
    sums: dict[str, Tensor] = {}
    with torch.inference_mode(), _record_moments(model) as recorded:
        for batch in batches:
            model(images_of(batch))
            for layer, moments in recorded.items():
                sums[layer] = sums.get(layer, 0) + len(batch) * moments
            count += len(batch)
    means = {layer: (total / count).tolist() for layer, total in sums.items()}
    return tuple(
        LayerResponse(layer, math.sqrt(max(0.0, square - mean**2)))
        for layer, (mean, square) in means.items()
    )


@contextmanager
def _record_moments(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Layer -> mean and mean square (2,) of its response in the last forward pass.

    Computed in the hook, as the ReLU that follows may work in place.
    """
    recorded: dict[str, Tensor] = {}
    latest: list[tuple[str, Tensor]] = []  # the newest convolution and its output

    def after_conv(name: str, output: Tensor) -> None:
        latest[:] = [(name, output)]
        recorded[name] = _moments(output)

    def before_norm(norm: nn.Module, x: Tensor) -> None:
        for name, response in latest:
            if x is response:
                assert isinstance(norm, NormAct)
                recorded[name] = _moments(norm.normalize(x))

    handles = [
        layer.register_forward_hook(
            lambda _layer, _inputs, output, name=name: after_conv(name, output)
        )
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
    ] + [
        layer.register_forward_pre_hook(lambda layer, inputs: before_norm(layer, inputs[0]))
        for layer in model.modules()
        if isinstance(layer, NormAct)
    ]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _moments(response: Tensor) -> Tensor:
    """Mean and mean square (2,) float64 on the CPU."""
    variance, mean = torch.var_mean(response.float(), correction=0)
    variance, mean = variance.cpu().double(), mean.cpu().double()
    return torch.stack((mean, variance + mean**2))
