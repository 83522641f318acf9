"""The figures of the gradient study: four panels, one for each scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot
from matplotlib.lines import Line2D

from resnets.study.figures import LINE, house_style, series_colors, whole_numbers
from resnets.study.gradients.gradients import EXPLODED, SCHEMES, VANISHED, Measurement, Trace

FLOOR, CEILING = 1e-12, 1e5  # of the logarithmic axis
WIDE, NARROW = (9.4, 6.8), (4.1, 12.0)  # inches


def draw_layers(measured: Sequence[tuple[Trace, Measurement]], *, narrow: bool) -> Plot:
    """Gradient norm over weight norm by layer, each trace at one measurement, a panel a scheme."""
    deepest = max(len(now.layers) for _, now in measured)
    looks = _looks([trace for trace, _ in measured])
    with house_style():
        figure, panels = _four_panels(narrow, looks)
        for axes, scheme in zip(panels, SCHEMES, strict=True):
            for trace, now in measured:
                if trace.scheme == scheme and now.state != "not a number":
                    heights = [max(FLOOR, each.relative) for each in now.layers]
                    axes.plot(range(1, len(heights) + 1), heights, **looks[trace.spec.name])
            _finish(axes, str(scheme), "layer, first to last", deepest)
    return figure


def draw_training(traces: Sequence[Trace], iterations: int, *, narrow: bool) -> Plot:
    """The first layer's gradient norm over weight norm against the step, a panel a scheme."""
    looks = _looks(traces)
    with house_style():
        figure, panels = _four_panels(narrow, looks)
        for axes, scheme in zip(panels, SCHEMES, strict=True):
            for trace in (each for each in traces if each.scheme == scheme):
                points = [
                    (now.step, max(FLOOR, now.layers[0].relative))
                    for now in trace.measurements
                    if now.state != "not a number"
                ]
                if not points:
                    continue
                look = looks[trace.spec.name]
                axes.plot(*zip(*points, strict=True), **look)
                if trace.training_error is None:
                    axes.plot(*points[-1], "x", color=look["color"], ms=7, mew=1.8, clip_on=False)
            _finish(axes, str(scheme), "step (× ended early)", iterations)
    return figure


def _looks(traces: Sequence[Trace]) -> dict[str, dict[str, Any]]:
    """Line properties of each net: one colour for each depth, plain dashed, residual solid."""
    depths = sorted({depth_of(trace) for trace in traces})
    colors = dict(zip(depths, series_colors(len(depths)), strict=True))
    return {
        trace.spec.name: {
            "color": colors[depth_of(trace)],
            "linestyle": "-" if trace.spec.residual else (0, (4, 2)),
            "lw": 2.2 if trace.spec.residual else 1.4,
        }
        for trace in traces
    }


def _four_panels(narrow: bool, looks: Mapping[str, dict[str, Any]]) -> tuple[Plot, list[Axes]]:
    """A panel for each scheme, and a key to the nets above them."""
    figure = Plot(figsize=NARROW if narrow else WIDE, layout="constrained")
    grid = figure.subplots(*((4, 1) if narrow else (2, 2)), sharex=True, sharey=True)
    handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
    columns = 1 if narrow else min(4, len(handles))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)
    return figure, list(grid.flat)


def _finish(axes: Axes, title: str, across: str, last: int) -> None:
    axes.set(title=title, xlabel=across, ylabel="gradient / weight", xlim=(0, last + 1))
    axes.set(yscale="log", ylim=(FLOOR / 3, CEILING))
    axes.minorticks_off()
    whole_numbers(axes)
    axes.tick_params(labelleft=True, labelbottom=True)
    for low, high in ((FLOOR / 3, VANISHED), (EXPLODED, CEILING)):
        axes.axhspan(low, high, color=LINE, alpha=0.45, lw=0, zorder=0)


def depth_of(trace: Trace) -> int:
    """Blocks of the traced net, by which nets of a family are ordered."""
    return sum(trace.spec.depths)
