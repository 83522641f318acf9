"""Layer responses: their standard deviation by layer (paper, section 4.2, Fig. 7)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from resnets.config import ModelSpec
from resnets.data import Batch
from resnets.evaluate.figures.fonts import escape_label
from resnets.models import ImageClassifier
from resnets.models.norm import NormAct
from resnets.report.figure_style import figure_style, integer_ticks, series_colors, subplots
from resnets.report.page import Figure, Numbers, Table
from resnets.study.analyses.base import Analysis, Subject, find_counterparts
from resnets.study.trained_models import get_images, line_style

NO_DIFFERENCE = 0.02  # mean responses whose ratio is closer to 1 than this are called equal


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
    """Return the standard deviation of the response of each 3x3 convolution, in execution order.

    A response is the output of the convolution and of the batch norm that follows it, if any,
    before ReLU or addition. The deviation is over all images, channels and positions. `model` is
    put in eval mode.
    """
    model.eval()
    count = 0
    sums: dict[str, Tensor] = {}
    with torch.inference_mode(), _record_moments(model) as recorded:
        for batch in batches:
            model(get_images(batch))
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
    """Context in which forward passes record, by layer, mean and mean square (2,) of its response.

    The moments are computed in the hook, because the ReLU that follows may work in place.
    """
    recorded: dict[str, Tensor] = {}
    latest: list[tuple[str, Tensor]] = []  # the newest convolution and its output

    def after_conv(name: str, output: Tensor) -> None:
        latest[:] = [(name, output)]
        recorded[name] = _compute_moments(output)

    def before_norm(norm: nn.Module, x: Tensor) -> None:
        for name, response in latest:
            if x is response:
                assert isinstance(norm, NormAct)
                recorded[name] = _compute_moments(norm.normalize(x))

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


def _compute_moments(response: Tensor) -> Tensor:
    """Return mean and mean square (2,), float64 on the CPU."""
    variance, mean = torch.var_mean(response.float(), correction=0)
    variance, mean = variance.cpu().double(), mean.cpu().double()
    return torch.stack((mean, variance + mean**2))


@dataclass(frozen=True)
class Comparison:
    """Models whose mean response falls from the first to the last, according to the paper."""

    models: tuple[ModelResponses, ...]

    @property
    def ratio(self) -> float:
        """The largest ratio of a mean response to the one before it."""
        return max(later.mean / earlier.mean for earlier, later in pairwise(self.models))

    @property
    def result(self) -> Literal["smaller", "equal", "larger"]:
        """Whether the responses fall, as in the paper."""
        if abs(self.ratio - 1) < NO_DIFFERENCE:
            return "equal"
        return "smaller" if self.ratio < 1 else "larger"


def describe(models: Sequence[ModelResponses]) -> dict[str, Any]:
    """Return the values of the page: Fig. 7, mean responses, and the comparisons of the paper."""
    return {
        "figures": [_plot_responses(models)],
        "tables": [_means_table(models)],
        "models": models,
        "counterparts": [Comparison(pair) for pair in find_counterparts(models)],
        "depths": group_depths(models),
    }


def measure(subject: Subject) -> ModelResponses:
    """Measure the responses of one model."""
    layers = layer_responses(subject.model, subject.images.batches)
    return ModelResponses(subject.label, subject.model.spec, layers)


ANALYSIS = Analysis("responses", measure, describe, result=ModelResponses)


def group_depths(models: Sequence[ModelResponses]) -> list[Comparison]:
    """Group residual models of one block, widths and shortcut, from shallow to deep."""
    families: dict[object, list[ModelResponses]] = {}
    for model in models:
        if model.spec.residual:
            key = (model.spec.block, model.spec.widths, model.spec.shortcut)
            families.setdefault(key, []).append(model)
    comparisons = []
    for family in families.values():
        family.sort(key=lambda model: sum(model.spec.depths))
        if sum(family[0].spec.depths) < sum(family[-1].spec.depths):
            comparisons.append(Comparison(tuple(family)))
    return comparisons


def _plot_responses(models: Sequence[ModelResponses]) -> Figure:
    """Plot Fig. 7: layers in their original order, and sorted by response."""
    ordered = sorted(models, key=lambda model: (len(model.layers), model.spec.residual))
    sizes = sorted({len(model.layers) for model in models})
    colors = dict(zip(sizes, series_colors(len(sizes)), strict=True))
    with figure_style():
        figure, (original, by_size) = subplots(2, share="y")
        for model in ordered:
            style = line_style(residual=model.spec.residual, color=colors[len(model.layers)])
            layers = range(1, len(model.layers) + 1)
            original.plot(layers, [layer.std for layer in model.layers], **style)
            name = escape_label(f"{model.label}, mean {model.mean:.2f}")
            by_size.plot(layers, model.sorted, label=name, **style)
        original.set(title="Original order", xlabel="3x3 layer")
        by_size.set(title="Sorted", xlabel="3x3 layers, largest response first")
        for axes in (original, by_size):
            axes.set(ylabel="standard deviation", ylim=(0, None))
            integer_ticks(axes)
        by_size.legend(fontsize=9)
    rows = tuple(
        (model.label, index, layer.layer, layer.std)
        for model in models
        for index, layer in enumerate(model.layers, 1)
    )
    return Figure("responses", figure, Numbers(("model", "layer_index", "layer", "std"), rows))


def _means_table(models: Sequence[ModelResponses]) -> Table:
    rows = []
    for model in models:
        stds = model.sorted
        rows.append((model.label, len(stds), model.mean, stds[len(stds) // 2], stds[-1], stds[0]))
    columns = ("model", "3x3 layers", "mean", "median", "smallest", "largest")
    return Table("response-means", columns, tuple(rows))
