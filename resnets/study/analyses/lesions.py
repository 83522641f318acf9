"""Lesions of trained networks: blocks removed, without their branch, or swapped (Veit et al. 2016).

Each replaces modules of the model within a context manager, which restores them at its end.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnets.config import ConfigError
from resnets.models import ImageClassifier
from resnets.models.block_config import eval_mode, get_block_attr
from resnets.models.norm import BATCH_NORMS
from resnets.models.norm_statistics import recompute_statistics
from resnets.study.trained_models import iter_units

Pair = tuple[str, str]


@dataclass(frozen=True)
class Lesion:
    """Error in percent with blocks removed or swapped: each entry of `blocks` is one or a pair.

    recalibrated_error: with recomputed statistics of batch norms (`recalibrate_norms`).
    """

    blocks: tuple[tuple[str, ...], ...]
    error: float
    recalibrated_error: float | None = None

    @property
    def count(self) -> int:
        """Number of blocks removed, or of pairs swapped."""
        return len(self.blocks)


@contextmanager
def replace_modules(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Context in which `model` has these modules, by name, in place of its own."""
    originals = {name: model.get_submodule(name) for name in modules}
    try:
        for name, module in modules.items():
            model.set_submodule(name, module)
        yield
    finally:
        for name, module in originals.items():
            model.set_submodule(name, module)


def remove_blocks(model: nn.Module, names: Sequence[str]) -> AbstractContextManager[None]:
    """Context in which the blocks called `names` are the identity, without shortcut and relu."""
    return replace_modules(model, {name: nn.Identity() for name in names})


def remove_branches(model: nn.Module, names: Sequence[str]) -> AbstractContextManager[None]:
    """Context in which the residual blocks called `names` have F(x) = 0 and keep their shortcut."""
    blocks = {name: copy.deepcopy(model.get_submodule(name)) for name in names}
    for block in blocks.values():
        zero_branch(block)
    return replace_modules(model, blocks)


def swap_blocks(model: nn.Module, pairs: Sequence[Pair]) -> AbstractContextManager[None]:
    """Context in which the blocks of each pair are exchanged, pair after pair."""
    blocks = {name: model.get_submodule(name) for pair in pairs for name in pair}
    for first, second in pairs:
        blocks[first], blocks[second] = blocks[second], blocks[first]
    return replace_modules(model, blocks)


def zero_branch(block: nn.Module) -> None:
    """Make F(x) = 0 in a residual block: zero the parameters of its last layer, in place."""
    for parameter in get_block_attr(block, "last_layer").parameters():
        nn.init.zeros_(parameter)


def residual_blocks(model: ImageClassifier) -> dict[str, nn.Module]:
    """Return the blocks of `model` with a shortcut, by name ("stage1.0"), first to last.

    Raises ConfigError for a model without any.
    """
    if not model.spec.residual:
        raise ConfigError(
            f"{model.spec.name}: a plain network without residual blocks; give a residual network"
        )
    return model.blocks()


def identity_blocks(model: ImageClassifier) -> list[str]:
    """Return the names of the residual blocks whose shortcut is the identity."""
    return [
        name
        for name, block in residual_blocks(model).items()
        if isinstance(get_block_attr(block, "shortcut"), nn.Identity)
    ]


def swappable_blocks(model: ImageClassifier) -> list[list[str]]:
    """Group the residual blocks that differ only in their weights, two or more of one stage."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, block in residual_blocks(model).items():
        stage = name.split(".")[0]
        groups.setdefault((stage, repr(block)), []).append(name)  # repr has all shapes and strides
    return [names for names in groups.values() if len(names) > 1]


def removable_blocks(model: ImageClassifier, images: Tensor) -> list[str]:
    """Return the names of the units whose output has the shape of their input.

    images: (B, C, H, W). Raises ConfigError for a network without such units.
    """
    with eval_mode(model), torch.no_grad():
        names = [name for name, _, x, out in iter_units(model, images[:1]) if x.shape == out.shape]
    if not names:
        raise ConfigError(f"{model.spec.name}: has no blocks that could be removed")
    return names


def spread_counts(largest: int, limit: int) -> list[int]:
    """Return at most `limit` numbers from 1 to `largest`, evenly spaced; none if it is 0."""
    if largest <= limit:
        return list(range(1, largest + 1))
    return [round(1 + (largest - 1) * index / (limit - 1)) for index in range(limit)]


def draw_blocks(
    names: Sequence[str], counts: Sequence[int], draws: int, generator: random.Random
) -> list[tuple[str, ...]]:
    """Draw `draws` random sets of blocks for each number of blocks; of all blocks there is one."""
    return [
        tuple(sorted(generator.sample(names, count), key=names.index))
        for count in counts
        for _ in range(draws if count < len(names) else 1)
    ]


@contextmanager
def recalibrate_norms(model: nn.Module, images: Sequence[Tensor]) -> Iterator[None]:
    """Context in which batch norms have the averages over `images` as running statistics."""
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    saved = [{name: buffer.clone() for name, buffer in each.named_buffers()} for each in norms]
    try:
        recompute_statistics(model, images)
        yield
    finally:
        with torch.no_grad():
            for norm, buffers in zip(norms, saved, strict=True):
                for name, buffer in norm.named_buffers():
                    buffer.copy_(buffers[name])
