"""The report of a training run: curves.svg and report.html, from the run's own files."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from markupsafe import Markup

from resnets.config import Recipe
from resnets.config.aliases import read_json
from resnets.report.classification_details import RunDetails
from resnets.report.figure_style import (
    PANEL,
    SERIES,
    figure_style,
    inline_plot,
    integer_ticks,
    subplots,
    to_svg,
)
from resnets.report.page import REPORT
from resnets.report.render import render
from resnets.utils.files.source_paths import path_within, prefixes
from resnets.utils.files.write import atomic_write
from resnets.utils.imports import PREFIX

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

CURVES, ENVIRONMENT = "curves.svg", "environment.json"
SPLITS = ("test", "val", "train")
# Metrics of a split in a report and their titles; in percent, except for those of `PLAIN`.
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
# Shorter titles for a terminal, which does not show the loss.
SHORT = {
    "top1_error": "error",
    "balanced_error": "balanced",
    "top5_error": "top-5",
    "macro_f1": "macro F1",
    "majority_error": "baseline",
    "frequency_bits": "baseline",
}
# The first of these that a run has is plotted next to the loss.
PLOTTED = ("top1_error", "mAP", "AP50", "mean_iou", "bits_per_character")
LINES = (("train", "--", SERIES[3]), ("val", "-", SERIES[0]), ("test", "-", SERIES[4]))
FEW_POINTS = 20  # of a line, up to which each is marked
BALANCED = "balanced_error"  # is plotted next to the top-1 error if they differ
MIN_DIFFERENCE = 1.0  # points from which the balanced error is shown next to the error in curves
STAGE_COLORS = (SERIES[0], SERIES[1], SERIES[3], SERIES[4])

# Thresholds of `advise`.
MIN_EVALUATIONS = 5
LATE = 0.25  # fraction of the run that is its end
FALLING = 0.05  # relative decrease of the validation error in it that suggests longer training
RISING = 1.05  # last validation loss over the lowest that is overfitting ...
MIN_RISE = 0.02  # ... if they also differ by this much: below it are losses of almost no error
GAP = 2.0  # validation error over training error that is overfitting ...
POINTS = 5.0  # ... if they also differ by this many points
FEW_IMAGES = 20_000  # training images below which pretrained weights are suggested

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
    kind "time". stage_summary: the time of each stage, as one line; None without such rows.
    changed: fields in which the recipe differs from the one it is named after: path, value, value
    there.
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
    starts = prefixes(recipe.data.source)
    metrics = list_metrics(result)
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
            name: [path_within(text, starts) for text in split["unreadable"]]
            for name, split in splits.items()
            if split.get("unreadable")
        },
        curves=curves,
        stages=stage_summary,
        stages_plot=stages_plot,
        environment=read_json(folder / ENVIRONMENT, "environment"),
        measured=measured,
        details=details,
        advice=[*advise_on_data(result), *advise(recipe, rows, _count_images(result))]
        if details
        else (),
        data=recipe.data.source,
        custom=bool(recipe.custom) or recipe.data.source.startswith(PREFIX),
        recipe_file=shlex.quote(str(folder / "recipe.toml")),
        run_folder=shlex.quote(str(folder)),
        quoted_data=shlex.quote(recipe.data.source),
    )
    with atomic_write(folder / REPORT) as temporary:
        temporary.write_text(page, encoding="utf-8")


@dataclass(frozen=True)
class Advice:
    """A suggestion for the next run: `kind` names its text in the template, `values` fill it."""

    kind: Literal["data", "falling", "overfitting", "pretrained"]
    values: Mapping[str, Any]


def advise_on_data(result: Mapping[str, Any]) -> list[Advice]:
    """Return the warnings about the data set, which come before all other advice."""
    warnings = result.get("data_summary", {}).get("warnings", ())
    return [Advice("data", {"warning": text}) for text in warnings]


def advise(recipe: Recipe, rows: Rows, images: int) -> list[Advice]:
    """Return what the curves of a classifier suggest; `images` is the number of training images.

    Only validation errors are used: without a validation split, or with few evaluations, the only
    advice is to start from pretrained weights.
    """
    val = [row for row in rows if row.get("kind") == "val" and "top1_error" in row]
    train = [row for row in rows if row.get("kind") == "train" and "top1_error" in row]
    advice: list[Advice] = []
    if len(val) >= MIN_EVALUATIONS and train:
        end = val[-1]["step"]
        late = [row["top1_error"] for row in val if row["step"] > (1 - LATE) * end]
        early = [row["top1_error"] for row in val if row["step"] <= (1 - LATE) * end]
        if early and late and min(late) < (1 - FALLING) * min(early):
            values = {"before": min(early), "after": min(late), "duration": recipe.duration}
            advice.append(Advice("falling", values))
        elif _overfits(val, train):
            lowest = min(val, key=lambda row: row["loss"])
            values = {
                "train": train[-1]["top1_error"],
                "val": val[-1]["top1_error"],
                "best_epoch": lowest["epoch"],
                "rises": _rises(lowest["loss"], val[-1]["loss"]),
            }
            advice.append(Advice("overfitting", values))
    if recipe.weights is None and images < FEW_IMAGES and (recipe.data.size or 0) >= 64:
        advice.append(Advice("pretrained", {"images": images}))
    return advice


def _overfits(val: Rows, train: Rows) -> bool:
    losses = [row["loss"] for row in val if "loss" in row]
    rises = bool(losses) and _rises(min(losses), losses[-1])
    error, trained = val[-1]["top1_error"], train[-1]["top1_error"]
    return rises or (error > GAP * trained and error - trained > POINTS)


def _rises(lowest: float, last: float) -> bool:
    """Whether the validation loss rose from its lowest value by more than noise."""
    return last > max(RISING * lowest, lowest + MIN_RISE)


def _count_images(result: Mapping[str, Any]) -> int:
    """Return the number of training images of a run."""
    return sum(result.get("train", {}).get("class_counts", {}).values())


def _unit(result: Mapping[str, Any]) -> str:
    """Return the unit of examples: "images", or "windows" of a text."""
    return str(result.get("data_summary", {}).get("unit", "images"))


def run_summary(folder: Path, title: str, result: Mapping[str, Any], rows: Rows) -> str:
    """Return metrics and curves of a run as HTML for a notebook; `result` may still be empty."""
    with np.errstate(all="ignore"):  # rows may hold any number
        svg = to_svg(plot_curves(rows), "curves")
    return render(
        "run_inline.html.j2",
        folder=folder,
        title=title,
        splits={name: result[name] for name in SPLITS if name in result},
        metrics=list_metrics(result),
        format_metric=format_metric,
        unit=_unit(result),
        curves=Markup(svg[svg.index("<svg") :]),
    )


def list_metrics(result: Mapping[str, Any]) -> dict[str, str]:
    """Return name and title of those of `METRICS` that any split of a run's result has."""
    splits = [result[name] for name in SPLITS if name in result]
    return {key: title for key, title in METRICS.items() if any(key in each for each in splits)}


def format_metric(key: str, value: float | None) -> str:
    """Format a metric with its unit, such as "1.50%"; empty if it is not known."""
    if not isinstance(value, int | float):
        return ""
    return format(value, PLAIN[key]) if key in PLAIN else f"{value:.2f}%"


def plot_curves(rows: Rows) -> Plot:
    """Plot main metric and loss against epochs: training dashed, held out solid (as in Fig. 6).

    Where the balanced error of held-out images differs from their error, it is dotted.
    """
    with figure_style():
        figure, panels = subplots(2)
        metric = next((key for key in PLOTTED if any(key in row for row in rows)), PLOTTED[0])
        labels = {metric: METRICS[metric] + " (%)" * (metric not in PLAIN), "loss": "loss"}
        for axes, (key, label) in zip(panels, labels.items(), strict=True):
            for kind, style, color in LINES:
                points = [
                    (row["epoch"], row[key]) for row in rows if row["kind"] == kind and key in row
                ]
                if points:
                    marker = "o" if len(points) <= FEW_POINTS else None
                    x, y = zip(*points, strict=True)
                    axes.plot(x, y, style, color=color, label=kind, marker=marker, ms=3.5)
                if key == "top1_error" and (points := _balanced_points(rows, kind)):
                    x, y = zip(*points, strict=True)
                    axes.plot(x, y, ":", color=color, label=f"{kind}, balanced")
            axes.set(xlabel="epoch", ylabel=label)
            if 2 <= axes.dataLim.xmax < math.inf:
                integer_ticks(axes)
            highest = axes.dataLim.ymax  # not finite without a point
            axes.set_ylim(0, 1.06 * highest if 0 < highest < math.inf else None)
            if axes.lines:
                axes.legend()
    return figure


def _balanced_points(rows: Rows, kind: str) -> list[tuple[float, float]]:
    """Return epoch and balanced error of the rows of a kind; none if it is the error throughout."""
    chosen = [row for row in rows if row["kind"] == kind and row.keys() >= {BALANCED, "top1_error"}]
    if all(abs(row[BALANCED] - row["top1_error"]) < MIN_DIFFERENCE for row in chosen):
        return []
    return [(row["epoch"], row[BALANCED]) for row in chosen]


def plot_stages(rows: Rows, stages: Mapping[str, str]) -> Plot:
    """Plot the share of each stage in the training time of each epoch as stacked bars."""
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
