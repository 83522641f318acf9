"""The loss around a trained net, in filter-normalised directions (Li et al., NeurIPS 2018).

Weights of convolutions and linear layers move; biases and norms do not, and the norms keep their
stored statistics. It is a picture of the training loss, so it is taken on training pictures.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from resnets import host
from resnets.config import ConfigError, ModelSpec
from resnets.models import Net
from resnets.study.batches import (
    Pictures,
    check_finite,
    draw_split,
    load_subjects,
    progress,
    show,
)
from resnets.study.convergence import caution, cautions
from resnets.study.page import Report, write_report
from resnets.weights.load import NOTHING_SAID, LoadOptions

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
    def centre(self) -> Point:
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
    net: Net, pictures: Pictures, *, points: int, seed: int, label: str
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


def landscape_study(
    checkpoints: Sequence[Path],
    *,
    data: str | None,
    examples: int,
    steps: int,
    seed: int,
    device: str,
    out: Path,
    loading: LoadOptions = NOTHING_SAID,
) -> Report:
    """Measure the loss around each of `checkpoints` on `examples` training pictures.

    `steps` is the number of points on each side of the plane, odd; `seed` draws the pictures and
    the directions. Returns the report in `out`. Raises ConfigError, DataError, CheckpointError,
    and ValueError for a net whose outputs are no numbers.
    """
    from resnets.study.landscape_page import landscape_page

    if steps < 3 or steps % 2 == 0:
        raise ConfigError(
            f"--steps {steps}: give an odd number of 3 or more; its middle is the net"
        )
    subjects = load_subjects(checkpoints, data, loading)
    split = draw_split(subjects[0].net, data, "train", examples, seed)
    landscapes, protocol, doubts = [], [], {}
    for subject in subjects:
        pictures = show(split, subject.net, device)
        check_finite(pictures.evaluate(subject.net).loss, subject.where)
        landscapes.append(
            measure_landscape(subject.net, pictures, points=steps, seed=seed, label=subject.label)
        )
        protocol.append(f"{subject.label}: {pictures.protocol}.")
        doubts[subject.label] = caution(
            subject.where,
            landscapes[-1].centre.error,
            len(pictures.classes),
            errors_of="training",
        )
    words = ["resnets", "study", "landscape", *map(str, checkpoints), "--examples", str(examples)]
    words += ["--steps", str(steps), "--seed", str(seed)]
    words += ["--data", data] if data is not None else []
    page = landscape_page(
        landscapes,
        measured=" ".join(protocol),
        commands=(shlex.join(words),),
        environment=host.describe(pictures.device),
        caution=cautions(doubts),
    )
    return write_report(page, out)
