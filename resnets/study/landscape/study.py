"""`resnets study landscape`: measure, then write the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot
from matplotlib.ticker import FuncFormatter

from resnets.config import ConfigError
from resnets.evaluate.figures.fonts import escape_label
from resnets.report.figures import SERIES, figure_style, series_colors, subplots
from resnets.report.page import Figure, Numbers, Table
from resnets.study.analysis import line_style
from resnets.study.landscape.measure import Landscape, Point, measure_landscape
from resnets.study.trained import Analysis, Subject, twins

MIN_LOSS = 1e-4  # losses below are drawn here, on logarithmic scales
LEVELS = [step * 10.0**decade for decade in range(-4, 2) for step in (1, 2, 5)] + [100.0]
TICKS = (-1, -0.5, 0, 0.5, 1)
PLANE = (3.6, 3.8)  # inches of one model's plane
MAX_COLUMNS = 3


def describe(landscapes: Sequence[Landscape]) -> dict[str, Any]:
    """How far from each model its loss stays low."""
    lines = _numbers([(each, each.line) for each in landscapes])
    planes = _numbers([(each, each.plane) for each in landscapes])
    return {
        "figures": [
            Figure("line", _plot_lines(landscapes), lines),
            Figure("plane", _plot_planes(landscapes), planes),
        ],
        "tables": [_table(landscapes)],
        "landscapes": landscapes,
        "low_shares": [low_loss_share(each) for each in landscapes],
        "chance_losses": [_chance_loss(each) for each in landscapes],
        "share": low_loss_share,
        "twins": twins(landscapes),
        "last_level": LEVELS[-1],
    }


def measure(subject: Subject, steps: int) -> Landscape:
    """The loss around one model; `steps` is the number of points on each side of the plane, odd."""
    if steps < 3 or steps % 2 == 0:
        raise ConfigError(
            f"--steps {steps}: give an odd number of 3 or more; the middle point is the model"
        )
    return measure_landscape(
        subject.model, subject.images, points=steps, seed=subject.seed, label=subject.label
    )


ANALYSIS = Analysis("landscape", measure, describe, part="train", result=Landscape)


def low_loss_share(landscape: Landscape) -> float:
    """Fraction of the plane's points, 0..1, whose loss is below half of that of guessing, ln K."""
    limit = _chance_loss(landscape) / 2
    return sum(point.loss < limit for point in landscape.plane) / len(landscape.plane)


def _chance_loss(landscape: Landscape) -> float:
    return math.log(landscape.spec.num_classes)


def _plot_lines(landscapes: Sequence[Landscape]) -> Plot:
    colors = series_colors(len(landscapes))
    with figure_style():
        figure, (losses, errors) = subplots(1, 2)
        for each, color in zip(landscapes, colors, strict=True):
            look = line_style(residual=each.spec.residual, color=color)
            alphas = [point.alpha for point in each.line]
            shown = [_on_log_scale(point) for point in each.line]
            losses.plot(alphas, shown, label=escape_label(each.label), **look)
            errors.plot(alphas, [point.error for point in each.line], **look)
        for axes in (losses, errors):
            axes.set(xticks=TICKS, xlabel="alpha")
        losses.set(title="Loss", yscale="log", ylabel="cross-entropy (nats)")
        errors.set(title="Error", ylim=(0, 100), ylabel="top-1 error (%)")
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        losses.yaxis.set_major_formatter(plain)
        low, high = losses.get_ylim()
        if high / low < 10:  # less than a decade: label the ticks between the powers of ten
            losses.yaxis.set_minor_formatter(plain)
        losses.legend(fontsize=9)
    return figure


def _plot_planes(landscapes: Sequence[Landscape]) -> Plot:
    columns = min(len(landscapes), MAX_COLUMNS)
    rows = math.ceil(len(landscapes) / columns)
    with figure_style():
        figure, panels = subplots(rows, columns, panel=PLANE, share="both")
        for axes, each in zip(panels, landscapes, strict=False):
            _plot_plane(axes, each)
        for axes in panels[len(landscapes) :]:
            axes.set_visible(False)
    return figure


def _plot_plane(axes: Axes, landscape: Landscape) -> None:
    side = math.isqrt(len(landscape.plane))
    alphas = [point.alpha for point in landscape.plane[:side]]
    losses = np.array([_on_log_scale(point) for point in landscape.plane]).reshape(side, side)
    low, high = np.nanmin(losses), np.nanmax(losses)
    crossed = [level for level in LEVELS if low < level < high]
    if not crossed and low < high:  # it varies too little to cross any
        crossed = [float(level) for level in np.geomspace(low, high, 5)[1:-1]]
    if crossed:
        indices = np.searchsorted(LEVELS, crossed) * len(SERIES) // len(LEVELS)
        colors = [SERIES[min(index, len(SERIES) - 1)] for index in indices]
        lines = axes.contour(alphas, alphas, losses, levels=crossed, colors=colors, linewidths=1.2)
        axes.clabel(lines, crossed[::2], fmt="%.3g", fontsize=8)
    axes.plot(0, 0, "+", color=SERIES[-1], ms=9, mew=1.6)
    axes.set(title=escape_label(landscape.label), xlabel="alpha", ylabel="beta", aspect="equal")
    axes.set(xticks=TICKS, yticks=TICKS)
    axes.grid(visible=False)


def _on_log_scale(point: Point) -> float:
    """The loss as logarithmic scales can show it; a gap where it is not finite."""
    return max(MIN_LOSS, point.loss) if math.isfinite(point.loss) else math.nan


def _numbers(series: Sequence[tuple[Landscape, Sequence[Point]]]) -> Numbers:
    return Numbers(
        ("model", "alpha", "beta", "loss", "error"),
        tuple(
            (each.label, point.alpha, point.beta, point.loss, point.error)
            for each, points in series
            for point in points
        ),
    )


def _table(landscapes: Sequence[Landscape]) -> Table:
    rows = tuple(
        (
            each.label,
            each.center.loss,
            each.center.error,
            max(point.loss for point in each.plane),
            100 * low_loss_share(each),
        )
        for each in landscapes
    )
    columns = (
        *("model", "loss at the center", "error at the center (%)", "largest loss"),
        "plane with low loss (%)",
    )
    return Table("landscape-figures", columns, rows)
