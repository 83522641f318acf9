"""How the studies' figures look, and the two figures of the depth study.

Colours are drawn in their light form; `resnets.study.page` turns those of `THEME` into CSS
variables, so that an inline figure follows the reader's light or dark setting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

# CSS variable -> (light, dark). Series run from shallow to deep along a perceptually even ramp
# (after matplotlib's plasma), so they stay in order under every colour blindness and in grey;
# as they colour labels too, each has a contrast of 4.5:1 to the card (WCAG 1.4.3).
THEME = {
    "ink": ("#1c2330", "#e7eaf0"),
    "soft": ("#586174", "#a3adbd"),
    "line": ("#dde1e8", "#333b49"),
    "card": ("#ffffff", "#171c25"),
    "series-1": ("#b9570d", "#a578e8"),
    "series-2": ("#c5305f", "#dd6fb4"),
    "series-3": ("#a42c95", "#f2857c"),
    "series-4": ("#6b28a8", "#f8a45e"),
    "series-5": ("#33208f", "#f7c948"),
    "series-6": ("#140b52", "#fbf0b2"),
}
INK, SOFT, LINE, CARD = (THEME[name][0] for name in ("ink", "soft", "line", "card"))
SERIES = tuple(light for name, (light, _) in THEME.items() if name.startswith("series"))

KINDS = ("plain", "residual")
# The share of a run left out when the error axis is scaled: every net starts near chance.
WARM_UP_SHARE = 0.1
LABEL_SIZE = 9.5  # points, of the names at the lines' ends
WIDE, NARROW = (9.4, 4.3), (4.1, 6.6)  # figure sizes in inches, for a desktop and for a phone


@dataclass(frozen=True)
class NetCurves:
    """One net's errors in percent over its seeds.

    `train` and `held_out` map a step to the errors of the finished seeds at that step;
    `unfinished` has the (step, training error) points of each seed that did not finish.
    """

    net: str
    kind: str
    depth: int
    shortcut: str
    train: Mapping[int, Sequence[float]]
    held_out: Mapping[int, Sequence[float]]
    unfinished: Sequence[Sequence[tuple[int, float]]] = field(default=())


@contextmanager
def house_style() -> Iterator[None]:
    """matplotlib settings shared by all studies; make figures and their axes inside it."""
    settings: dict[Any, Any] = {
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.edgecolor": SOFT,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.facecolor": CARD,
        "figure.facecolor": CARD,
        "text.color": INK,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "grid.color": LINE,
        "grid.linewidth": 0.8,
        "legend.frameon": False,
        "lines.solid_capstyle": "round",
        "path.simplify_threshold": 0.4,
        "figure.constrained_layout.w_pad": 0.08,
        "figure.constrained_layout.h_pad": 0.08,
    }
    with rc_context(settings):
        yield


def series_colors(count: int) -> list[str]:
    """`count` colours from shallow to deep, spread over the palette; beyond six they repeat."""
    if count > len(SERIES):
        return [SERIES[index % len(SERIES)] for index in range(count)]
    return [SERIES[round(place)] for place in np.linspace(0, len(SERIES) - 1, count)]


def whole_numbers(axes: Axes) -> None:
    """Ticks of the x axis at whole numbers only: layers, blocks, and steps have no halves."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def net_labels(nets: Sequence[NetCurves]) -> dict[str, str]:
    """A short name for each net: its depth, with the shortcut option or the full name if needed.

    The same label in both panels means the same colour, so plain and residual twins share theirs.
    """
    candidates = (
        {net.net: f"{net.depth} layers" for net in nets},
        {
            net.net: f"{net.depth} layers" + ("" if net.kind == "plain" else f", {net.shortcut}")
            for net in nets
        },
    )
    for labels in candidates:
        counts = Counter((net.kind, labels[net.net]) for net in nets)
        if max(counts.values(), default=0) <= 1:
            return labels
    return {net.net: net.net for net in nets}


def error_curves(nets: Sequence[NetCurves], held_out: str, *, narrow: bool = False) -> Figure:
    """Error against iterations, as in Fig. 6: a panel each for plain and residual.

    Dashed: training; solid: `held_out` ("test" or "validation"). Residual nets have thicker lines
    (here only; Fig. 4 has thin lines for training and bold ones for validation). Lines are means
    over seeds, bands their extremes, a cross the end of a run that did not finish.
    """
    panels = [kind for kind in KINDS if any(net.kind == kind for net in nets)]
    ordered = sorted(nets, key=lambda net: (net.depth, net.shortcut))
    labels = net_labels(ordered)
    names = list(dict.fromkeys(labels[net.net] for net in ordered))
    colors = dict(zip(names, series_colors(len(names)), strict=True))
    top = _error_limit(nets)
    last = max((step for net in nets for step in _steps(net)), default=1)
    with house_style():
        figure, grid = _canvas(len(panels), narrow)
        # Of an axes' height in points, about, the share that a line of text takes.
        height = 72 * 0.7 * figure.get_figheight() / (len(panels) if narrow else 1)
        gap = 1.25 * LABEL_SIZE / height * top
        for axes, kind in zip(grid, panels, strict=True):
            bold = kind == "residual"
            ends = []
            for net in (net for net in ordered if net.kind == kind):
                color = colors[labels[net.net]]
                end = _draw_net(axes, net, color, bold)
                if end is not None:
                    ends.append((min(end, top), labels[net.net], color))
            axes.set(title=f"{kind.capitalize()} nets", xlim=(0, last), ylim=(0, top))
            _label_ends(axes, ends, top, gap)
            _label_axes(axes, "iteration", "error (%)")
            whole_numbers(axes)
            axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        _line_key(figure, held_out, any(net.unfinished for net in nets))
    return figure


def depth_errors(nets: Sequence[NetCurves], held_out: str, *, narrow: bool = False) -> Figure:
    """Final error against depth, training and `held_out`: dots are seeds, lines join the means.

    Depths stand at even distances, as 20, 32, 44, 56, 110 and 1202 fit no scale.
    """
    depths = sorted({net.depth for net in nets})
    last = [
        (axes_title, [(net, series[max(series)]) for net, series in pairs if series])
        for axes_title, pairs in (
            ("Training error", [(net, net.train) for net in nets]),
            (f"{held_out.capitalize()} error", [(net, net.held_out) for net in nets]),
        )
    ]
    styles = {"plain": (SERIES[0], "s", 1.4), "residual": (SERIES[4], "o", 2.4)}
    with house_style():
        figure, grid = _canvas(2, narrow)
        for axes, (title, points) in zip(grid, last, strict=True):
            for kind, (color, marker, width) in styles.items():
                mine = sorted(
                    ((net.depth, np.asarray(errors)) for net, errors in points if net.kind == kind),
                    key=lambda point: point[0],
                )
                for depth, errors in mine:
                    places = np.full(len(errors), depths.index(depth))
                    axes.plot(places, errors, marker, color=color, alpha=0.45, ms=5, mew=0)
                means = [errors.mean() for _, errors in mine]
                axes.plot([depths.index(depth) for depth, _ in mine], means, color=color, lw=width)
                axes.plot([], [], marker=marker, color=color, lw=width, label=kind)
            axes.set_xticks(range(len(depths)), [f"{depth:,}" for depth in depths])
            axes.set_title(title)
            axes.margins(x=0.08)
            _label_axes(axes, "weighted layers", "error (%)")
        grid[0].set_ylim(bottom=0)  # of both, now that both are drawn
        handles, words = grid[0].get_legend_handles_labels()
        figure.legend(handles, words, loc="outside upper right", ncols=len(words))
    return figure


def _canvas(panels: int, narrow: bool) -> tuple[Figure, list[Axes]]:
    """Panels that share both axes: side by side, or one above the other when `narrow`."""
    width, height = NARROW if narrow else WIDE
    if panels == 1:
        width, height = (width, height / 1.8) if narrow else (width * 0.66, height)
    figure = Figure(figsize=(width, height), layout="constrained")
    shape = (panels, 1) if narrow else (1, panels)
    grid = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    flat = [axes for row in grid for axes in row]
    for axes in flat:
        axes.tick_params(labelleft=True, labelbottom=True, length=3)
    return figure, flat


def _draw_net(axes: Axes, net: NetCurves, color: str, bold: bool) -> float | None:
    """Draw one net's lines; returns the height of the end of its solid line (or dashed one)."""
    end = None
    for errors, style, width in (
        (net.train, (0, (4, 2)), 1.5 if bold else 0.9),
        (net.held_out, "-", 2.3 if bold else 1.2),
    ):
        if not errors:
            continue
        steps = sorted(errors)
        values = [np.asarray(errors[step]) for step in steps]
        means = [value.mean() for value in values]
        axes.plot(steps, means, linestyle=style, color=color, lw=width, zorder=3)
        if style == "-" and len(values[0]) > 1:
            lows, highs = [value.min() for value in values], [value.max() for value in values]
            axes.fill_between(steps, lows, highs, color=color, alpha=0.16, lw=0)
        end = float(means[-1])
    for points in net.unfinished:
        if points:
            axes.plot(*zip(*points, strict=True), linestyle=":", color=color, lw=1.1)
            axes.plot(*points[-1], "x", color=color, ms=7, mew=1.8, clip_on=False, zorder=4)
    return end


def _error_limit(nets: Sequence[NetCurves]) -> float:
    """Top of the error axis: the largest mean error once the first tenth of the run is over."""
    largest = 0.0
    for net in nets:
        for errors in (net.train, net.held_out):
            after = WARM_UP_SHARE * max(errors, default=0)
            means = [float(np.mean(values)) for step, values in errors.items() if step >= after]
            largest = max([largest, *means])
    return min(100.0, 1.08 * largest) or 100.0


def _steps(net: NetCurves) -> list[int]:
    unfinished = [step for points in net.unfinished for step, _ in points]
    return [*net.train, *net.held_out, *unfinished]


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], top: float, gap: float) -> None:
    """Name each line at its right end, moved apart where the lines end close to each other."""
    places: list[float] = []
    for height, _, _ in sorted(ends):
        places.append(max(height, places[-1] + gap) if places else height)
    overflow = max(0.0, places[-1] - top) if places else 0.0
    for (_, label, color), place in zip(sorted(ends), places, strict=True):
        axes.annotate(
            label,
            (1.015, (place - overflow) / top),
            xycoords="axes fraction",
            color=color,
            va="center",
            fontsize=LABEL_SIZE,
            fontweight="bold",
            annotation_clip=False,
        )


def _label_axes(axes: Axes, across: str, up: str) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)


def _line_key(figure: Figure, held_out: str, unfinished: bool) -> None:
    handles = [
        Line2D([], [], color=SOFT, lw=1.2, linestyle=(0, (4, 2)), label="training"),
        Line2D([], [], color=SOFT, lw=1.8, label=held_out),
    ]
    if unfinished:
        handles.append(
            Line2D([], [], color=SOFT, lw=1.1, ls=":", marker="x", mew=1.8, label="did not finish")
        )
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))


def _thousands(step: float, _: int) -> str:
    return f"{step / 1000:g}k" if step >= 1000 else f"{step:g}"
