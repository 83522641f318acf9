"""`resnets study responses`: measure, then write the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from resnets.evaluate.figures.fonts import escape_label
from resnets.report.figures import figure_style, integer_ticks, series_colors, subplots
from resnets.report.page import Figure, Numbers, Table
from resnets.study.analysis import line_style
from resnets.study.responses.measure import ModelResponses, layer_responses
from resnets.study.trained import Analysis, Subject, twins

NO_DIFFERENCE = 0.02  # mean responses whose ratio is nearer to 1 than this are called equal


@dataclass(frozen=True)
class Comparison:
    """Mean responses that the paper expects to fall from the first of `models` to the last."""

    models: tuple[ModelResponses, ...]

    @property
    def ratio(self) -> float:
        """The largest ratio of a mean response to the one before it: the smallest fall decides."""
        return max(later.mean / earlier.mean for earlier, later in pairwise(self.models))

    @property
    def result(self) -> Literal["smaller", "equal", "larger"]:
        """Whether the responses fall, as in the paper."""
        if abs(self.ratio - 1) < NO_DIFFERENCE:
            return "equal"
        return "smaller" if self.ratio < 1 else "larger"


def describe(models: Sequence[ModelResponses]) -> dict[str, Any]:
    """Fig. 7 of these models, their means, and whether the paper's claims hold."""
    return {
        "figures": [_figure(models)],
        "tables": [_table(models)],
        "models": models,
        "twins": [Comparison(pair) for pair in twins(models)],
        "depths": depths(models),
    }


def measure(subject: Subject) -> ModelResponses:
    """The responses of one model."""
    layers = layer_responses(subject.model, subject.images.batches)
    return ModelResponses(subject.label, subject.model.spec, layers)


ANALYSIS = Analysis("responses", measure, describe, result=ModelResponses)


def depths(models: Sequence[ModelResponses]) -> list[Comparison]:
    """Residual models of one block, width and shortcut, from shallow to deep."""
    families: dict[object, list[ModelResponses]] = {}
    for model in models:
        if model.spec.residual:
            key = (model.spec.block, model.spec.widths, model.spec.shortcut)
            families.setdefault(key, []).append(model)
    found = []
    for family in families.values():
        family.sort(key=lambda model: sum(model.spec.depths))
        if sum(family[0].spec.depths) < sum(family[-1].spec.depths):
            found.append(Comparison(tuple(family)))
    return found


def _figure(models: Sequence[ModelResponses]) -> Figure:
    """Fig. 7: layers in their original order, and sorted by response."""
    ordered = sorted(models, key=lambda model: (len(model.layers), model.spec.residual))
    sizes = sorted({len(model.layers) for model in models})
    colors = dict(zip(sizes, series_colors(len(sizes)), strict=True))
    with figure_style():
        figure, (original, by_size) = subplots(1, 2, share="y")
        for model in ordered:
            look = line_style(residual=model.spec.residual, color=colors[len(model.layers)])
            layers = range(1, len(model.layers) + 1)
            original.plot(layers, [layer.std for layer in model.layers], **look)
            name = escape_label(f"{model.label}, mean {model.mean:.2f}")
            by_size.plot(layers, model.sorted, label=name, **look)
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


def _table(models: Sequence[ModelResponses]) -> Table:
    rows = []
    for model in models:
        stds = model.sorted
        rows.append((model.label, len(stds), model.mean, stds[len(stds) // 2], stds[-1], stds[0]))
    columns = ("model", "3x3 layers", "mean", "median", "smallest", "largest")
    return Table("response-means", columns, tuple(rows))
