"""Shattered gradients: how fast the gradient changes along a line of inputs.

Balduzzi, Frean, Leary, Lewis, Ma and McWilliams, "The Shattered Gradients Problem: If resnets are
the answer, then what is the question?", ICML 2017. They measure networks at initialization; here
the trained network is measured, too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure as Plot
from torch import Tensor

from resnets.config import ModelSpec
from resnets.evaluate.figures.fonts import escape_label
from resnets.models import ImageClassifier, build
from resnets.models.norm_statistics import recompute_statistics
from resnets.report.figure_style import SOFT, add_legend, figure_style, series_colors, subplots
from resnets.report.page import Figure, Numbers, Table
from resnets.study.analyses.base import Analysis, Subject, find_counterparts
from resnets.study.trained_models import get_images, line_style
from resnets.utils.printable import show_progress

LINES, POINTS, LAGS = 6, 48, 24  # lines between two images, points on each, distances shown
BETA = 0.1  # of the paper's scaled branches
TRAINED, START = "as trained", "at the start"
SCALED, UNNORMED = f"at the start, branches x {BETA}", "at the start, no norm"
FORMS = (START, UNNORMED, SCALED, TRAINED)


@dataclass(frozen=True)
class Curve:
    """Autocorrelation of the gradient at 0, 1, ... steps: mean over lines, and standard error."""

    form: str
    mean: tuple[float, ...]
    error: tuple[float, ...]

    @property
    def half(self) -> float:
        """Distance at which the mean falls to 1/2, in percent of the line, by interpolation."""
        for lag, (before, after) in enumerate(zip(self.mean, self.mean[1:], strict=False)):
            if after < 0.5:
                return 100 * (lag + (before - 0.5) / (before - after)) / (POINTS - 1)
        return 100 * (len(self.mean) - 1) / (POINTS - 1)


@dataclass(frozen=True)
class Shattering:
    """The curves of one model, by form."""

    label: str
    spec: ModelSpec
    curves: tuple[Curve, ...]

    def get_curve(self, form: str) -> Curve | None:
        """Return the curve of `form`; None if the model has no such form."""
        return next((each for each in self.curves if each.form == form), None)


def autocorrelation(series: np.ndarray, lags: int) -> np.ndarray:
    """Return the autocorrelation of vectors (N, D) at 0 .. lags steps, (lags + 1,).

    sum over i of <c[i], c[i + k]> / sum over i of <c[i], c[i]>, with c the series minus its mean.
    """
    centered = series - series.mean(0)
    power = (centered**2).sum()
    return np.array(
        [(centered[: len(series) - k] * centered[k:]).sum() / power for k in range(lags + 1)]
    )


def line_gradients(model: ImageClassifier, first: Tensor, last: Tensor, output: int) -> np.ndarray:
    """Return the gradient (POINTS, C * H * W) of one logit at inputs from `first` to `last`."""
    model.eval()
    shares = torch.linspace(0, 1, POINTS, device=first.device).view(-1, 1, 1, 1)
    inputs = (first + shares * (last - first)).requires_grad_()
    (gradient,) = torch.autograd.grad(model(inputs)[:, output].sum(), inputs)
    return gradient.flatten(1).cpu().double().numpy()


def list_forms(model: ImageClassifier) -> dict[str, ModelSpec | None]:
    """Return the forms of the model to measure; None stands for the trained model itself."""
    spec = model.spec
    forms: dict[str, ModelSpec | None] = {START: spec}
    if spec.norm == "batch" and "norm" not in model.custom and not spec.is_vgg:
        forms[UNNORMED] = dataclasses.replace(spec, norm="none")
    if spec.residual and spec.branch_scale == 1 and "block" not in model.custom:
        forms[SCALED] = dataclasses.replace(spec, branch_scale=BETA)
    return {form: forms[form] for form in FORMS if form in forms} | {TRAINED: None}


def measure(subject: Subject) -> Shattering:
    """Measure the autocorrelation in each form of one model."""
    images = torch.cat([get_images(batch) for batch in subject.images.batches])
    count = len(images)
    pairs = [(2 * k % count, (2 * k + 1) % count) for k in range(LINES)]
    curves = []
    forms = list_forms(subject.model)
    for form in show_progress(list(forms), subject.label):
        model = subject.model
        if (spec := forms[form]) is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(subject.seed)
                model = build(spec, **subject.model.custom).to(images.device)
            recompute_statistics(model, [images])
        lines = np.stack(
            [
                autocorrelation(
                    line_gradients(model, images[first], images[last], k % model.spec.num_classes),
                    LAGS,
                )
                for k, (first, last) in enumerate(pairs)
            ]
        )
        error = lines.std(0, ddof=1) / math.sqrt(len(lines))
        curves.append(Curve(form, tuple(lines.mean(0).tolist()), tuple(error.tolist())))
    return Shattering(subject.label, subject.model.spec, tuple(curves))


def noise_autocorrelation(*, brownian: bool) -> list[float]:
    """Return the mean autocorrelation of 400 series of white noise, or of their running sums."""
    white = np.random.default_rng(0).standard_normal((400, POINTS, 1))
    series = white.cumsum(1) if brownian else white
    mean: list[float] = np.mean([autocorrelation(each, LAGS) for each in series], 0).tolist()
    return mean


def describe(results: Sequence[Shattering]) -> dict[str, Any]:
    """Return the values of the page: autocorrelations of all models, by form."""
    rows = tuple(
        (each.label, curve.form, lag, 100 * lag / (POINTS - 1), mean, error)
        for each in results
        for curve in each.curves
        for lag, (mean, error) in enumerate(zip(curve.mean, curve.error, strict=True))
    )
    columns = ("model", "form", "steps", "distance (% of the line)", "autocorrelation", "error")
    forms = [form for form in FORMS if any(each.get_curve(form) for each in results)]
    halves = tuple(
        (each.label, *(curve.half if (curve := each.get_curve(form)) else None for form in forms))
        for each in results
    )
    return {
        "figures": [Figure("autocorrelation", _plot(results, forms), Numbers(columns, rows))],
        "tables": [Table("half", ("model", *forms), halves)],
        "counterparts": find_counterparts(results),
        "start": START,
        "scaled": SCALED,
        "trained": TRAINED,
        "lines": LINES,
        "points": POINTS,
        "step": 100 / (POINTS - 1),
        "largest_error": max(
            error for each in results for curve in each.curves for error in curve.error
        ),
    }


def _plot(results: Sequence[Shattering], forms: Sequence[str]) -> Plot:
    colors = dict(zip([each.label for each in results], series_colors(len(results)), strict=True))
    distance = [100 * lag / (POINTS - 1) for lag in range(LAGS + 1)]
    noises = (
        ("white noise", ":", noise_autocorrelation(brownian=False)),
        ("Brownian noise", "-.", noise_autocorrelation(brownian=True)),
    )
    with figure_style():
        figure, panels = subplots(len(forms), share="both")
        for axes, form in zip(panels, forms, strict=True):
            for name, linestyle, values in noises:
                axes.plot(distance, values, linestyle, color=SOFT, lw=1.2, label=name)
            for each in results:
                if (curve := each.get_curve(form)) is None:
                    continue
                style = line_style(residual=each.spec.residual, color=colors[each.label])
                axes.plot(distance, curve.mean, label=escape_label(each.label), **style)
                low = [m - e for m, e in zip(curve.mean, curve.error, strict=True)]
                high = [m + e for m, e in zip(curve.mean, curve.error, strict=True)]
                axes.fill_between(distance, low, high, color=style["color"], alpha=0.15, lw=0)
            axes.set(title=form.capitalize(), ylim=(-0.5, 1.02), ylabel="autocorrelation")
            axes.set_xlabel("distance (% of the line)")
        add_legend(figure, panels[forms.index(TRAINED)])
    return figure


ANALYSIS = Analysis("shattered", measure, describe, result=Shattering)
