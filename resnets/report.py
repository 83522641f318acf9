"""A run as a picture and a page: curves.svg and report.html, from the run's own files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jinja2

from resnets.config import Recipe, to_toml
from resnets.train.log import read_rows

CURVES, REPORT = "curves.svg", "report.html"
CURVES_OF = (("train", "--", "#2a6fbb"), ("val", "-", "#c8591a"), ("test", "-", "#3f8f4f"))


def write_report(out: Path, recipe: Recipe, result: dict[str, Any]) -> None:
    """Write curves.svg and report.html into the run folder `out`."""
    svg = draw_curves(read_rows(out))
    (out / CURVES).write_text(svg, encoding="utf-8")
    environment = json.loads((out / "environment.json").read_text(encoding="utf-8"))
    page = _template("report.html.j2").render(
        recipe=recipe,
        toml=to_toml(recipe),
        result=result,
        curves=svg[svg.index("<svg") :],
        environment=environment,
        folder=out.name,
    )
    (out / REPORT).write_text(page, encoding="utf-8")


def draw_curves(rows: list[dict[str, Any]]) -> str:
    """Error and loss against epochs as SVG: training dashed, held out solid (as in Fig. 6)."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "resnets", "font.size": 10}):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        error, loss = figure.subplots(1, 2)
        for axes, key, label in ((error, "top1_error", "error (%)"), (loss, "loss", "loss")):
            for kind, style, colour in CURVES_OF:
                points = [(row["epoch"], row[key]) for row in rows if row["kind"] == kind]
                if points:
                    axes.plot(*zip(*points, strict=True), style, color=colour, label=kind)
            axes.set_xlabel("epoch")
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _template(name: str) -> jinja2.Template:
    loader = jinja2.PackageLoader("resnets", "templates")
    return jinja2.Environment(loader=loader, autoescape=True).get_template(name)
