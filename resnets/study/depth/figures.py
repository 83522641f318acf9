"""Figures of a grid: error curves, final errors against depth, and norms of residual streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from resnets.models.transformer.network import Transformer
from resnets.report.figure_style import (
    PANEL,
    SERIES,
    SOFT,
    figure_style,
    integer_ticks,
    series_colors,
    subplots,
)
from resnets.report.page import Figure, Numbers
from resnets.report.render import Row
from resnets.sequence.load import load_sequence_model
from resnets.sequence.text import open_text
from resnets.study.depth.summary import ErrorCurves, ModelSummary, run_folder

MAX_COLUMNS = 3  # panels in a row
WARM_UP = 0.1  # fraction of a run ignored in scaling the error axis: every model starts near chance
MARKERS = ("o", "o", "D", "^", "v", "P")
LABEL_SIZE = 9.5  # points, of the names at the ends of lines
NORM_WINDOWS = 16  # of the training text, for norms of streams


def curve_labels(models: Sequence[ErrorCurves]) -> dict[str, str]:
    """Return a short label for each model: its depth, with shortcut option or name if needed.

    Models of one label, such as a plain network and its residual counterpart, have one color in
    all panels.
    """
    candidates = (
        {model.name: model.size for model in models},
        {
            model.name: model.size + ("" if model.shortcut == "none" else f", {model.shortcut}")
            for model in models
        },
    )
    for labels in candidates:
        counts = Counter((model.family, labels[model.name]) for model in models)
        if max(counts.values(), default=0) <= 1:
            return labels
    return {model.name: model.name for model in models}


def plot_error_curves(models: Sequence[ErrorCurves], held_out: str) -> Plot:
    """Plot error against iterations (Fig. 6): a panel for each family, plain and residual first.

    Dashed: training; solid: `held_out` ("test" or "validation"). Residual networks have thicker
    lines (here only; Fig. 4 has thin lines for training and bold ones for validation). Lines are
    means over seeds, bands their range, a cross the end of a run that did not finish.
    """
    families = list_families(models)
    ordered = sorted(models, key=lambda model: (model.depth, model.shortcut))
    labels = curve_labels(ordered)
    names = list(dict.fromkeys(labels[model.name] for model in ordered))
    colors = dict(zip(names, series_colors(len(names)), strict=True))
    top = _error_limit(models)
    last = max((step for model in models for step in _steps(model)), default=1)
    gap = 1.25 * LABEL_SIZE / (72 * 0.7 * PANEL[1]) * top  # a line of text on the error axis, about
    with figure_style():
        figure, panels = subplots(len(families), max_columns=MAX_COLUMNS, share="both")
        for axes, family in zip(panels, families, strict=True):
            ends = []
            for model in (model for model in ordered if model.family == family):
                color = colors[labels[model.name]]
                end = _plot_model(axes, model, color, bold=model.shortcut != "none")
                if end is not None:
                    ends.append((min(end, top), labels[model.name], color))
            title = f"{capitalize(family)}{' networks' if len(family) < 16 else ''}"
            axes.set(title=title, xlim=(0, last), ylim=(0, top))
            axes.set(xlabel="iteration", ylabel=models[0].metric.axis)
            _label_ends(axes, ends, top, gap)
            integer_ticks(axes)
            axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        _line_legend(figure, held_out, any(model.unfinished for model in models))
    return figure


def capitalize(family: str) -> str:
    """Return a family's name as a title: "Plain", but "mHC"."""
    return family[:1].upper() + family[1:] if family[:2].islower() else family


def list_families(models: Sequence[ErrorCurves]) -> list[str]:
    """Return the families of the models in the order of their panels."""
    names = list(dict.fromkeys(model.family for model in models))
    first = [name for name in ("plain", "residual") if name in names]
    return [*first, *(name for name in names if name not in first)]


def plot_depth_errors(models: Sequence[ErrorCurves], held_out: str) -> Plot:
    """Plot final error against depth, training and `held_out`: dots are seeds, lines join means.

    Depths are evenly spaced, as 20, 32, 44, 56, 110 and 1202 fit no scale.
    """
    depths = sorted({model.depth for model in models})
    metric = models[0].metric
    last = [
        (title, [(model, series[max(series)]) for model, series in pairs if series])
        for title, pairs in (
            (f"Training {metric.name}", [(model, model.train) for model in models]),
            (
                f"{held_out.capitalize()} {metric.name}",
                [(model, model.held_out) for model in models],
            ),
        )
    ]
    families = list_families(models)
    colors = [SERIES[0], SERIES[4], *(SERIES[index] for index in (2, 1, 3, 5))]
    if families[:1] != ["plain"]:
        colors = colors[1:]
    plain = {model.family for model in models if model.shortcut == "none"}
    styles = {}
    for index, family in enumerate(families):
        marker = "s" if family in plain else MARKERS[index % len(MARKERS)]
        width = 1.4 if family in plain else 2.4
        styles[family] = (colors[index % len(colors)], marker, width)
    with figure_style():
        figure, panels = subplots(2, share="both")
        for axes, (title, points) in zip(panels, last, strict=True):
            for family, (color, marker, width) in styles.items():
                errors_by_depth = sorted(
                    ((model.depth, np.asarray(errors)) for model, errors in points
                     if model.family == family),
                    key=lambda point: point[0],
                )  # fmt: skip
                for depth, errors in errors_by_depth:
                    position = np.full(len(errors), depths.index(depth))
                    axes.plot(position, errors, marker, color=color, alpha=0.45, ms=5, mew=0)
                means = [errors.mean() for _, errors in errors_by_depth]
                positions = [depths.index(depth) for depth, _ in errors_by_depth]
                axes.plot(positions, means, color=color, lw=width)
                axes.plot([], [], marker=marker, color=color, lw=width, label=family)
            axes.set_xticks(range(len(depths)), [f"{depth:,}" for depth in depths])
            axes.set(title=title, xlabel=metric.depth, ylabel=metric.axis)
            axes.margins(x=0.08)
        panels[0].set_ylim(bottom=0)  # of both, now that both are drawn
        handles, labels = panels[0].get_legend_handles_labels()
        ncols = len(labels) if len(labels) < 4 else 2
        figure.legend(handles, labels, loc="outside upper right", ncols=ncols)
    return figure


def stream_norms(model: Transformer, windows: torch.Tensor) -> list[float]:
    """Return the RMS of the stream at the embedding and after each block, over `windows` (B, T).

    Several streams are summed, and attention residuals read, as the head does.
    """
    with torch.inference_mode():
        states = [model.collapse(state) for state in model.states(windows)]
    return [float(state.square().mean().sqrt()) for state in states[::2]]  # two sublayers a block


def plot_stream_norms(models: Sequence[ModelSummary]) -> Figure | None:
    """Plot norms of streams against relative depth, a panel for each family; None without runs.

    Norms are those of the first finished seed of each model.
    """
    norms: dict[str, list[float]] = {}
    rows: list[Row] = []
    for model in models:
        for cell in model.done[:1]:
            network = load_sequence_model(cell.folder)
            assert isinstance(network, Transformer)
            part = open_text(network.recipe.data, network.spec.context).splits["train"]
            indices = np.arange(min(NORM_WINDOWS, len(part)))
            windows, _ = part.get_batch(indices, np.zeros_like(indices))
            norms[model.name] = stream_norms(network, windows)
            rows += [
                (model.name, model.depth, block, norm, run_folder(cell))
                for block, norm in enumerate(norms[model.name])
            ]
    if not norms:
        return None
    curves = [model.curves() for model in models if model.name in norms]
    families = list_families(curves)
    depths = sorted({each.depth for each in curves})
    colors = dict(zip(depths, series_colors(len(depths)), strict=True))
    with figure_style():
        figure, panels = subplots(len(families), max_columns=MAX_COLUMNS, share="both")
        for axes, family in zip(panels, families, strict=True):
            for curve in (each for each in curves if each.family == family):
                values = norms[curve.name]
                depth = np.linspace(0, 1, len(values))
                axes.plot(depth, values, "o-", ms=3, color=colors[curve.depth], label=curve.size)
            axes.set(title=capitalize(family), xlabel="relative depth")
            axes.set(ylabel="RMS of the stream", yscale="log")
            axes.legend()
    columns = ("model", "blocks", "block", "root mean square", "run folder")
    return Figure("stream-norms", figure, Numbers(columns, tuple(rows)))


def _plot_model(axes: Axes, model: ErrorCurves, color: str, *, bold: bool) -> float | None:
    """Plot one model's lines; returns the last value of its solid line, or of its dashed one."""
    end = None
    for errors, style, width in (
        (model.train, (0, (4, 2)), 1.5 if bold else 0.9),
        (model.held_out, "-", 2.3 if bold else 1.2),
    ):
        if not errors:
            continue
        steps = sorted(errors)
        values = [np.asarray(errors[step]) for step in steps]
        means = [value.mean() for value in values]
        marker = "o" if len(steps) == 1 else None
        axes.plot(
            steps, means, ls=style, color=color, lw=width, marker=marker, ms=4, zorder=3,
            clip_on=marker is None,
        )  # fmt: skip
        if style == "-" and len(values[0]) > 1:
            lows, highs = [value.min() for value in values], [value.max() for value in values]
            axes.fill_between(steps, lows, highs, color=color, alpha=0.16, lw=0)
        end = float(means[-1])
    for points in model.unfinished:
        if points:
            axes.plot(*zip(*points, strict=True), linestyle=":", color=color, lw=1.1)
            axes.plot(*points[-1], "x", color=color, ms=7, mew=1.8, clip_on=False, zorder=4)
    return end


def _error_limit(models: Sequence[ErrorCurves]) -> float:
    """Return the top of the error axis: the largest mean error after the first tenth of a run."""
    largest = 0.0
    for model in models:
        for errors in (model.train, model.held_out):
            after = WARM_UP * max(errors, default=0)
            means = [float(np.mean(values)) for step, values in errors.items() if step >= after]
            largest = max([largest, *means])
    return min(100.0, 1.08 * largest) or 100.0


def _steps(model: ErrorCurves) -> list[int]:
    unfinished = [step for points in model.unfinished for step, _ in points]
    return [*model.train, *model.held_out, *unfinished]


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], top: float, gap: float) -> None:
    """Label each line at its right end, moved apart where lines end close to each other."""
    heights: list[float] = []
    for end, _, _ in sorted(ends):
        heights.append(max(end, heights[-1] + gap) if heights else end)
    overflow = max(0.0, heights[-1] - top) if heights else 0.0
    for (_, label, color), height in zip(sorted(ends), heights, strict=True):
        axes.annotate(
            label,
            (1.015, (height - overflow) / top),
            xycoords="axes fraction",
            color=color,
            va="center",
            fontsize=LABEL_SIZE,
            fontweight="bold",
            annotation_clip=False,
        )


def _line_legend(figure: Plot, held_out: str, unfinished: bool) -> None:
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
