"""Curvature: the largest eigenvalue of the Hessian of the training loss, by power iteration.

Yao, Gholami, Keutzer and Mahoney, "PyHessian: Neural Networks Through the Lens of the Hessian",
IEEE Big Data 2020. Rescaling a filter, which batch norm cancels, changes the Hessian (Dinh et al.
2017), so eigenvalues are also taken with each filter's weights in units of its norm, as the
landscape does (Li et al. 2018; Kwon et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure as Plot
from torch import Tensor, nn

from resnets.config import ModelSpec
from resnets.evaluate.figures.fonts import escape_label
from resnets.models import ImageClassifier
from resnets.models.block_config import eval_mode
from resnets.report.figure_style import add_legend, figure_style, series_colors, subplots
from resnets.report.page import Figure, Numbers, Table
from resnets.study.analyses.base import Analysis, Subject, find_counterparts
from resnets.study.analyses.landscape import random_direction, shift_weights
from resnets.study.trained_models import LabeledImages, get_images, line_style
from resnets.utils.printable import show_progress

MAX_ITERATIONS, TOLERANCE = 20, 0.01  # of the power iteration; residual over eigenvalue
CHUNK = 32  # images whose graph is in memory at a time
REACH, SIDE = 0.01, 5  # distance along the eigenvector, and points on each side

Vector = dict[str, Tensor]


@dataclass(frozen=True)
class Eigenvalue:
    """An eigenvalue of largest magnitude, with the bound |Hv - value v| of its error."""

    value: float
    residual: float
    iterations: int


@dataclass(frozen=True)
class Curvature:
    """Curvatures of one model's loss, in nats.

    raw: of all parameters. scaled: of convolutions and linear layers, each filter in units of its
    norm. random: the same along one random filter-normalized direction of unit length. line:
    (distance, loss along the scaled eigenvector, loss along the random direction) of each point.
    """

    label: str
    spec: ModelSpec
    loss: float
    raw: Eigenvalue
    scaled: Eigenvalue
    random: float
    line: tuple[tuple[float, float, float], ...]


class Hessian:
    """The Hessian of the mean loss of `images` for the parameters named in `scales`.

    scales: units of each parameter's elements, a number or a tensor of its shape.
    """

    def __init__(
        self, model: ImageClassifier, images: LabeledImages, scales: Mapping[str, Tensor | float]
    ) -> None:
        self.model, self.images, self.scales = model, images, scales
        self.parameters = {name: each for name, each in model.named_parameters() if name in scales}

    def times(self, vector: Vector) -> Vector:
        """Return the product with a vector, the gradient of <gradient, vector>; in eval mode."""
        total = {name: torch.zeros_like(each) for name, each in vector.items()}
        scaled = [vector[name] * self.scales[name] for name in self.parameters]
        count = sum(len(batch) for batch in self.images.batches)
        with eval_mode(self.model), torch.enable_grad():
            for batch in self.images.batches:
                for start in range(0, len(batch), CHUNK):
                    part = batch.part(start, start + CHUNK)
                    assert isinstance(part.targets, Tensor)
                    loss = nn.functional.cross_entropy(
                        self.model(get_images(part)), part.targets, reduction="sum"
                    )
                    values = list(self.parameters.values())
                    first = torch.autograd.grad(loss / count, values, create_graph=True)
                    second = torch.autograd.grad(first, values, scaled)
                    for name, each in zip(self.parameters, second, strict=True):
                        total[name] += each * self.scales[name]
        return total

    def top_eigenvalue(self, seed: int, label: str) -> tuple[Eigenvalue, Vector]:
        """Find the eigenvalue of largest magnitude and its vector, by power iteration."""
        generator = torch.Generator().manual_seed(seed)
        vector = _normalize(
            {
                name: torch.randn(each.shape, generator=generator).to(each)
                for name, each in self.parameters.items()
            }
        )
        eigenvalue = Eigenvalue(0.0, math.inf, 0)
        for number in show_progress(range(1, MAX_ITERATIONS + 1), label):
            product = self.times(vector)
            value = _dot(vector, product)
            residual = {name: product[name] - value * vector[name] for name in vector}
            eigenvalue = Eigenvalue(value, math.sqrt(_dot(residual, residual)), number)
            if eigenvalue.residual <= TOLERANCE * abs(value):
                break
            vector = _normalize(product)
        return eigenvalue, vector


def filter_norms(model: nn.Module) -> Vector:
    """Return the L2 norm of each filter, in the shape of its weight: the landscape's units."""
    norms = {}
    for name, each in model.named_parameters():
        if each.ndim > 1:
            dims = tuple(range(1, each.ndim))
            norm = torch.linalg.vector_norm(each.detach(), dim=dims, keepdim=True)
            norms[name] = norm.expand_as(each)
    return norms


def measure(subject: Subject) -> Curvature:
    """Measure the eigenvalues, and the loss along the eigenvector, of one model."""
    model, images, label = subject.model, subject.images, subject.label
    ones = dict.fromkeys((name for name, _ in model.named_parameters()), 1.0)
    raw, _ = Hessian(model, images, ones).top_eigenvalue(subject.seed, f"{label}, Hessian")
    norms = filter_norms(model)
    hessian = Hessian(model, images, norms)
    scaled, vector = hessian.top_eigenvalue(subject.seed, f"{label}, scaled Hessian")
    direction = random_direction(model, subject.seed)
    flat = _normalize(
        {name: each / norms[name].clamp_min(1e-12) for name, each in direction.items()}
    )
    length = math.sqrt(sum(each.square().sum().item() for each in direction.values()))
    steep = {name: each * norms[name] for name, each in vector.items()}
    steep_length = math.sqrt(_dot(steep, steep))
    steep = {name: each * (length / steep_length) for name, each in steep.items()}
    line = []
    for step in range(-SIDE, SIDE + 1):
        distance = REACH * step / SIDE
        losses = []
        for each in (steep, direction):
            with shift_weights(model, ((distance, each),)):
                losses.append(images.evaluate(model).loss)
        line.append((distance, losses[0], losses[1]))
    random = _dot(flat, hessian.times(flat))
    return Curvature(label, model.spec, subject.intact.loss, raw, scaled, random, tuple(line))


def describe(results: Sequence[Curvature]) -> dict[str, Any]:
    """Return the values of the page: eigenvalues, and the loss along the eigenvectors."""
    columns = (
        "model",
        "loss",
        "top eigenvalue",
        "residual",
        "iterations",
        "scaled top eigenvalue",
        "residual, scaled",
        "iterations, scaled",
        "along a random direction",
    )
    rows = tuple(
        (
            each.label,
            each.loss,
            each.raw.value,
            each.raw.residual,
            each.raw.iterations,
            each.scaled.value,
            each.scaled.residual,
            each.scaled.iterations,
            each.random,
        )
        for each in results
    )
    lines = tuple((each.label, *point) for each in results for point in each.line)
    names = ("model", "distance", "loss along the eigenvector", "loss along a random direction")
    worst = max(
        each.residual / abs(each.value) if each.value else 0.0
        for one in results
        for each in (one.raw, one.scaled)
    )
    return {
        "figures": [Figure("curvature", _plot(results), Numbers(names, lines))],
        "tables": [Table("eigenvalues", columns, rows)],
        "counterparts": find_counterparts(results),
        "worst": worst,
        "tolerance": TOLERANCE,
        "limit": MAX_ITERATIONS,
    }


def _plot(results: Sequence[Curvature]) -> Plot:
    with figure_style():
        figure, panels = subplots(2, share="both")
        for each, color in zip(results, series_colors(len(results)), strict=True):
            style = line_style(residual=each.spec.residual, color=color)
            distances = [point[0] for point in each.line]
            for axes, column in zip(panels, (1, 2), strict=True):
                losses = [max(1e-4, point[column]) for point in each.line]
                axes.plot(distances, losses, label=escape_label(each.label), **style)
        for axes, title in zip(panels, ("Along the eigenvector", "Random direction"), strict=True):
            axes.set(title=title, xlabel="distance", ylabel="cross-entropy (nats)", yscale="log")
        add_legend(figure, panels[0])
    return figure


def _dot(one: Vector, other: Vector) -> float:
    return sum((one[name] * other[name]).sum().item() for name in one)


def _normalize(vector: Vector) -> Vector:
    norm = max(math.sqrt(_dot(vector, vector)), 1e-30)
    return {name: each / norm for name, each in vector.items()}


ANALYSIS = Analysis("curvature", measure, describe, part="train", result=Curvature)
