"""Effective depth: how many units of a trained network have to stay as they are.

A unit is replaced by its linearization, its first-order Taylor expansion around its mean input, or
by the identity (Veit et al. 2016), those first whose replacement raises the training loss least.
That trained networks hold nonlinear units that they do not need: Mehmeti-Goepel and Disselhoff,
"Nonlinear Advantage: Trained Networks Might Not Be As Complex as You Think", ICML 2023.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resnets.config import ModelSpec
from resnets.evaluate.figures.fonts import escape_label
from resnets.models import ImageClassifier
from resnets.models.block_config import eval_mode
from resnets.report.figures import figure_style, integer_ticks, series_colors, subplots
from resnets.report.page import Figure, Numbers, Table
from resnets.study.analysis import (
    LabeledImages,
    after_stem,
    images_of,
    line_style,
    progress,
    units,
)
from resnets.study.trained import Analysis, Subject, twins
from resnets.study.unravelled.measure import removable_blocks, spread, statistics_anew

TRAINING_IMAGES = 100  # that rank the units, and that norms take their statistics from anew
MAX_COUNTS = 8  # numbers of units replaced at once
TOLERANCE = 2.0  # points of error that may be lost
LINEAR, IDENTITY = "linear", "identity"


@dataclass(frozen=True)
class Replaced:
    """Error in percent with these units replaced, the cheapest first."""

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
    replaced: dict[str, tuple[Replaced, ...]]

    def needed(self, kind: str) -> int:
        """The fewest units that stayed as they are at a loss of at most `TOLERANCE` points."""
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
        """(B, C, H, W) to the shape that the unit gives."""
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, of its first jvp
            center = self.center.expand_as(x).contiguous()
            value, change = torch.func.jvp(self.unit, (center,), (x.clone() - center,))[:2]
            out: Tensor = value + change
        return out


def mean_inputs(model: ImageClassifier, images: LabeledImages) -> dict[str, Tensor]:
    """The mean over images of the input of each unit, (1, C, H, W), by name."""
    sums: dict[str, Tensor] = {}
    count = 0
    with eval_mode(model), torch.no_grad():
        for batch in images.batches:
            x = after_stem(model, images_of(batch))
            for name, unit in units(model).items():
                sums[name] = sums.get(name, 0) + x.sum(0, keepdim=True)
                x = unit(x)
            count += len(batch)
    return {name: total / count for name, total in sums.items()}


@contextmanager
def replaced(model: ImageClassifier, parts: dict[str, nn.Module]) -> Iterator[None]:
    """Context in which the units called so are these modules."""
    saved = {name: model.get_submodule(name) for name in parts}
    try:
        for name, part in parts.items():
            model.set_submodule(name, part)
        yield
    finally:
        for name, unit in saved.items():
            model.set_submodule(name, unit)


def measure(subject: Subject) -> EffectiveDepth:
    """Errors of one model with more and more of its units replaced."""
    assert subject.training is not None
    model, images, training = subject.model.eval(), subject.images, subject.training
    inputs = [images_of(batch) for batch in training.batches]
    chain = units(model)
    centers = mean_inputs(model, training)
    same = removable_blocks(model, inputs[0])
    kinds: dict[str, dict[str, nn.Module]] = {
        LINEAR: {name: Linearized(unit, centers[name]) for name, unit in chain.items()},
        IDENTITY: {name: nn.Identity() for name in same},
    }
    losses: dict[str, dict[str, float]] = {}
    errors: dict[str, tuple[Replaced, ...]] = {}
    for kind, parts in kinds.items():

        def changed(names: Sequence[str], data: LabeledImages, kind: str = kind) -> Any:
            """The evaluation of `data` with these units replaced."""
            with replaced(model, {name: kinds[kind][name] for name in names}):
                anew = statistics_anew(model, inputs) if kind == IDENTITY else nullcontext()
                with anew:
                    return data.evaluate(model)

        losses[kind] = {
            name: changed([name], training).loss
            for name in progress(list(parts), f"{subject.label}, one unit {kind}")
        }
        ranked = sorted(parts, key=losses[kind].__getitem__)
        errors[kind] = tuple(
            Replaced(tuple(ranked[:count]), changed(ranked[:count], images).top1_error)
            for count in progress(spread(len(ranked), MAX_COUNTS), f"{subject.label}, {kind}")
        )
    counts = {kind: len(parts) for kind, parts in kinds.items()}
    return EffectiveDepth(
        subject.label, model.spec, len(chain), subject.intact.top1_error, counts, losses, errors
    )


def describe(results: Sequence[EffectiveDepth]) -> dict[str, Any]:
    """Errors by number of units replaced, and the depth that is left."""
    columns = ("model", "kind", "replaced", "error", "units")
    rows = tuple(
        (each.label, kind, len(one.names), one.error, " ".join(one.names))
        for each in results
        for kind, found in each.replaced.items()
        for one in found
    )
    alone = tuple(
        (each.label, kind, name, loss)
        for each in results
        for kind, found in each.losses.items()
        for name, loss in found.items()
    )
    table = tuple(
        (each.label, each.units, each.error, each.needed(LINEAR), each.needed(IDENTITY))
        for each in results
    )
    names = ("model", "units", "error (%)", "needed, others linear", "needed, others removed")
    return {
        "figures": [Figure("effective", _plot(results), Numbers(columns, rows))],
        "tables": [
            Table("depth", names, table),
            Table("alone", ("model", "kind", "unit", "training loss"), alone),
        ],
        "twins": twins(results),
        "linear": LINEAR,
        "identity": IDENTITY,
        "tolerance": TOLERANCE,
        "ranked_on": TRAINING_IMAGES,
    }


def _plot(results: Sequence[EffectiveDepth]) -> Any:
    titles = {LINEAR: "Units made linear", IDENTITY: "Units removed"}
    with figure_style():
        figure, panels = subplots(1, 2, share="y")
        for axes, kind in zip(panels, titles, strict=True):
            for each, color in zip(results, series_colors(len(results)), strict=True):
                look = line_style(residual=each.spec.residual, color=color)
                counts = [0, *(len(one.names) for one in each.replaced[kind])]
                errors = [each.error, *(one.error for one in each.replaced[kind])]
                name = escape_label(each.label)
                axes.plot(counts, errors, marker="o", ms=3, label=name, **look)
            axes.set(title=titles[kind], xlabel="units replaced, cheapest first")
            axes.set(ylabel="error (%)", ylim=(0, 100))
            integer_ticks(axes)
        handles, words = panels[0].get_legend_handles_labels()
        figure.legend(handles, words, loc="outside upper left", ncols=2)
    return figure


ANALYSIS = Analysis(
    "effective", measure, describe, training_images=TRAINING_IMAGES, result=EffectiveDepth
)
