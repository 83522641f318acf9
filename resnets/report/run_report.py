"""A run as a picture and a page: curves.svg and report.html, from the run's own files."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from resnets.config import Recipe, atomic_write, to_toml
from resnets.config.aliases import read_json
from resnets.train.log import read_rows
from resnets.train.timing import STAGES, TIME, format_stages, summarize
from resnets.utils.terminal import valid_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES, REPORT = "curves.svg", "report.html"
# Figures of a split that a page shows, in percent but for the loss, and what they are called.
FIGURES = {
    "top1_error": "top-1 error",
    "top5_error": "top-5 error",
    "given_error": "error, class given",
    "AP": "mAP",
    "AP50": "mAP@.5",
    "AP75": "mAP@.75",
    "mask_AP": "mask mAP",
    "mask_AP50": "mask mAP@.5",
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixels right",
    "loss": "loss",
}
DRAWN = ("top1_error", "AP50", "mean_iou")  # beside the loss: the first that a run has
STAGE_COLORS = ("#c8591a", "#d9a441", "#7fa7c9", "#2a6fbb")
CURVES_OF = (("train", "--", "#2a6fbb"), ("val", "-", "#c8591a"), ("test", "-", "#3f8f4f"))


def write_report(out: Path, recipe: Recipe, result: dict[str, Any]) -> None:
    """Write curves.svg and report.html into the run folder `out`."""
    rows = read_rows(out)
    svg, spent = draw_curves(rows), summarize(rows)
    with atomic_write(out / CURVES) as temporary:
        temporary.write_text(svg, encoding="utf-8")
    environment = read_json(out / "environment.json", "environment")
    page = template("report.html.j2").render(
        recipe=recipe,
        toml=to_toml(recipe),
        result=result,
        figures=figures_of(result),
        curves=inline(svg),
        stages=None if spent is None else format_stages(spent),
        stages_drawn=None if spent is None else inline(draw_stages(rows)),
        environment=environment,
        folder=out.name,
    )
    with atomic_write(out / REPORT) as temporary:
        temporary.write_text(valid_text(page), encoding="utf-8")


def figures_of(result: dict[str, Any]) -> dict[str, str]:
    """Those of `FIGURES` that any split of a run's result has."""
    splits = [result[name] for name in ("test", "val", "train") if name in result]
    return {key: title for key, title in FIGURES.items() if any(key in each for each in splits)}


def draw_curves(rows: list[dict[str, Any]]) -> str:
    """Error and loss against epochs as SVG: training dashed, held out solid (as in Fig. 6)."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        measured = next((key for key in DRAWN if any(key in row for row in rows)), DRAWN[0])
        labels = {measured: f"{FIGURES[measured]} (%)", "loss": "loss"}
        for axes, (key, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
            for kind, style, color in CURVES_OF:
                found = (row for row in rows if row["kind"] == kind and key in row)
                points = [(row["epoch"], row[key]) for row in found]
                if points:
                    axes.plot(*zip(*points, strict=True), style, color=color, label=kind)
            axes.set_xlabel("epoch")
            axes.set_ylabel(label)
            highest = axes.dataLim.ymax  # not finite without a point
            axes.set_ylim(0, 1.06 * highest if 0 < highest < math.inf else None)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
            if axes.lines:
                axes.legend(frameon=False)
        return _svg(figure)


def draw_stages(rows: list[dict[str, Any]]) -> str:
    """Share of each stage in the training seconds of each epoch, as SVG: one stacked bar each."""
    from matplotlib.figure import Figure

    epochs = [row for row in rows if row["kind"] == TIME]
    ends = [row["epoch"] for row in epochs]
    starts = [0.0, *ends[:-1]]
    widths = [end - start for start, end in zip(starts, ends, strict=True)]
    with _style():
        figure = Figure(figsize=(9, 2.2), layout="constrained")
        axes = figure.subplots()
        below = [0.0] * len(epochs)
        for (stage, title), color in zip(STAGES.items(), STAGE_COLORS, strict=True):
            shares = [100 * row[stage] for row in epochs]
            axes.bar(starts, shares, widths, below, align="edge", color=color, label=title)
            below = [low + share for low, share in zip(below, shares, strict=True)]
        axes.set_xlabel("epoch")
        axes.set_ylabel("time (%)")
        axes.set_xlim(0, ends[-1])
        axes.set_ylim(0, 100)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        return _svg(figure)


def inline(svg: str) -> str:
    """What of an SVG file stands in a page."""
    return svg[svg.index("<svg") :]


@contextmanager
def _style() -> Iterator[None]:
    """The same look, and the same bytes, whenever a run is drawn."""
    from matplotlib import rc_context

    with (
        rc_context({"svg.fonttype": "none", "svg.hashsalt": "resnets", "font.size": 10}),
        np.errstate(all="ignore"),  # rows may hold any number
    ):
        yield


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def template(name: str) -> jinja2.Template:
    """A page template of the package."""
    loader = jinja2.PackageLoader("resnets", "templates")
    return jinja2.Environment(loader=loader, autoescape=True).get_template(name)
