"""`resnets study unravelled`: measure, then write the page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot

from resnets.evaluate.figures.fonts import escape_label
from resnets.report.figures import figure_style, integer_ticks, series_colors, subplots
from resnets.report.page import Figure, Numbers, Table
from resnets.report.render import Row
from resnets.study.analysis import line_style
from resnets.study.trained import Analysis, Subject
from resnets.study.unravelled.measure import DRAWS, Unravelled, measure_unravelled

TRAINING_IMAGES = 200  # that norms take their statistics from anew


def describe(results: Sequence[Unravelled]) -> dict[str, Any]:
    """What removing and reordering blocks costs each model."""
    figures = [
        Figure("removed", _plot_single(results), _numbers(results)),
        Figure("several", _plot_several(results)),
    ]
    if any(each.paths for each in results):
        figures.append(Figure("paths", _plot_paths(results), _path_numbers(results)))
    return {
        "figures": figures,
        "tables": [_table(results)],
        "rises": [_rises(each) for each in results],
        "jumps": {each.label: _largest_jump(each) for each in results},
        "draws": DRAWS,
        "lengths": {each.label: _main_length(each) for each in results if each.paths},
    }


def measure(subject: Subject) -> Unravelled:
    """All measurements of one model."""
    assert subject.training is not None
    return measure_unravelled(
        subject.model, subject.images, subject.training, subject.seed, subject.label
    )


ANALYSIS = Analysis(
    "unravelled", measure, describe, training_images=TRAINING_IMAGES, result=Unravelled
)


def _rises(result: Unravelled) -> tuple[float, float]:
    """Median points by which removing one block raises the error: as trained, and anew."""
    return (
        statistics.median(each.stored for each in result.single) - result.error,
        statistics.median(each.again for each in result.single) - result.again,
    )


def _largest_jump(result: Unravelled) -> float:
    """The largest step of the mean error between numbers of blocks removed, of the whole rise."""
    counts = sorted({each.count for each in (*result.single, *result.several)})
    found = [result.worst(count, again=False) for count in counts]
    errors = [result.error, *(error for error in found if error is not None)]
    rise = max(errors) - errors[0]
    return max(later - before for before, later in pairwise(errors)) / rise if rise > 0 else 0.0


def _main_length(result: Unravelled) -> int:
    """The length of path that carries most of the gradient, of those measured."""
    return max(result.paths, key=lambda each: each.carried).length


def _plot_single(results: Sequence[Unravelled]) -> Plot:
    with figure_style():
        figure, panels = subplots(1, 2, share="both")
        for axes, again in zip(panels, (False, True), strict=True):
            for each, color in zip(results, series_colors(len(results)), strict=True):
                errors = [one.again if again else one.stored for one in each.single]
                look = line_style(residual=each.residual, color=color)
                places = range(1, len(errors) + 1)
                axes.plot(places, errors, marker="o", ms=3, label=escape_label(each.label), **look)
                axes.axhline(each.again if again else each.error, color=color, lw=0.8, ls=":")
            title = "Statistics taken anew" if again else "Statistics as trained"
            axes.set(title=title, xlabel="block removed, first to last", ylabel="error (%)")
            axes.set_ylim(0, 100)
            integer_ticks(axes)
        handles, words = panels[0].get_legend_handles_labels()
        figure.legend(handles, words, loc="outside upper left", ncols=2)
    return figure


def _plot_several(results: Sequence[Unravelled]) -> Plot:
    with figure_style():
        figure, panels = subplots(1, 2, share="y")
        for axes, kind in zip(panels, ("removed", "swapped"), strict=True):
            for each, color in zip(results, series_colors(len(results)), strict=True):
                _plot_counts(axes, each, kind, color)
            label = "blocks removed at once" if kind == "removed" else "pairs exchanged in a stage"
            axes.set(title=kind.capitalize(), xlabel=label, ylabel="error (%)", ylim=(0, 100))
            integer_ticks(axes)
        handles, words = panels[0].get_legend_handles_labels()
        figure.legend(handles, words, loc="outside upper left", ncols=2)
    return figure


def _plot_counts(axes: Axes, result: Unravelled, kind: str, color: str) -> None:
    """Mean errors by number of changes: a line as trained, crosses with statistics anew."""
    found = [each for each in (*result.single, *result.several) if each.kind == kind]
    counts = sorted({each.count for each in found})
    look = line_style(residual=result.residual, color=color)
    means = [
        statistics.fmean(each.stored for each in found if each.count == count) for count in counts
    ]
    anew = [
        statistics.fmean(each.again for each in found if each.count == count) for count in counts
    ]
    axes.plot([0, *counts], [result.error, *means], label=escape_label(result.label), **look)
    axes.plot([0, *counts], [result.again, *anew], "x", color=color, ms=6, mew=1.6)


def _plot_paths(results: Sequence[Unravelled]) -> Plot:
    shown = [each for each in results if each.paths]
    with figure_style():
        figure, (alone, carried) = subplots(1, 2)
        for each, color in zip(shown, series_colors(len(shown)), strict=True):
            lengths = [path.length for path in each.paths]
            name = escape_label(each.label)
            alone.plot(lengths, [path.gradient or math.nan for path in each.paths], "o-", ms=3,
                       color=color, label=name)  # fmt: skip
            total = sum(path.carried for path in each.paths) or 1.0
            shares = [100 * path.carried / total for path in each.paths]
            carried.plot(lengths, shares, "o-", ms=3, color=color)
            paths = sum(path.share for path in each.paths)
            counts = [100 * path.share / paths for path in each.paths]
            carried.plot(lengths, counts, ":", lw=1.4, color=color)
        alone.set(title="Gradient of one path", yscale="log", ylabel="gradient norm")
        carried.set(title="Share of the gradient (paths: dotted)", ylabel="%", ylim=(0, None))
        for axes in (alone, carried):
            axes.set_xlabel("branches on the path")
            integer_ticks(axes)
        alone.legend(fontsize=9)
    return figure


def _numbers(results: Sequence[Unravelled]) -> Numbers:
    columns = ("model", "kind", "count", "error", "error with statistics anew", "blocks")
    rows: list[Row] = []
    for each in results:
        rows.append((each.label, "intact", 0, each.error, each.again, ""))
        rows += [
            (each.label, one.kind, one.count, one.stored, one.again, " ".join(one.blocks))
            for one in (*each.single, *each.several)
        ]
    return Numbers(columns, tuple(rows))


def _path_numbers(results: Sequence[Unravelled]) -> Numbers:
    rows = tuple(
        (each.label, path.length, path.share, path.gradient, path.carried)
        for each in results
        for path in each.paths
    )
    return Numbers(("model", "length", "share of paths", "gradient", "carried"), rows)


def _table(results: Sequence[Unravelled]) -> Table:
    columns = (
        *("Model", "Blocks", "Intact", "Intact, anew", "Without one block, median"),
        *("The same, anew", "Without one block, worst", "The same, anew"),
    )
    rows = tuple(
        (
            *(each.label, each.blocks, each.error, each.again),
            statistics.median(one.stored for one in each.single),
            statistics.median(one.again for one in each.single),
            max(one.stored for one in each.single),
            max(one.again for one in each.single),
        )
        for each in results
    )
    return Table("unravelled", columns, rows)
