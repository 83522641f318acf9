"""The figure of an evaluation: confusion matrix and reliability diagram."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure

from resnets.evaluate.evaluation import Evaluation
from resnets.evaluate.figures.fonts import escape_label, figure_fonts
from resnets.evaluate.metrics.multiclass import BINS
from resnets.report.figure_style import INK, SOFT, figure_style
from resnets.utils.files.write import atomic_write

BLUE, RED = "#2f6fb0", "#c8553d"
MAX_NUMBERED = 30  # classes up to which cells have numbers and every class has its name
NAME_LENGTH = 22
CHARACTERS = 12  # per inch of the protocol's 9 pt


def save_confusion_figure(evaluation: Evaluation, path: Path) -> None:
    """Write the PNG: errors and protocol on top, confusion matrix left, reliability right.

    Readable from 2 to about 1000 classes; above 30 the cells have no numbers and only some classes
    are named.
    """
    fonts = figure_fonts((*evaluation.classes, evaluation.protocol))
    with figure_style(), fonts, atomic_write(path) as temporary:
        _make_figure(evaluation).savefig(temporary, format="png", facecolor="white")


def _make_figure(evaluation: Evaluation) -> Figure:
    side = float(np.clip(0.42 * len(evaluation.classes), 5.2, 11.5))  # inches of the matrix
    width = side + 7.4
    protocol = [
        escape_label(line) for line in textwrap.wrap(evaluation.protocol, int(width * CHARACTERS))
    ]
    head = 0.52 + 0.18 * len(protocol)  # inches
    figure = Figure(figsize=(width, head + side + 1.4), dpi=130, layout="constrained")
    rows = figure.subfigures(2, 1, squeeze=False, height_ratios=(head, side + 1.4))
    top, body = rows[:, 0]
    left, right = body.subfigures(1, 2, width_ratios=(side + 2.4, 5))
    upper, _ = right.subfigures(2, 1, height_ratios=(6.2, max(side - 4.8, 0.01)))
    _draw_heading(top, evaluation, protocol, head)
    _draw_confusion(left.subplots(), evaluation)
    reliability, confidence = upper.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    _draw_reliability(reliability, evaluation)
    _draw_confidence(confidence, evaluation)
    return figure


def _draw_heading(
    panel: SubFigure, evaluation: Evaluation, protocol: list[str], height: float
) -> None:
    title = f"{evaluation.top1_error:.2f}% top-1 error"
    if evaluation.top5_error is not None:
        title += f", {evaluation.top5_error:.2f}% top-5"
    sums = evaluation.sums
    title += f"; {sums.balanced_error:.2f}% balanced error, {sums.macro_f1:.2f}% macro F1"
    panel.text(0.02, 1 - 0.14 / height, title, fontsize=15, weight="bold", color=INK, va="top")
    below = 1 - 0.46 / height
    panel.text(0.02, below, "\n".join(protocol), fontsize=9, color=SOFT, va="top")


def _draw_confusion(axes: Axes, evaluation: Evaluation) -> None:
    """Draw rows as fractions of the true class; a power scale keeps rare confusions visible."""
    counts = evaluation.confusion
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)  # (K, K)
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1], labels=["0", "1%", "5%", "20%", "50%", "100%"])
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=0, colors=SOFT)
    _name_classes(axes, evaluation.classes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title("Confusion (share of the true class)")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    if len(counts) > MAX_NUMBERED:
        return
    axes.set_xticks(np.arange(len(counts) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(counts) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    size = 10 if len(counts) <= 12 else 7
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if shares[row, column] > 0.4 else INK
            axes.text(column, row, f"{count}", ha="center", va="center", fontsize=size, color=color)


def _name_classes(axes: Axes, classes: tuple[str, ...]) -> None:
    """Label every class, or about twenty evenly spaced ones if there are many."""
    step = 1 if len(classes) <= MAX_NUMBERED else -(-len(classes) // 20)
    ticks = range(0, len(classes), step)
    names = [
        escape_label(name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…")
        for name in classes[::step]
    ]
    axes.set_xticks(
        ticks, labels=names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8
    )
    axes.set_yticks(ticks, labels=names, fontsize=8)
    axes.tick_params(which="both", length=0, colors=INK)


def _draw_reliability(axes: Axes, evaluation: Evaluation) -> None:
    """Draw accuracy against confidence in 15 bins (Guo et al. 2017, Fig. 1)."""
    sums = evaluation.sums
    filled = sums.bin_counts > 0
    counts = sums.bin_counts[filled]
    accuracy, confidence = sums.bin_hits[filled] / counts, sums.bin_confidence[filled] / counts
    low, high = np.minimum(accuracy, confidence), np.maximum(accuracy, confidence)
    centers = ((np.arange(BINS) + 0.5) / BINS)[filled]
    width = 0.92 / BINS
    # In every bin a solid bar is the accuracy; the hatched gap lies above it if the model is
    # overconfident, and is its upper part if the model is underconfident.
    axes.bar(centers, accuracy, width, color=BLUE, label="accuracy")
    gaps = (
        ("accuracy above the confidence", accuracy >= confidence, "white"),
        ("confidence above the accuracy", accuracy < confidence, RED),
    )
    for title, chosen, edge in gaps:
        if chosen.any():
            axes.bar(
                centers[chosen], (high - low)[chosen], width, bottom=low[chosen], label=title,
                color=BLUE if edge == "white" else "#f3d3cb", hatch="////", edgecolor=edge,
                linewidth=0,
            )  # fmt: skip
    axes.plot([0, 1], [0, 1], "--", color=INK, linewidth=1)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.22)  # room for the legend above the bars
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_title(f"Reliability (calibration error {evaluation.calibration_error:.3f})")
    axes.set_ylabel("accuracy")
    axes.legend(loc="upper left", fontsize=8)
    axes.tick_params(labelbottom=False)


def _draw_confidence(axes: Axes, evaluation: Evaluation) -> None:
    """Draw the histogram of the confidence."""
    centers = (np.arange(BINS) + 0.5) / BINS
    share = evaluation.sums.bin_counts / evaluation.examples
    axes.bar(centers, share, 0.92 / BINS, color=SOFT)
    axes.set_ylabel("share")
    axes.set_xlabel("confidence of the predicted class")
    axes.yaxis.set_major_formatter("{x:.0%}")
