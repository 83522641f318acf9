"""The loss around a trained model, in filter-normalized directions (Li et al., NeurIPS 2018).

Weights of convolutions and linear layers are moved; biases and norms are not, and norms keep their
stored statistics. It describes the training loss, so it is measured on training images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from resnets.config import ModelSpec
from resnets.models import ImageClassifier
from resnets.study.analysis import LabeledImages, progress

Direction = Mapping[str, Tensor]
REACH = 1.0  # largest distance, in units of each filter's norm


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
    """A Gaussian direction in weight space, each of whose filters has the norm of the model's.

    Maps names of parameters to tensors of their shape. A filter is the weights of one output
    channel; its norm is L2. Parameters with one dimension (biases, norms) are left out.
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
def moved(model: nn.Module, steps: Sequence[tuple[float, Direction]]) -> Iterator[None]:
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


def measure_landscape(
    model: ImageClassifier, images: LabeledImages, *, points: int, seed: int, label: str
) -> Landscape:
    """The loss of `model` on `images` from -1 to 1, along a line and on a plane.

    The plane has `points` on each side, the line 2 `points` - 1. `points` is odd, so that the
    middle one is the model itself. `seed` draws the two directions.
    """
    first, second = random_direction(model, 2 * seed), random_direction(model, 2 * seed + 1)

    def at(alpha: float, beta: float) -> Point:
        with moved(model, ((alpha, first), (beta, second))):
            measured = images.evaluate(model)
        return Point(alpha, beta, measured.loss, measured.top1_error)

    side = torch.linspace(-REACH, REACH, points, dtype=torch.float64).tolist()
    line = torch.linspace(-REACH, REACH, 2 * points - 1, dtype=torch.float64).tolist()
    plane = [(alpha, beta) for beta in side for alpha in side]
    return Landscape(
        label,
        model.spec,
        tuple(at(alpha, 0.0) for alpha in progress(line, f"{label}, line")),
        tuple(at(alpha, beta) for alpha, beta in progress(plane, f"{label}, plane")),
    )
