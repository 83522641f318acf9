"""The loss around a trained model, in filter-normalized directions (Li et al., NeurIPS 2018).

Weights of convolutions and linear layers are shifted; biases and norms are not, and norms keep
their stored statistics. The loss is that of training images, as the paper's is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot
from matplotlib.ticker import FuncFormatter
from torch import Tensor, nn
from torch.linalg import vector_norm

from resnets.config import ConfigError, ModelSpec
from resnets.evaluate.figures.fonts import escape_label
from resnets.report.figure_style import SERIES, figure_style, series_colors, subplots
from resnets.report.page import Figure, Numbers, Table
from resnets.study.analyses.base import Analysis, Subject, find_counterparts
from resnets.study.trained_models import line_style
from resnets.utils.printable import show_progress

Direction = Mapping[str, Tensor]
REACH = 1.0  # largest distance, in units of each filter's norm
MIN_LOSS = 1e-4  # losses below are drawn here, on logarithmic scales
LEVELS = [step * 10.0**decade for decade in range(-4, 2) for step in (1, 2, 5)] + [100.0]
TICKS = (-1, -0.5, 0, 0.5, 1)
PLANE = (3.6, 3.8)  # inches of one model's plane
MAX_COLUMNS = 3


@dataclass(frozen=True)
class Point:
    """Mean cross-entropy in nats and top-1 error in percent at alpha, beta in the plane."""

    alpha: float
    beta: float
    loss: float
    error: float


@dataclass(frozen=True)
class Landscape:
    """A model's loss along its first direction, and on the plane of both, row by row of beta."""

    label: str
    spec: ModelSpec
    line: tuple[Point, ...]
    plane: tuple[Point, ...]

    @property
    def center(self) -> Point:
        """The trained model itself."""
        return self.line[len(self.line) // 2]


def random_direction(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Draw a Gaussian direction in weight space whose filters have the norms of the model's.

    Maps names of parameters to tensors of their shape. A filter is the weights of one output
    channel; its norm is L2. Parameters with one dimension (biases, norms) are excluded.
    """
    generator = torch.Generator().manual_seed(seed)
    direction = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
        dims = tuple(range(1, parameter.ndim))
        norm, noise_norm = (
            vector_norm(each, dim=dims, keepdim=True) for each in (parameter, noise)
        )
        direction[name] = noise * (norm.detach() / noise_norm)
    return direction


@contextmanager
def shift_weights(model: nn.Module, steps: Sequence[tuple[float, Direction]]) -> Iterator[None]:
    """Context in which distance x direction is added to the model's weights, for each step."""
    parameters = dict(model.named_parameters())
    saved = {
        name: parameters[name].detach().clone() for _, direction in steps for name in direction
    }
    try:
        with torch.no_grad():
            for distance, direction in steps:
                for name, tensor in direction.items():
                    parameters[name].add_(tensor, alpha=distance)
        yield
    finally:
        with torch.no_grad():
            for name, value in saved.items():
                parameters[name].copy_(value)


def measure(subject: Subject, steps: int) -> Landscape:
    """Measure the loss around one model from -1 to 1, along a line and on a plane.

    The plane has `steps` points on each side, the line 2 `steps` - 1; `steps` is odd, so that the
    middle one is the model itself. The subject's seed draws the two directions. Raises ConfigError
    for other `steps`.
    """
    if steps < 3 or steps % 2 == 0:
        raise ConfigError(
            f"--steps {steps}: give an odd number of 3 or more; the middle point is the model"
        )
    model, images, label, seed = subject.model, subject.images, subject.label, subject.seed
    first, second = random_direction(model, 2 * seed), random_direction(model, 2 * seed + 1)

    def measure_point(alpha: float, beta: float) -> Point:
        with shift_weights(model, ((alpha, first), (beta, second))):
            evaluation = images.evaluate(model)
        return Point(alpha, beta, evaluation.loss, evaluation.top1_error)

    side = torch.linspace(-REACH, REACH, steps, dtype=torch.float64).tolist()
    line = torch.linspace(-REACH, REACH, 2 * steps - 1, dtype=torch.float64).tolist()
    plane = [(alpha, beta) for beta in side for alpha in side]
    return Landscape(
        label,
        model.spec,
        tuple(measure_point(alpha, 0.0) for alpha in show_progress(line, f"{label}, line")),
        tuple(
            measure_point(alpha, beta) for alpha, beta in show_progress(plane, f"{label}, plane")
        ),
    )


def describe(landscapes: Sequence[Landscape]) -> dict[str, Any]:
    """Return the values of the page: how far from each model its loss stays low."""
    lines = _numbers([(each, each.line) for each in landscapes])
    planes = _numbers([(each, each.plane) for each in landscapes])
    return {
        "figures": [
            Figure("line", _plot_lines(landscapes), lines),
            Figure("plane", _plot_planes(landscapes), planes),
        ],
        "tables": [_table(landscapes)],
        "landscapes": landscapes,
        "low_shares": [low_loss_share(each) for each in landscapes],
        "chance_losses": [_chance_loss(each) for each in landscapes],
        "share": low_loss_share,
        "counterparts": find_counterparts(landscapes),
        "last_level": LEVELS[-1],
    }


ANALYSIS = Analysis("landscape", measure, describe, part="train", result=Landscape)


def low_loss_share(landscape: Landscape) -> float:
    """Return the fraction of the plane, 0..1, with less than half the chance-level loss."""
    limit = _chance_loss(landscape) / 2
    return sum(point.loss < limit for point in landscape.plane) / len(landscape.plane)


def _chance_loss(landscape: Landscape) -> float:
    return math.log(landscape.spec.num_classes)


def _plot_lines(landscapes: Sequence[Landscape]) -> Plot:
    colors = series_colors(len(landscapes))
    with figure_style():
        figure, (losses, errors) = subplots(2)
        for each, color in zip(landscapes, colors, strict=True):
            style = line_style(residual=each.spec.residual, color=color)
            alphas = [point.alpha for point in each.line]
            clamped = [_clamp_loss(point) for point in each.line]
            losses.plot(alphas, clamped, label=escape_label(each.label), **style)
            errors.plot(alphas, [point.error for point in each.line], **style)
        for axes in (losses, errors):
            axes.set(xticks=TICKS, xlabel="alpha")
        losses.set(title="Loss", yscale="log", ylabel="cross-entropy (nats)")
        errors.set(title="Error", ylim=(0, 100), ylabel="top-1 error (%)")
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        losses.yaxis.set_major_formatter(plain)
        low, high = losses.get_ylim()
        if high / low < 10:  # less than a decade: label the ticks between the powers of ten
            losses.yaxis.set_minor_formatter(plain)
        losses.legend(fontsize=9)
    return figure


def _plot_planes(landscapes: Sequence[Landscape]) -> Plot:
    with figure_style():
        figure, panels = subplots(
            len(landscapes), max_columns=MAX_COLUMNS, panel=PLANE, share="both"
        )
        for axes, each in zip(panels, landscapes, strict=True):
            _plot_plane(axes, each)
    return figure


def _plot_plane(axes: Axes, landscape: Landscape) -> None:
    side = math.isqrt(len(landscape.plane))
    alphas = [point.alpha for point in landscape.plane[:side]]
    losses = np.array([_clamp_loss(point) for point in landscape.plane]).reshape(side, side)
    low, high = np.nanmin(losses), np.nanmax(losses)
    levels = [level for level in LEVELS if low < level < high]
    if not levels and low < high:
        levels = [float(level) for level in np.geomspace(low, high, 5)[1:-1]]
    if levels:
        indices = np.searchsorted(LEVELS, levels) * len(SERIES) // len(LEVELS)
        colors = [SERIES[min(index, len(SERIES) - 1)] for index in indices]
        lines = axes.contour(alphas, alphas, losses, levels=levels, colors=colors, linewidths=1.2)
        axes.clabel(lines, levels[::2], fmt="%.3g", fontsize=8)
    axes.plot(0, 0, "+", color=SERIES[-1], ms=9, mew=1.6)
    axes.set(title=escape_label(landscape.label), xlabel="alpha", ylabel="beta", aspect="equal")
    axes.set(xticks=TICKS, yticks=TICKS)
    axes.grid(visible=False)


def _clamp_loss(point: Point) -> float:
    """Return the loss, at least MIN_LOSS, for a logarithmic scale; NaN, a gap, if not finite."""
    return max(MIN_LOSS, point.loss) if math.isfinite(point.loss) else math.nan


def _numbers(series: Sequence[tuple[Landscape, Sequence[Point]]]) -> Numbers:
    return Numbers(
        ("model", "alpha", "beta", "loss", "error"),
        tuple(
            (each.label, point.alpha, point.beta, point.loss, point.error)
            for each, points in series
            for point in points
        ),
    )


def _table(landscapes: Sequence[Landscape]) -> Table:
    rows = tuple(
        (
            each.label,
            each.center.loss,
            each.center.error,
            max(point.loss for point in each.plane),
            100 * low_loss_share(each),
        )
        for each in landscapes
    )
    columns = (
        "model",
        "loss at the center",
        "error at the center (%)",
        "largest loss",
        "plane with low loss (%)",
    )
    return Table("landscape-figures", columns, rows)
