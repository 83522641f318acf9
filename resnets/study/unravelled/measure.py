"""Blocks removed and reordered in residual and plain networks, and gradients by path length.

Veit, Wilber and Belongie, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks",
NIPS 2016. A removed block is replaced by the identity, in a plain network too. What is left may
suffer from norms whose statistics no longer fit rather than from the missing block, so errors are
also measured with statistics taken anew from training images.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnets.config import ConfigError
from resnets.data import Batch
from resnets.models import ImageClassifier
from resnets.models.block_config import eval_mode, get_block_attr
from resnets.models.norm import BATCH_NORMS, recompute_statistics
from resnets.study.analysis import LabeledImages, images_of, progress, units

DRAWS = 3  # random choices for each number of blocks, and paths for each length
MAX_COUNTS = 6  # numbers of blocks tried
MAX_LENGTHS = 12  # path lengths tried
PATH_IMAGES = 64


@dataclass(frozen=True)
class Damage:
    """Errors in percent with blocks changed: with the norms' statistics as trained, and anew.

    kind: "removed" or "swapped". blocks: their names; of swaps, pair after pair.
    """

    kind: str
    blocks: tuple[str, ...]
    stored: float
    again: float

    @property
    def count(self) -> int:
        """Blocks removed, or pairs exchanged."""
        return len(self.blocks) // (2 if self.kind == "swapped" else 1)


@dataclass(frozen=True)
class PathLength:
    """Paths through `length` branches: their share of all paths, and a path's gradient.

    gradient: mean L2 norm at the output of the stem of the gradient that one path carries.
    """

    length: int
    share: float
    gradient: float

    @property
    def carried(self) -> float:
        """The share of paths times the gradient of one: what paths of this length carry."""
        return self.share * self.gradient


@dataclass(frozen=True)
class Unravelled:
    """All measurements of one network. error: percent, intact. paths: of a residual network."""

    label: str
    residual: bool
    blocks: int
    error: float
    again: float
    single: tuple[Damage, ...]
    several: tuple[Damage, ...]
    paths: tuple[PathLength, ...]

    def worst(self, count: int, *, again: bool) -> float | None:
        """Mean error with `count` blocks removed; None if that was not tried."""
        found = [
            each.again if again else each.stored
            for each in (*self.single, *self.several)
            if each.kind == "removed" and each.count == count
        ]
        return statistics.fmean(found) if found else None


def removable_blocks(model: ImageClassifier, images: Tensor) -> list[str]:
    """Names of the units whose output has the shape of their input: all others change it.

    images: (B, C, H, W). Raises ConfigError for a network without such units.
    """
    same: list[str] = []
    handles = [
        block.register_forward_hook(
            lambda _, inputs, out, name=name: (
                same.append(name) if inputs[0].shape == out.shape else None
            )
        )
        for name, block in units(model).items()
    ]
    try:
        with eval_mode(model), torch.no_grad():
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not same:
        raise ConfigError(f"{model.spec.name}: has no blocks that could be removed")
    return same


@contextmanager
def removed(model: ImageClassifier, names: Sequence[str]) -> Iterator[None]:
    """Context in which the blocks called `names` are the identity."""
    saved = {name: model.get_submodule(name) for name in names}
    try:
        for name in names:
            model.set_submodule(name, nn.Identity())
        yield
    finally:
        for name, block in saved.items():
            model.set_submodule(name, block)


@contextmanager
def exchanged(model: ImageClassifier, names: Sequence[str]) -> Iterator[None]:
    """Context in which the blocks called `names` are exchanged, pair after pair."""
    saved = {name: model.get_submodule(name) for name in names}
    try:
        for one, other in zip(names[::2], names[1::2], strict=True):
            first, second = model.get_submodule(one), model.get_submodule(other)
            model.set_submodule(one, second)
            model.set_submodule(other, first)
        yield
    finally:
        for name, block in saved.items():
            model.set_submodule(name, block)


@contextmanager
def statistics_anew(model: nn.Module, images: Sequence[Tensor]) -> Iterator[None]:
    """Context in which batch norms have the plain averages over `images` as statistics."""
    norms = [each for each in model.modules() if isinstance(each, BATCH_NORMS)]
    saved = [{name: each.clone() for name, each in norm.named_buffers()} for norm in norms]
    try:
        recompute_statistics(model, images)
        yield
    finally:
        with torch.no_grad():
            for norm, buffers in zip(norms, saved, strict=True):
                for name, value in norm.named_buffers():
                    value.copy_(buffers[name])


def measure_unravelled(
    model: ImageClassifier,
    images: LabeledImages,
    training: LabeledImages,
    seed: int,
    label: str,
) -> Unravelled:
    """All measurements of `model` on `images`; statistics anew are of `training`.

    `seed` draws the blocks that are removed or exchanged, and the paths.
    """
    names = removable_blocks(model, images_of(images.batches[0]))
    inputs = [images_of(batch) for batch in training.batches]
    generator = random.Random(seed)

    def errors() -> tuple[float, float]:
        stored = images.evaluate(model).top1_error
        with statistics_anew(model, inputs):
            return stored, images.evaluate(model).top1_error

    def without(chosen: tuple[str, ...]) -> Damage:
        with removed(model, chosen):
            return Damage("removed", chosen, *errors())

    def swapped(chosen: tuple[str, ...]) -> Damage:
        with exchanged(model, chosen):
            return Damage("swapped", chosen, *errors())

    counts = [count for count in spread(len(names), MAX_COUNTS) if count > 1]
    drops = [
        tuple(sorted(generator.sample(names, count), key=names.index))
        for count in counts
        for _ in range(DRAWS if count < len(names) else 1)
    ]
    stages = [[name for name in names if name.split(".")[0] == stage] for stage in _stages(names)]
    stages = [stage for stage in stages if len(stage) > 1]
    swaps = [
        tuple(name for _ in range(count) for name in generator.sample(generator.choice(stages), 2))
        for count in (spread(len(names), MAX_COUNTS) if stages else [])
        for _ in range(DRAWS)
    ]
    error, again = errors()
    single = tuple(without((name,)) for name in progress(names, f"{label}, removing one block"))
    several = [without(chosen) for chosen in progress(drops, f"{label}, removing several")]
    several += [swapped(chosen) for chosen in progress(swaps, f"{label}, reordering")]
    paths = path_gradients(model, images.batches[0], generator) if model.spec.residual else ()
    total = len(units(model))
    residual = model.spec.residual
    return Unravelled(label, residual, total, error, again, single, tuple(several), paths)


def path_gradients(
    model: ImageClassifier, batch: Batch, generator: random.Random
) -> tuple[PathLength, ...]:
    """The gradient of the loss of `batch` that single paths of each length carry, in eval mode.

    The forward pass is that of the whole network. Backwards the gradient passes `length` blocks
    through their branch alone and all others through their shortcut alone (Veit et al., section
    4.3). Paths are binomially distributed: of n blocks C(n, k) paths pass k branches.
    """
    assert isinstance(batch.targets, Tensor)
    images, targets = images_of(batch)[:PATH_IMAGES], batch.targets[:PATH_IMAGES]
    names = list(model.blocks())
    lengths = [0, *spread(len(names), MAX_LENGTHS - 1)]
    found = []
    for length in lengths:
        norms = []
        for _ in range(DRAWS if 0 < length < len(names) else 1):
            chosen = set(generator.sample(names, length))
            norms.append(_path_gradient(model, images, targets, chosen))
        share = math.comb(len(names), length) / 2 ** len(names)
        found.append(PathLength(length, share, statistics.fmean(norms)))
    return tuple(found)


def _path_gradient(
    model: ImageClassifier, images: Tensor, targets: Tensor, chosen: set[str]
) -> float:
    with eval_mode(model):
        stem = model.get_submodule("stem")(images).detach().requires_grad_()
        x = stem * 1
        for name, block in model.blocks().items():
            branch, shortcut = get_block_attr(block, "paths")(x)
            if name in chosen:
                shortcut = shortcut.detach()
            else:
                branch = branch.detach()
            total = branch + shortcut
            x = getattr(block, "after_add", torch.relu)(total)
        loss = nn.functional.cross_entropy(model.classify(x), targets)
        (gradient,) = torch.autograd.grad(loss, [stem], allow_unused=True)
    return 0.0 if gradient is None else gradient.norm().item()


def spread(largest: int, count: int) -> list[int]:
    """At most `count` numbers from 1 to `largest`, evenly spread."""
    if largest <= count:
        return list(range(1, largest + 1))
    return [round(1 + (largest - 1) * index / (count - 1)) for index in range(count)]


def _stages(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name.split(".")[0] for name in names))
