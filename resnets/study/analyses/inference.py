"""Iterative inference: does each block refine one estimate, or compute something new?

Greff, Srivastava, Schmidhuber, "Highway and Residual Networks learn Unrolled Iterative
Estimation", ICLR 2017; Jastrzebski, Arpit, Ballas, Verma, Che, Bengio, "Residual Connections
Encourage Iterative Inference", ICLR 2018. Linear heads: Alain and Bengio, "Understanding
intermediate layers using linear classifier probes", 2016.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from resnets.config import ModelSpec
from resnets.evaluate.figures.fonts import escape_label
from resnets.models import ImageClassifier
from resnets.models.block_config import eval_mode, get_block_attr
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

TRAINING_IMAGES = 500  # that the linear heads are fitted to
STEPS = 500  # of L-BFGS at most


@dataclass(frozen=True)
class Unit:
    """One unit of a model.

    head: error in percent of a linear head on its output. cosine: mean over images of the cosine
    of what it adds to its input with the negative gradient of the loss there, and `cosine_error`
    its standard error; None where it changes the shape.
    """

    name: str
    head: float
    cosine: float | None
    cosine_error: float | None


@dataclass(frozen=True)
class Inference:
    """The units of one model, first to last; `error` in percent is its own."""

    label: str
    spec: ModelSpec
    error: float
    units: tuple[Unit, ...]

    @property
    def late(self) -> list[float]:
        """Cosines of the last half of the units that have one."""
        found = [each.cosine for each in self.units if each.cosine is not None]
        return found[len(found) // 2 :]

    @property
    def steady(self) -> float:
        """Share of the units whose head errs at most as much as that of the unit before."""
        errors = [each.head for each in self.units]
        pairs = list(pairwise(errors))
        return sum(after <= before for before, after in pairs) / max(1, len(pairs))


def pooled_outputs(model: ImageClassifier, images: LabeledImages) -> dict[str, np.ndarray]:
    """Output of each unit averaged over positions, (N, C), by name."""
    parts: dict[str, list[Tensor]] = {}
    with eval_mode(model), torch.inference_mode():
        for batch in images.batches:
            x = after_stem(model, images_of(batch))
            for name, unit in units(model).items():
                x = unit(x)
                parts.setdefault(name, []).append(x.mean((2, 3)).cpu())
    return {name: torch.cat(each).numpy() for name, each in parts.items()}


def targets_of(images: LabeledImages) -> np.ndarray:
    """The classes of all images, (N,)."""
    found = [batch.targets for batch in images.batches]
    assert all(isinstance(each, Tensor) for each in found)
    return torch.cat(found).cpu().numpy()  # type: ignore[arg-type]


def head_error(
    features: np.ndarray, targets: np.ndarray, others: np.ndarray, theirs: np.ndarray
) -> float:
    """Error in percent on `others` (N, C) of a linear classifier fitted to `features` (M, C)."""
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=STEPS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        head.fit(features, targets)
    return 100 * float((head.predict(others) != theirs).mean())


def cosines(model: ImageClassifier, images: LabeledImages) -> dict[str, np.ndarray]:
    """By unit, the cosine of what it adds with the negative gradient of the loss, per image.

    What a residual block adds to its input x is F(x), what another unit of equal shapes adds is its
    output less x. Images whose gradient or addition is zero are left out.
    """
    found: dict[str, list[np.ndarray]] = {}
    with eval_mode(model), torch.enable_grad():
        for batch in images.batches:
            for name, addition, gradient in _additions(model, images_of(batch), batch.targets):
                both = addition.flatten(1), -gradient.flatten(1)
                norms = both[0].norm(dim=1) * both[1].norm(dim=1)
                cosine = (both[0] * both[1]).sum(1) / norms
                found.setdefault(name, []).append(cosine[norms > 0].cpu().numpy())
    return {name: np.concatenate(each) for name, each in found.items()}


def _additions(
    model: ImageClassifier, images: Tensor, targets: Any
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, addition and loss gradient at the input, (B, C, H, W), of units of equal shapes."""
    x = after_stem(model, images).detach().requires_grad_()
    names, inputs, additions = [], [], []
    for name, unit in units(model).items():
        before, x = x, unit(x)
        if before.shape != x.shape:
            continue
        with torch.no_grad():
            residual = model.spec.residual
            added = get_block_attr(unit, "paths")(before)[0] if residual else x - before
        names.append(name)
        inputs.append(before)
        additions.append(added)
    loss = nn.functional.cross_entropy(model.classify(x), targets, reduction="sum")
    gradients = torch.autograd.grad(loss, inputs)
    yield from zip(names, additions, gradients, strict=True)


def measure(subject: Subject) -> Inference:
    """The heads and cosines of one model."""
    assert subject.training is not None
    model, images, training = subject.model, subject.images, subject.training
    fitted, tested = pooled_outputs(model, training), pooled_outputs(model, images)
    given, expected = targets_of(training), targets_of(images)
    angles = cosines(model, images)
    found = []
    for name in progress(list(units(model)), f"{subject.label}, linear heads"):
        error = head_error(fitted[name], given, tested[name], expected)
        each = angles.get(name, np.zeros(0))
        mean = float(each.mean()) if len(each) else None
        spread = float(each.std(ddof=1)) / math.sqrt(len(each)) if len(each) > 1 else None
        found.append(Unit(name, error, mean, spread))
    return Inference(subject.label, model.spec, subject.intact.top1_error, tuple(found))


def describe(results: Sequence[Inference]) -> dict[str, Any]:
    """Heads and cosines of all models."""
    columns = ("model", "block", "name", "error of a linear head (%)", "cosine", "cosine_error")
    rows = tuple(
        (each.label, number, unit.name, unit.head, unit.cosine, unit.cosine_error)
        for each in results
        for number, unit in enumerate(each.units, 1)
    )
    table = tuple(
        (
            *(each.label, each.error, each.units[0].head, each.units[len(each.units) // 2].head),
            *(each.units[-1].head, 100 * each.steady),
            statistics.fmean(each.late) if each.late else None,
        )
        for each in results
    )
    names = (
        *("model", "its own error (%)", "head after the first block", "after the middle one"),
        *("after the last", "blocks that do not raise it (%)", "mean cosine, last half"),
    )
    errors = [u.cosine_error for each in results for u in each.units if u.cosine_error is not None]
    return {
        "figures": [Figure("inference", _plot(results), Numbers(columns, rows))],
        "tables": [Table("heads", names, table)],
        "late": {each.label: statistics.fmean(each.late) for each in results if each.late},
        "twins": twins(results),
        "cosine_error": max(errors, default=0.0),
    }


def _plot(results: Sequence[Inference]) -> Any:
    with figure_style():
        figure, (heads, angles) = subplots(1, 2)
        for each, color in zip(results, series_colors(len(results)), strict=True):
            look = line_style(residual=each.spec.residual, color=color)
            places = range(1, len(each.units) + 1)
            name = escape_label(each.label)
            heads.plot(places, [unit.head for unit in each.units], label=name, **look)
            shown = [math.nan if u.cosine is None else u.cosine for u in each.units]
            angles.plot(places, shown, marker="o", ms=3, **look)
        heads.set(title="A linear head after each block", ylabel="error (%)", ylim=(0, 100))
        angles.set(title="F(x) and the negative gradient", ylabel="cosine")
        angles.axhline(0, lw=0.8, color="#586174")
        for axes in (heads, angles):
            axes.set_xlabel("block, first to last")
            integer_ticks(axes)
        handles, words = heads.get_legend_handles_labels()
        figure.legend(handles, words, loc="outside upper left", ncols=2)
    return figure


ANALYSIS = Analysis(
    "inference", measure, describe, training_images=TRAINING_IMAGES, result=Inference
)
