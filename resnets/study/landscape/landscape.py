"""The loss around a trained net, in filter-normalised directions (Li et al., NeurIPS 2018).

Weights of convolutions and linear layers move; biases and norms do not, and the norms keep their
stored statistics. It is a picture of the training loss, so it is taken on training pictures.
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
from resnets.study.batches import (
    Pictures,
    progress,
)

Direction = Mapping[str, Tensor]
REACH = 1.0  # how far to go, in norms of each filter


@dataclass(frozen=True)
class Point:
    """Mean cross-entropy in nats and top-1 error in percent, alpha and beta along the two ways."""

    alpha: float
    beta: float
    loss: float
    error: float


@dataclass(frozen=True)
class Landscape:
    """One net's loss along its first direction, and on the plane of both, row by row of beta."""

    label: str
    spec: ModelSpec
    line: tuple[Point, ...]
    plane: tuple[Point, ...]

    @property
    def center(self) -> Point:
        """The trained net itself."""
        return self.line[len(self.line) // 2]


def random_direction(net: nn.Module, seed: int) -> dict[str, Tensor]:
    """A Gaussian direction in the space of weights, each filter of it as long as the net's.

    Maps names of parameters to tensors of their shape. A filter is what gives one output channel;
    its length is its L2 norm. Parameters with one dimension (biases, norms) have no part in it.
    """
    chance = torch.Generator().manual_seed(seed)
    direction = {}
    for name, parameter in net.named_parameters():
        if parameter.ndim < 2:
            continue
        drawn = torch.randn(parameter.shape, generator=chance).to(parameter.device)
        axes = tuple(range(1, parameter.ndim))
        length, own = (vector_norm(each, dim=axes, keepdim=True) for each in (parameter, drawn))
        direction[name] = drawn * (length.detach() / own)
    return direction


@contextmanager
def moved(net: nn.Module, steps: Sequence[tuple[float, Direction]]) -> Iterator[None]:
    """`net` with amount x direction added to its weights for each of `steps`, for the context."""
    parameters = dict(net.named_parameters())
    kept = {name: parameters[name].detach().clone() for _, direction in steps for name in direction}
    try:
        with torch.no_grad():
            for amount, direction in steps:
                for name, way in direction.items():
                    parameters[name].add_(way, alpha=amount)
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                parameters[name].copy_(value)


def measure_landscape(
    net: ImageClassifier, pictures: Pictures, *, points: int, seed: int, label: str
) -> Landscape:
    """The loss of `net` on `pictures` from -1 to 1, along a line and on a plane.

    The plane has `points` on each side, the line 2 `points` - 1. `points` is odd, so that the
    middle one is the net itself. `seed` draws the two directions.
    """
    ways = (random_direction(net, 2 * seed), random_direction(net, 2 * seed + 1))

    def at(alpha: float, beta: float) -> Point:
        with moved(net, ((alpha, ways[0]), (beta, ways[1]))):
            measured = pictures.evaluate(net)
        return Point(alpha, beta, measured.loss, measured.top1_error)

    side = torch.linspace(-REACH, REACH, points, dtype=torch.float64).tolist()
    line = torch.linspace(-REACH, REACH, 2 * points - 1, dtype=torch.float64).tolist()
    places = [(alpha, beta) for beta in side for alpha in side]
    return Landscape(
        label,
        net.spec,
        tuple(at(alpha, 0.0) for alpha in progress(line, f"{label}, line")),
        tuple(at(alpha, beta) for alpha, beta in progress(places, f"{label}, plane")),
    )
