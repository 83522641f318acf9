"""A figure of precision-recall curves: the mean over classes, and each class."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from resnets.detect.draw import class_color
from resnets.detect.metrics.coco import CocoFigures
from resnets.evaluate.figures.fonts import escape_label, figure_fonts
from resnets.utils.files.write import atomic_write

INK, MUTED, GRAY = "#1f2933", "#616e7c", "#cbd2d9"
RECALL = np.linspace(0, 1, 101)
OVERLAPS = ((0, "0.50", "#2f6fb0"), (5, "0.75", "#c8553d"), (8, "0.90", "#7b8794"))
MAX_NAMED = 10  # classes up to which each curve has its own color and name
LETTERS_PER_INCH = 12  # of the protocol at 9 pt


def save_curves(
    figures: CocoFigures, classes: Sequence[str], protocol: str, path: Path, kind: str = "boxes"
) -> None:
    """Write a PNG or SVG, by suffix: means over classes (left), classes at IoU 0.5 (right).

    If there are more than ten classes, the five best and five worst are named.
    """
    with figure_fonts((*classes, protocol)), atomic_write(path) as temporary:
        figure = _draw_figure(figures, classes, protocol, kind)
        figure.savefig(temporary, format=path.suffix.lstrip("."), facecolor="white")


def _draw_figure(figures: CocoFigures, classes: Sequence[str], protocol: str, kind: str) -> Figure:
    figure = Figure(figsize=(13, 5.4), dpi=130, layout="constrained")
    lines = [escape_label(line) for line in textwrap.wrap(protocol, int(11 * LETTERS_PER_INCH))]
    ap, ap50 = figures.numbers["AP"], figures.numbers["AP50"]
    title = f"{kind}: mAP@[.5,.95] {_format_score(ap)}, mAP@.5 {_format_score(ap50)}"
    figure.suptitle("\n".join((title, *lines)), fontsize=10, color=INK, x=0.01, ha="left")
    left, right = figure.subplots(1, 2, sharey=True)
    for index, overlap, color in OVERLAPS:
        curve = _mean(figures.precision[index])
        label = f"overlap {overlap}: {_format_score(float(np.nanmean(curve)))}"
        left.plot(RECALL, curve, color=color, linewidth=2, label=label)
    _style_axes(left, "Mean over classes", "precision")
    left.legend(edgecolor="white", framealpha=0.85, fontsize=9, loc="best")
    _draw_classes(right, figures, classes)
    _style_axes(right, "Each class at overlap 0.50", None)
    return figure


def _draw_classes(axes: Axes, figures: CocoFigures, classes: Sequence[str]) -> None:
    scored = [(score, row) for row, score in enumerate(figures.class_ap50) if score is not None]
    scored.sort(reverse=True)
    labeled = (
        scored
        if len(scored) <= MAX_NAMED
        else [*scored[: MAX_NAMED // 2], *scored[-(MAX_NAMED // 2) :]]
    )
    labeled_rows = {row for _, row in labeled}
    for _, row in scored:
        if row not in labeled_rows:
            axes.plot(RECALL, figures.precision[0, :, row], color=GRAY, linewidth=0.8)
    for score, row in labeled:
        color = tuple(0.85 * value / 255 for value in class_color(row))
        name = escape_label(f"{classes[row]}: {_format_score(score)}")
        curve = figures.precision[0, :, row]
        axes.plot(RECALL, curve, color=color, linewidth=1.6, label=name)
    if labeled:
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _style_axes(axes: Axes, title: str, ylabel: str | None) -> None:
    axes.set_title(title, fontsize=11, loc="left", color=INK)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.05)  # a curve of perfect precision does not touch the top
    axes.set_xlabel("recall", color=INK)
    if ylabel:
        axes.set_ylabel(ylabel, color=INK)
    axes.grid(color="#e4e7eb", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=MUTED, length=0)


def _mean(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean (101,) of precision (101, K) over classes that have objects."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no class has objects
        return np.nan_to_num(np.nanmean(precision, axis=1))


def _format_score(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"
