"""The plots of the gradient study: four panels, one per scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot
from matplotlib.lines import Line2D

from resnets.report.figures import LINE, figure_style, integer_ticks, series_colors, subplots
from resnets.study.gradients.measure import (
    EXPLODED,
    SCHEMES,
    VANISHED,
    Measurement,
    Scheme,
    Trace,
)
from resnets.study.grid.model_names import family_name
from resnets.study.trained_models import line_style

FLOOR, CEILING = 1e-12, 1e5  # of the logarithmic axis
PANEL = (4.3, 3.3)  # inches
LONG = 32  # characters of a name, two of which do not fit beside each other


def plot_layers(measured: Sequence[tuple[Trace, Measurement]]) -> Plot:
    """Gradient norm over weight norm by layer, each trace at one measurement."""
    deepest = max(len(now.layers) for _, now in measured)
    looks = _looks([trace for trace, _ in measured])
    with figure_style():
        schemes = _schemes([trace for trace, _ in measured])
        figure, panels = _panels(looks, len(schemes))
        for axes, scheme in zip(panels, schemes, strict=True):
            for trace, now in measured:
                if trace.scheme == scheme and now.state != "not finite":
                    values = [max(FLOOR, each.relative) for each in now.layers]
                    axes.plot(range(1, len(values) + 1), values, **looks[trace.spec.name])
            _finish(axes, str(scheme), "layer, first to last", deepest)
    return figure


def plot_training(traces: Sequence[Trace], iterations: int) -> Plot:
    """The first layer's gradient norm over weight norm against the step."""
    looks = _looks(traces)
    with figure_style():
        schemes = _schemes(traces)
        figure, panels = _panels(looks, len(schemes))
        for axes, scheme in zip(panels, schemes, strict=True):
            for trace in (each for each in traces if each.scheme == scheme):
                points = [
                    (now.step, max(FLOOR, now.layers[0].relative))
                    for now in trace.measurements
                    if now.state != "not finite"
                ]
                if not points:
                    continue
                look = looks[trace.spec.name]
                axes.plot(*zip(*points, strict=True), **look)
                if trace.training_error is None:
                    axes.plot(*points[-1], "x", color=look["color"], ms=7, mew=1.8, clip_on=False)
            _finish(axes, str(scheme), "step (× ended early)", iterations)
    return figure


def depth_of(trace: Trace) -> int:
    """Blocks of the traced model, by which models of a family are ordered."""
    return sum(trace.spec.depths)


def _looks(traces: Sequence[Trace]) -> dict[str, dict[str, Any]]:
    """Line style of each model: one color per depth and form, plain dashed, residual solid."""
    kinds = sorted({(depth_of(trace), _form(trace)) for trace in traces})
    colors = dict(zip(kinds, series_colors(len(kinds)), strict=True))
    return {
        trace.spec.name: line_style(
            residual=trace.spec.residual, color=colors[depth_of(trace), _form(trace)]
        )
        for trace in traces
    }


def _form(trace: Trace) -> str:
    """What else than depth, norm and shortcuts tells models apart: "" for those of the paper."""
    named = family_name(replace(trace.spec, norm="batch")) if trace.spec.residual else ""
    return "" if named == "residual" else named


def _schemes(traces: Sequence[Trace]) -> list[Scheme]:
    """The schemes of the traces, in the order of `SCHEMES`."""
    used = [trace.scheme for trace in traces]
    return [scheme for scheme in dict.fromkeys((*SCHEMES, *used)) if scheme in used]


def _panels(looks: Mapping[str, dict[str, Any]], count: int) -> tuple[Plot, list[Axes]]:
    """A panel per scheme, and the legend of the models above them."""
    figure, panels = subplots(count, panel=PANEL, share="both")
    handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=1 if max(map(len, looks)) > LONG else min(2, len(handles)),
    )
    return figure, panels


def _finish(axes: Axes, title: str, xlabel: str, last: int) -> None:
    axes.set(title=title, xlabel=xlabel, ylabel="gradient / weight", xlim=(0, last + 1))
    axes.set(yscale="log", ylim=(FLOOR / 3, CEILING))
    axes.minorticks_off()
    integer_ticks(axes)
    for low, high in ((FLOOR / 3, VANISHED), (EXPLODED, CEILING)):
        axes.axhspan(low, high, color=LINE, alpha=0.45, lw=0, zorder=0)
