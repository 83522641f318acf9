"""The report on loss landscapes: how far from its minimum each net's loss stays low."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot
from matplotlib.ticker import FuncFormatter

from resnets.evaluate.figures.fonts import label
from resnets.study.figures import SERIES, house_style, series_colors
from resnets.study.landscape.landscape import Landscape, Point
from resnets.study.page import Figure, Finding, Numbers, Page, Section, Table

SHALLOWEST = 1e-4  # losses below are drawn here, on logarithmic scales
LEVELS = [step * 10.0**decade for decade in range(-4, 2) for step in (1, 2, 5)] + [100.0]
LINE_SIZES = {False: (9.4, 3.9), True: (4.1, 6.4)}  # narrow? -> inches
SIDE = {False: 3.4, True: 3.9}  # inches of one net's plane


def landscape_page(
    landscapes: Sequence[Landscape],
    *,
    measured: str,
    commands: tuple[str, ...],
    environment: Mapping[str, Any],
    caution: str = "",
) -> Page:
    """The report on `landscapes`; `measured` says on which images and with which weights.

    With a `caution` the page says first that a network in it has not been trained.
    """
    widths = [low_loss_share(each) for each in landscapes]
    return Page(
        title="Loss landscapes",
        lead="How the training loss changes around these networks as they are. An untrained one "
        "lies in no valley, so nothing here says how wide its valley would be."
        if caution
        else "How the training loss rises around trained networks. A wide, round valley is easy to "
        "find and to stay in; a narrow or ragged one is not.",
        caution=caution,
        findings=tuple(
            Finding(
                label=each.label,
                value=f"{share:.0%} low",
                detail=f"of the plane has less than half the loss of guessing "
                f"({_guess(each) / 2:.2f}); at the centre it is {each.center.loss:.3g}",
            )
            for each, share in zip(landscapes, widths, strict=True)
        ),
        sections=(
            Section(
                "Along one direction",
                "Distance 1 adds to each filter a random one of its own length, so nets of other "
                "scales can be compared: rescaling a filter, which batch norm undoes, changes "
                "nothing in the picture.",
                figures=(_line_figure(landscapes),),
            ),
            Section(
                "On a plane",
                "Contours of the loss on the plane of two random directions. Li et al. (2018, "
                "Fig. 5 and 6) found that without shortcuts deep nets lie in ragged land, and that "
                "shortcuts keep it smooth. Two random directions out of so many show little of "
                "it: look for differences in kind, not in detail.",
                figures=(_plane_figure(landscapes),),
                tables=(_table(landscapes, widths),),
            ),
        ),
        protocol=(
            "Loss is mean cross-entropy in nats on training pictures without augmentation, in eval "
            "mode, float32. Directions are Gaussian and filter-normalised (Li et al. 2018, section "
            "4); weights of convolutions and of linear layers move, biases and batch norm's "
            "weights do not. Batch norm's statistics are the stored ones: they are not computed "
            f"anew for the moved weights.\n\n{measured}"
        ),
        commands=commands,
        environment=environment,
    )


def low_loss_share(landscape: Landscape) -> float:
    """Share of the plane's points, 0..1, whose loss is below half of that of guessing, ln K."""
    limit = _guess(landscape) / 2
    return sum(point.loss < limit for point in landscape.plane) / len(landscape.plane)


def _guess(landscape: Landscape) -> float:
    return math.log(landscape.spec.num_classes)


def _line_figure(landscapes: Sequence[Landscape]) -> Figure:
    return Figure(
        name="line",
        figure=_draw_lines(landscapes, narrow=False),
        narrow=_draw_lines(landscapes, narrow=True),
        caption="Training loss (logarithmic) and error along the first direction. Plain nets "
        "dashed, residual nets solid. 0 is the network itself.",
        alt="Loss and error against distance from the trained net",
        numbers=_numbers([(each, each.line) for each in landscapes]),
    )


def _draw_lines(landscapes: Sequence[Landscape], *, narrow: bool) -> Plot:
    colors = series_colors(len(landscapes))
    with house_style():
        figure = Plot(figsize=LINE_SIZES[narrow], layout="constrained")
        losses, errors = figure.subplots(*((2, 1) if narrow else (1, 2)))
        for each, color in zip(landscapes, colors, strict=True):
            look: dict[str, Any] = {
                "color": color,
                "label": label(each.label),
                "linestyle": "-" if each.spec.residual else (0, (4, 2)),
                "lw": 2.2 if each.spec.residual else 1.4,
            }
            alphas = [point.alpha for point in each.line]
            losses.plot(alphas, [_drawn(point) for point in each.line], **look)
            errors.plot(alphas, [point.error for point in each.line], **look)
        for axes in (losses, errors):
            axes.set_xticks((-1, -0.5, 0, 0.5, 1))
        losses.set(title="Loss", yscale="log", ylabel="cross-entropy (nats)", xlabel="alpha")
        errors.set(title="Error", ylim=(0, 100), ylabel="top-1 error (%)", xlabel="alpha")
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        losses.yaxis.set_major_formatter(plain)
        low, high = losses.get_ylim()
        if high / low < 10:  # less than a decade: what it has between the powers of ten
            losses.yaxis.set_minor_formatter(plain)
        losses.legend(fontsize=9)
    return figure


def _plane_figure(landscapes: Sequence[Landscape]) -> Figure:
    return Figure(
        name="plane",
        figure=_draw_planes(landscapes, narrow=False),
        narrow=_draw_planes(landscapes, narrow=True),
        caption=f"Contours of equal training loss, numbered with their values: the same ones (up "
        f"to {LEVELS[-1]:g}) for all networks, others only where the loss crosses none of them. "
        "The cross is the network itself.",
        alt="Contour plots of the loss, one for each net",
        numbers=_numbers([(each, each.plane) for each in landscapes]),
    )


def _draw_planes(landscapes: Sequence[Landscape], *, narrow: bool) -> Plot:
    columns = 1 if narrow else min(len(landscapes), 3)
    rows = math.ceil(len(landscapes) / columns)
    side = SIDE[narrow]
    with house_style():
        figure = Plot(figsize=(side * columns, (side + 0.2) * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
        for axes, each in zip(grid, landscapes, strict=False):
            _draw_plane(axes, each)
        for axes in list(grid)[len(landscapes) :]:
            axes.set_visible(False)
    return figure


def _draw_plane(axes: Axes, landscape: Landscape) -> None:
    side = math.isqrt(len(landscape.plane))
    places = [point.alpha for point in landscape.plane[:side]]
    losses = np.array([_drawn(point) for point in landscape.plane]).reshape(side, side)
    low, high = np.nanmin(losses), np.nanmax(losses)
    crossed = [level for level in LEVELS if low < level < high]
    if not crossed and low < high:  # it varies too little to cross any
        crossed = [float(level) for level in np.geomspace(low, high, 5)[1:-1]]
    if crossed:
        places_of = np.searchsorted(LEVELS, crossed) * len(SERIES) // len(LEVELS)
        colors = [SERIES[min(place, len(SERIES) - 1)] for place in places_of]
        lines = axes.contour(places, places, losses, levels=crossed, colors=colors, linewidths=1.2)
        axes.clabel(lines, crossed[::2], fmt="%.3g", fontsize=7.5)
    axes.plot(0, 0, "+", color=SERIES[-1], ms=9, mew=1.6)
    axes.set(title=label(landscape.label), xlabel="alpha", ylabel="beta", aspect="equal")
    axes.set(xticks=(-1, -0.5, 0, 0.5, 1), yticks=(-1, -0.5, 0, 0.5, 1))
    axes.tick_params(labelleft=True, labelbottom=True)
    axes.grid(visible=False)


def _drawn(point: Point) -> float:
    """The loss as logarithmic scales can show it; where it is no number, a gap."""
    return max(SHALLOWEST, point.loss) if math.isfinite(point.loss) else math.nan


def _numbers(series: Sequence[tuple[Landscape, Sequence[Point]]]) -> Numbers:
    return Numbers(
        ("net", "alpha", "beta", "loss", "error"),
        tuple(
            (each.label, point.alpha, point.beta, point.loss, point.error)
            for each, points in series
            for point in points
        ),
    )


def _table(landscapes: Sequence[Landscape], widths: Sequence[float]) -> Table:
    return Table(
        name="landscape-figures",
        columns=("net", "loss at the centre", "error at the centre (%)", "largest loss",
                 "low share of the plane (%)"),
        rows=tuple(
            (
                each.label,
                each.center.loss,
                each.center.error,
                max(point.loss for point in each.plane),
                100 * share,
            )
            for each, share in zip(landscapes, widths, strict=True)
        ),
        caption="Low: less than half the loss of guessing, ln K for K classes.",
    )  # fmt: skip
