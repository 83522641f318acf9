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
from matplotlib.figure import Figure as Plot
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from resnets.config import ConfigError, ModelSpec
from resnets.evaluate.figures.fonts import escape_label
from resnets.models import ImageClassifier
from resnets.models.block_config import eval_mode, get_block_attr
from resnets.report.figure_style import (
    SOFT,
    add_legend,
    figure_style,
    integer_ticks,
    series_colors,
    subplots,
)
from resnets.report.page import Figure, Numbers, Table
from resnets.study.analyses.base import Analysis, Subject, find_counterparts
from resnets.study.trained_models import (
    LabeledImages,
    apply_stem,
    get_images,
    iter_units,
    line_style,
    named_units,
)
from resnets.utils.printable import show_progress

TRAINING_IMAGES = 500  # to fit the linear heads
MAX_STEPS = 500  # of L-BFGS


@dataclass(frozen=True)
class Unit:
    """One unit of a model.

    head: error in percent of a linear head on its output. cosine: mean over images of the cosine
    between what it adds to its input and the negative gradient of the loss there; cosine_error: its
    standard error. Both are None if the unit changes the shape.
    """

    name: str
    head: float
    cosine: float | None
    cosine_error: float | None


@dataclass(frozen=True)
class Inference:
    """The units of one model, first to last, and the model's own error in percent."""

    label: str
    spec: ModelSpec
    error: float
    units: tuple[Unit, ...]

    @property
    def late(self) -> list[float]:
        """Cosines of the last half of the units that have one."""
        cosines = [each.cosine for each in self.units if each.cosine is not None]
        return cosines[len(cosines) // 2 :]

    @property
    def steady(self) -> float:
        """Fraction of the units whose head has at most the error of the unit before."""
        errors = [each.head for each in self.units]
        pairs = list(pairwise(errors))
        return sum(after <= before for before, after in pairs) / max(1, len(pairs))


def pooled_outputs(model: ImageClassifier, images: LabeledImages) -> dict[str, np.ndarray]:
    """Return the output of each unit averaged over positions, (N, C), by name."""
    outputs: dict[str, list[Tensor]] = {}
    with eval_mode(model), torch.inference_mode():
        for batch in images.batches:
            for name, _, _, out in iter_units(model, get_images(batch)):
                outputs.setdefault(name, []).append(out.mean((2, 3)).cpu())
    return {name: torch.cat(each).numpy() for name, each in outputs.items()}


def get_targets(images: LabeledImages) -> np.ndarray:
    """Return the classes of all images, (N,)."""
    targets = [batch.targets for batch in images.batches]
    assert all(isinstance(each, Tensor) for each in targets)
    return torch.cat(targets).cpu().numpy()  # type: ignore[arg-type]


def head_error(
    features: np.ndarray,
    targets: np.ndarray,
    test_features: np.ndarray,
    test_targets: np.ndarray,
) -> float:
    """Fit a linear classifier to `features` (M, C); return its test error in percent."""
    head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_STEPS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        head.fit(features, targets)
    return 100 * float((head.predict(test_features) != test_targets).mean())


def gradient_cosines(model: ImageClassifier, images: LabeledImages) -> dict[str, np.ndarray]:
    """Return, by unit, each image's cosine of its addition with the negative gradient of the loss.

    A residual block adds F(x) to its input x, another unit of equal shapes its output minus x.
    Images whose gradient or addition is zero are excluded.
    """
    cosines: dict[str, list[np.ndarray]] = {}
    with eval_mode(model), torch.enable_grad():
        for batch in images.batches:
            for name, addition, gradient in _additions(model, get_images(batch), batch.targets):
                added, descent = addition.flatten(1), -gradient.flatten(1)
                norms = added.norm(dim=1) * descent.norm(dim=1)
                cosine = (added * descent).sum(1) / norms
                cosines.setdefault(name, []).append(cosine[norms > 0].cpu().numpy())
    return {name: np.concatenate(each) for name, each in cosines.items()}


def _additions(
    model: ImageClassifier, images: Tensor, targets: Any
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield name, addition and gradient at the input, (B, C, H, W), of units of equal shapes.

    Raises ConfigError for a network without such units.
    """
    x = apply_stem(model, images).detach().requires_grad_()
    names, inputs, additions = [], [], []
    for name, unit in named_units(model).items():
        before, x = x, unit(x)
        if before.shape != x.shape:
            continue
        with torch.no_grad():
            residual = model.spec.residual
            added = get_block_attr(unit, "paths")(before)[0] if residual else x - before
        names.append(name)
        inputs.append(before)
        additions.append(added)
    if not names:
        raise ConfigError(f"{model.spec.name}: has no block whose output has its input's shape")
    loss = nn.functional.cross_entropy(model.classify(x), targets, reduction="sum")
    gradients = torch.autograd.grad(loss, inputs)
    yield from zip(names, additions, gradients, strict=True)


def measure(subject: Subject) -> Inference:
    """Measure the heads and cosines of one model."""
    assert subject.training is not None
    model, images, training = subject.model, subject.images, subject.training
    features, test_features = pooled_outputs(model, training), pooled_outputs(model, images)
    targets, test_targets = get_targets(training), get_targets(images)
    cosines = gradient_cosines(model, images)
    units = []
    for name in show_progress(list(features), f"{subject.label}, linear heads"):
        error = head_error(features[name], targets, test_features[name], test_targets)
        each = cosines.get(name, np.zeros(0))
        mean = float(each.mean()) if len(each) else None
        standard_error = float(each.std(ddof=1)) / math.sqrt(len(each)) if len(each) > 1 else None
        units.append(Unit(name, error, mean, standard_error))
    return Inference(subject.label, model.spec, subject.intact.top1_error, tuple(units))


def describe(results: Sequence[Inference]) -> dict[str, Any]:
    """Return the values of the page: heads and cosines of all models."""
    columns = ("model", "block", "name", "error of a linear head (%)", "cosine", "cosine_error")
    rows = tuple(
        (each.label, number, unit.name, unit.head, unit.cosine, unit.cosine_error)
        for each in results
        for number, unit in enumerate(each.units, 1)
    )
    heads = tuple(
        (
            each.label,
            each.error,
            each.units[0].head,
            each.units[len(each.units) // 2].head,
            each.units[-1].head,
            100 * each.steady,
            statistics.fmean(each.late) if each.late else None,
        )
        for each in results
    )
    names = (
        "model",
        "its own error (%)",
        "head after the first block",
        "after the middle one",
        "after the last",
        "blocks that do not raise it (%)",
        "mean cosine, last half",
    )
    errors = [u.cosine_error for each in results for u in each.units if u.cosine_error is not None]
    return {
        "figures": [Figure("inference", _plot(results), Numbers(columns, rows))],
        "tables": [Table("heads", names, heads)],
        "late": {each.label: statistics.fmean(each.late) for each in results if each.late},
        "counterparts": find_counterparts(results),
        "cosine_error": max(errors, default=0.0),
    }


def _plot(results: Sequence[Inference]) -> Plot:
    with figure_style():
        figure, (heads, cosines) = subplots(2)
        for each, color in zip(results, series_colors(len(results)), strict=True):
            style = line_style(residual=each.spec.residual, color=color)
            positions = range(1, len(each.units) + 1)
            label = escape_label(each.label)
            heads.plot(positions, [unit.head for unit in each.units], label=label, **style)
            values = [math.nan if u.cosine is None else u.cosine for u in each.units]
            cosines.plot(positions, values, marker="o", ms=3, **style)
        heads.set(title="A linear head after each block", ylabel="error (%)", ylim=(0, 100))
        cosines.set(title="F(x) and the negative gradient", ylabel="cosine")
        cosines.axhline(0, lw=0.8, color=SOFT)
        for axes in (heads, cosines):
            axes.set_xlabel("block, first to last")
            integer_ticks(axes)
        add_legend(figure, heads)
    return figure


ANALYSIS = Analysis(
    "inference", measure, describe, training_images=TRAINING_IMAGES, result=Inference
)
