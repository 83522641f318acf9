"""The report of a training run: curves.svg and report.html, from the run's own files."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from resnets.config import Recipe
from resnets.config.aliases import read_json
from resnets.report.advice import advise
from resnets.report.figures import PANEL, SERIES, figure_style, inline_plot, subplots, to_svg
from resnets.report.index import REPORT
from resnets.report.render import render
from resnets.report.run_details import RunDetails
from resnets.utils.files import atomic_write
from resnets.utils.imports import PREFIX

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

CURVES = "curves.svg"
SPLITS = ("test", "val", "train")
# Metrics of a split that a report shows, in percent but for those of `PLAIN`, and their titles.
METRICS = {
    "bits_per_character": "bits per character",
    "frequency_bits": "frequency baseline",
    "top1_error": "top-1 error",
    "balanced_error": "balanced error",
    "top5_error": "top-5 error",
    "mAP": "mAP",
    "micro_f1": "micro F1",
    "given_error": "error, class given",
    "AP": "mAP",
    "AP50": "mAP@.5",
    "AP75": "mAP@.75",
    "mask_AP": "mask mAP",
    "mask_AP50": "mask mAP@.5",
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "macro_f1": "macro F1",
    "majority_error": "majority baseline",
    "loss": "loss",
}
PLAIN = {"loss": ".4f", "bits_per_character": ".3f", "frequency_bits": ".3f"}  # and their formats
# Shorter titles for a terminal, which has no room for the loss beside the errors.
SHORT = {
    "top1_error": "error",
    "balanced_error": "balanced",
    "top5_error": "top-5",
    "macro_f1": "macro F1",
    "majority_error": "baseline",
    "frequency_bits": "baseline",
}
PLOTTED = (
    "top1_error",
    "mAP",
    "AP50",
    "mean_iou",
    "bits_per_character",
)  # beside the loss: the first that a run has
LINES = (("train", "--", SERIES[3]), ("val", "-", SERIES[0]), ("test", "-", SERIES[4]))
FEW_POINTS = 20  # of a line, up to which each is marked
STAGE_COLORS = (SERIES[0], SERIES[1], SERIES[3], SERIES[4])

Rows = Sequence[Mapping[str, Any]]  # of metrics.jsonl


def write_run_report(
    folder: Path,
    recipe: Recipe,
    result: Mapping[str, Any],
    rows: Rows,
    *,
    stages: Mapping[str, str],
    stage_summary: str | None,
    changed: Sequence[tuple[str, str, str]] = (),
    details: RunDetails | None = None,
) -> None:
    """Write curves.svg and report.html into a run's `folder`.

    rows: of metrics.jsonl. stages: title of each stage of a training step, by its key in rows of
    kind "time". stage_summary: where the time went, as one line; None without such rows. changed:
    fields in which the recipe differs from the one it is named after: path, value, value there.
    details: what is shown of a classifier.
    """
    with np.errstate(all="ignore"):  # rows may hold any number
        plot = plot_curves(rows)
        svg = to_svg(plot, "curves")
        curves = inline_plot(plot, svg, "curves")
        stages_plot = None if stage_summary is None else _inline_stages(rows, stages)
    with atomic_write(folder / CURVES) as temporary:
        temporary.write_text(svg, encoding="utf-8")
    splits = {name: result[name] for name in SPLITS if result.get(name)}
    metrics = metrics_of(result)
    measured = next((name for name in SPLITS if name in splits and name != "train"), None)
    page = render(
        "run.html.j2",
        recipe=recipe,
        changed=changed,
        result=result,
        metrics=metrics,
        format_metric=format_metric,
        unit=_unit(result),
        main_metric=next(iter(metrics)),
        splits=splits,
        unreadable={
            name: split["unreadable"] for name, split in splits.items() if split.get("unreadable")
        },
        curves=curves,
        stages=stage_summary,
        stages_plot=stages_plot,
        environment=read_json(folder / "environment.json", "environment"),
        measured=measured,
        details=details,
        advice=advise(recipe, rows, _images(result)) if details else (),
        data=recipe.data.source,
        custom=bool(recipe.custom) or recipe.data.source.startswith(PREFIX),
        recipe_file=shlex.quote(str(folder / "recipe.toml")),
        run_folder=shlex.quote(str(folder)),
        quoted_data=shlex.quote(recipe.data.source),
    )
    with atomic_write(folder / REPORT) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _images(result: Mapping[str, Any]) -> int:
    """Training images of a run."""
    return sum(result.get("train", {}).get("class_counts", {}).values())


def _unit(result: Mapping[str, Any]) -> str:
    """What examples are: "images", or "windows" of a text."""
    return str(result.get("data_summary", {}).get("unit", "images"))


def run_summary(folder: Path, title: str, result: Mapping[str, Any], rows: Rows) -> str:
    """The metrics and curves of a run as HTML for a notebook; `result` is empty while it trains."""
    with np.errstate(all="ignore"):  # rows may hold any number
        svg = to_svg(plot_curves(rows), "curves")
    return render(
        "run_inline.html.j2",
        folder=folder,
        title=title,
        splits={name: result[name] for name in SPLITS if name in result},
        metrics=metrics_of(result),
        format_metric=format_metric,
        unit=_unit(result),
        curves=Markup(svg[svg.index("<svg") :]),
    )


def metrics_of(result: Mapping[str, Any]) -> dict[str, str]:
    """Those of `METRICS` that any split of a run's result has, with their titles."""
    splits = [result[name] for name in SPLITS if name in result]
    return {key: title for key, title in METRICS.items() if any(key in each for each in splits)}


def format_metric(key: str, value: float | None) -> str:
    """A metric with its unit, such as "1.50%"; empty where it is not known."""
    if not isinstance(value, int | float):
        return ""
    return format(value, PLAIN[key]) if key in PLAIN else f"{value:.2f}%"


def plot_curves(rows: Rows) -> Plot:
    """The main metric and the loss against epochs: training dashed, held out solid (as Fig. 6)."""
    with figure_style():
        figure, panels = subplots(2)
        metric = next((key for key in PLOTTED if any(key in row for row in rows)), PLOTTED[0])
        labels = {metric: METRICS[metric] + " (%)" * (metric not in PLAIN), "loss": "loss"}
        for axes, (key, label) in zip(panels, labels.items(), strict=True):
            for kind, style, color in LINES:
                found = (row for row in rows if row["kind"] == kind and key in row)
                points = [(row["epoch"], row[key]) for row in found]
                if points:
                    marker = "o" if len(points) <= FEW_POINTS else None
                    x, y = zip(*points, strict=True)
                    axes.plot(x, y, style, color=color, label=kind, marker=marker, ms=3.5)
            axes.set(xlabel="epoch", ylabel=label)
            highest = axes.dataLim.ymax  # not finite without a point
            axes.set_ylim(0, 1.06 * highest if 0 < highest < math.inf else None)
            if axes.lines:
                axes.legend()
    return figure


def plot_stages(rows: Rows, stages: Mapping[str, str]) -> Plot:
    """Share of each stage in the training time of each epoch: one stacked bar each."""
    epochs = [row for row in rows if row["kind"] == "time"]
    ends = [row["epoch"] for row in epochs]
    starts = [0.0, *ends[:-1]]
    widths = [end - start for start, end in zip(starts, ends, strict=True)]
    with figure_style():
        figure, (axes,) = subplots(1, panel=(PANEL[0], 2.9))
        below = [0.0] * len(epochs)
        for (stage, title), color in zip(stages.items(), STAGE_COLORS, strict=True):
            shares = [100 * row[stage] for row in epochs]
            axes.bar(starts, shares, widths, below, align="edge", color=color, label=title)
            below = [low + share for low, share in zip(below, shares, strict=True)]
        axes.set(xlabel="epoch", ylabel="time (%)", xlim=(0, ends[-1]), ylim=(0, 100))
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def _inline_stages(rows: Rows, stages: Mapping[str, str]) -> str:
    plot = plot_stages(rows, stages)
    return inline_plot(plot, to_svg(plot, "stages"), "stages")
