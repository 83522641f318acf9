"""Effective depth: how many units of a trained network must remain unchanged.

A unit is replaced by its linearization, its first-order Taylor expansion around its mean input, or
by the identity (Veit et al. 2016), starting with those whose replacement raises the training loss
least. Trained networks have nonlinear units that they do not need: Mehmeti-Goepel and Disselhoff,
"Nonlinear Advantage: Trained Networks Might Not Be As Complex as You Think", ICML 2023.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure as Plot
from torch import Tensor, nn

from resnets.config import ModelSpec
from resnets.evaluate import Evaluation
from resnets.evaluate.figures.fonts import escape_label
from resnets.models import ImageClassifier
from resnets.models.block_config import eval_mode
from resnets.report.figure_style import (
    add_legend,
    figure_style,
    integer_ticks,
    series_colors,
    subplots,
)
from resnets.report.page import Figure, Numbers, Table
from resnets.study.analyses.base import Analysis, Subject, find_counterparts
from resnets.study.analyses.lesions import (
    recalibrate_norms,
    removable_blocks,
    replace_modules,
    spread_counts,
)
from resnets.study.trained_models import (
    LabeledImages,
    get_images,
    iter_units,
    line_style,
    named_units,
)
from resnets.utils.printable import show_progress

TRAINING_IMAGES = 100  # that rank the units, and on which statistics of norms are recomputed
MAX_COUNTS = 8  # numbers of units replaced at once
TOLERANCE = 2.0  # points of error that may be lost
LINEAR, IDENTITY = "linear", "identity"


@dataclass(frozen=True)
class Replacement:
    """Error in percent with the units called `names` replaced, the cheapest first."""

    names: tuple[str, ...]
    error: float


@dataclass(frozen=True)
class EffectiveDepth:
    """Errors of one model of `units` units by kind of replacement ("linear", "identity").

    candidates: how many units can be replaced in this way. losses: training loss with each unit
    alone replaced, in nats.
    """

    label: str
    spec: ModelSpec
    units: int
    error: float
    candidates: dict[str, int]
    losses: dict[str, dict[str, float]]
    replaced: dict[str, tuple[Replacement, ...]]

    def needed(self, kind: str) -> int:
        """Return the number of units that must stay for at most `TOLERANCE` points of error."""
        within = [
            len(each.names) for each in self.replaced[kind] if each.error <= self.error + TOLERANCE
        ]
        return self.units - max(within, default=0)


class Linearized(nn.Module):
    """f(c) + f'(c) (x - c) of a unit f at the center c (1, C, H, W)."""

    def __init__(self, unit: nn.Module, center: Tensor) -> None:
        super().__init__()
        self.unit, self.center = unit, center

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the output shape of the unit."""
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # from torch's first jvp
            center = self.center.expand_as(x).contiguous()
            value, derivative = torch.func.jvp(self.unit, (center,), (x.clone() - center,))[:2]
            out: Tensor = value + derivative
        return out


def mean_inputs(model: ImageClassifier, images: LabeledImages) -> dict[str, Tensor]:
    """Return the mean over images of the input of each unit, (1, C, H, W), by name."""
    sums: dict[str, Tensor] = {}
    count = 0
    with eval_mode(model), torch.no_grad():
        for batch in images.batches:
            for name, _, x, _ in iter_units(model, get_images(batch)):
                sums[name] = sums.get(name, 0) + x.sum(0, keepdim=True)
            count += len(batch)
    return {name: total / count for name, total in sums.items()}


def measure(subject: Subject) -> EffectiveDepth:
    """Measure the errors of one model with more and more of its units replaced."""
    assert subject.training is not None
    model, images, training = subject.model.eval(), subject.images, subject.training
    inputs = [get_images(batch) for batch in training.batches]
    units = named_units(model)
    centers = mean_inputs(model, training)
    candidates: dict[str, dict[str, nn.Module]] = {
        LINEAR: {name: Linearized(unit, centers[name]) for name, unit in units.items()},
        IDENTITY: {name: nn.Identity() for name in removable_blocks(model, inputs[0])},
    }

    def evaluate(kind: str, names: Sequence[str], data: LabeledImages) -> Evaluation:
        """Evaluate the model on `data` with these units replaced."""
        with replace_modules(model, {name: candidates[kind][name] for name in names}):
            if kind != IDENTITY:
                return data.evaluate(model)
            with recalibrate_norms(model, inputs):
                return data.evaluate(model)

    losses: dict[str, dict[str, float]] = {}
    errors: dict[str, tuple[Replacement, ...]] = {}
    for kind, modules in candidates.items():
        losses[kind] = {
            name: evaluate(kind, [name], training).loss
            for name in show_progress(list(modules), f"{subject.label}, one unit {kind}")
        }
        ranked = sorted(modules, key=losses[kind].__getitem__)
        counts = spread_counts(len(ranked), MAX_COUNTS)
        errors[kind] = tuple(
            Replacement(tuple(ranked[:count]), evaluate(kind, ranked[:count], images).top1_error)
            for count in show_progress(counts, f"{subject.label}, {kind}")
        )
    return EffectiveDepth(
        subject.label,
        model.spec,
        len(units),
        subject.intact.top1_error,
        {kind: len(modules) for kind, modules in candidates.items()},
        losses,
        errors,
    )


def describe(results: Sequence[EffectiveDepth]) -> dict[str, Any]:
    """Return the values of the page: errors by units replaced, and the depth that is needed."""
    columns = ("model", "kind", "replaced", "error", "units")
    rows = tuple(
        (each.label, kind, len(one.names), one.error, " ".join(one.names))
        for each in results
        for kind, replacements in each.replaced.items()
        for one in replacements
    )
    alone = tuple(
        (each.label, kind, name, loss)
        for each in results
        for kind, losses in each.losses.items()
        for name, loss in losses.items()
    )
    depths = tuple(
        (each.label, each.units, each.error, each.needed(LINEAR), each.needed(IDENTITY))
        for each in results
    )
    names = ("model", "units", "error (%)", "needed, others linear", "needed, others removed")
    return {
        "figures": [Figure("effective", _plot(results), Numbers(columns, rows))],
        "tables": [
            Table("depth", names, depths),
            Table("alone", ("model", "kind", "unit", "training loss"), alone),
        ],
        "counterparts": find_counterparts(results),
        "linear": LINEAR,
        "identity": IDENTITY,
        "tolerance": TOLERANCE,
        "ranked_on": TRAINING_IMAGES,
    }


def _plot(results: Sequence[EffectiveDepth]) -> Plot:
    titles = {LINEAR: "Units made linear", IDENTITY: "Units removed"}
    with figure_style():
        figure, panels = subplots(2, share="y")
        for axes, kind in zip(panels, titles, strict=True):
            for each, color in zip(results, series_colors(len(results)), strict=True):
                style = line_style(residual=each.spec.residual, color=color)
                counts = [0, *(len(one.names) for one in each.replaced[kind])]
                errors = [each.error, *(one.error for one in each.replaced[kind])]
                label = escape_label(each.label)
                axes.plot(counts, errors, marker="o", ms=3, label=label, **style)
            axes.set(title=titles[kind], xlabel="units replaced, cheapest first")
            axes.set(ylabel="error (%)", ylim=(0, 100))
            integer_ticks(axes)
        add_legend(figure, panels[0])
    return figure


ANALYSIS = Analysis(
    "effective", measure, describe, training_images=TRAINING_IMAGES, result=EffectiveDepth
)
