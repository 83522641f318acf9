"""`resnets study unravelled`: measure, then write the page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot

from resnets.evaluate.figures.fonts import escape_label
from resnets.report.figures import figure_style, integer_ticks, series_colors, subplots
from resnets.report.page import Figure, Numbers, Report, Row, Table, write_page
from resnets.study.analysis import (
    check_finite,
    draw_split,
    line_style,
    load_models,
    prepare_images,
    study_command,
)
from resnets.study.convergence_rule import caution, cautions
from resnets.study.unravelled.measure import DRAWS, Unravelled, measure_unravelled
from resnets.utils import environment
from resnets.weights.load import NOTHING_SAID, LoadOptions

TRAINING_IMAGES = 500  # that norms take their statistics from anew


def unravelled_study(
    checkpoints: Sequence[Path],
    *,
    data: str | None,
    examples: int,
    seed: int,
    device: str,
    out: Path,
    loading: LoadOptions = NOTHING_SAID,
) -> Report:
    """Remove and reorder blocks of each of `checkpoints`, residual or plain.

    Errors are measured on `examples` held-out images; `seed` draws them and the blocks. Returns the
    report in `out`. Raises ConfigError, DataError, CheckpointError, and ValueError for a model
    whose outputs are not finite.
    """
    models = load_models(checkpoints, data, loading)
    split = draw_split(models[0].model, data, "held-out", examples, seed)
    training = draw_split(models[0].model, data, "train", TRAINING_IMAGES, seed)
    results, protocols, doubts = [], {}, {}
    for each in models:
        images = prepare_images(split, each.model, device)
        others = prepare_images(training, each.model, device)
        check_finite(images.evaluate(each.model).loss, each.path)
        found = measure_unravelled(each.model, images, others, seed, each.label)
        results.append(found)
        protocols[each.label] = images.protocol
        classes = len(images.classes)
        doubts[each.label] = caution(each.path, found.error, classes, errors_of="held-out")
    flags = {"examples": examples, "seed": seed, "data": data}
    return write_unravelled(
        out,
        results,
        protocols=protocols,
        caution=cautions(doubts),
        training=training.description,
        commands=[study_command("unravelled", *checkpoints, **flags)],
        environment=environment.describe(images.device),
    )


def write_unravelled(out: Path, results: Sequence[Unravelled], **values: object) -> Report:
    """Write the page on the networks: what removing and reordering blocks costs."""
    figures = [
        Figure("removed", _plot_single(results), _numbers(results)),
        Figure("several", _plot_several(results)),
    ]
    if any(each.paths for each in results):
        figures.append(Figure("paths", _plot_paths(results), _path_numbers(results)))
    return write_page(
        out,
        "study/unravelled.html.j2",
        figures=figures,
        tables=[_table(results)],
        results=results,
        rises=[_rises(each) for each in results],
        draws=DRAWS,
        lengths={each.label: _main_length(each) for each in results if each.paths},
        **values,
    )


def _rises(result: Unravelled) -> tuple[float, float]:
    """Median points by which removing one block raises the error: as trained, and anew."""
    return (
        statistics.median(each.stored for each in result.single) - result.error,
        statistics.median(each.again for each in result.single) - result.again,
    )


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
