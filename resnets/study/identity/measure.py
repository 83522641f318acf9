"""How close each residual block is to the identity, and what the model loses without it.

||F(x)|| / ||x|| measures whether residual functions are small (paper, section 4.2); lesions,
whether the model needs any one of them (Veit et al., NIPS 2016); `deepen`, that zero ones cost
nothing (paper, sections 1 and 3.1).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from resnets.data import Batch
from resnets.models import ImageClassifier
from resnets.models.block_config import get_block_attr, residual_paths
from resnets.models.shortcut import GatedShortcut, ScaledShortcut, ZeroPad
from resnets.study.analysis import LabeledImages, after_stem, images_of, progress
from resnets.study.identity.deepen import DeepenedComparison, compare_deepened
from resnets.study.identity.lesion import (
    Pair,
    dropped,
    identity_blocks,
    residual_blocks,
    swappable_blocks,
    swapped,
)

DRAWS = 5  # random choices for each number of blocks
MAX_COUNTS = 10  # numbers of blocks tried
EXTRA_BLOCKS = 2  # per stage, in the deepened model


@dataclass(frozen=True)
class BlockResult:
    """Measurements of one residual block.

    shortcut: "identity", "zero-padded", "projection", "scaled" or "gated". ratio: mean over images
    of the L2 norm of F(x) over that of what the shortcut adds to it, which is x for an identity.
    error_without: percent, with the branch dropped.
    """

    name: str
    shortcut: str
    ratio: float
    error_without: float


@dataclass(frozen=True)
class Lesion:
    """Error in percent with blocks dropped or swapped: each entry of `blocks` is one or a pair."""

    blocks: tuple[tuple[str, ...], ...]
    error: float


@dataclass(frozen=True)
class IdentityResult:
    """All measurements of one model.

    error: percent, intact. swaps: of each block with the next of its kind. random_drops,
    random_swaps: several draws for each number of identity blocks dropped, or of swaps.
    deepened: None where shortcuts are not the identity, such as option C.
    """

    label: str
    error: float
    blocks: tuple[BlockResult, ...]
    swaps: tuple[Lesion, ...]
    random_drops: tuple[Lesion, ...]
    random_swaps: tuple[Lesion, ...]
    deepened: DeepenedComparison | None


def block_ratios(model: ImageClassifier, batches: Iterable[Batch]) -> dict[str, float]:
    """||F(x)|| / ||shortcut(x)|| of each residual block, mean over images; eval mode.

    Raises ConfigError for a model without residual blocks.
    """
    blocks = residual_blocks(model.eval())
    sums, count = dict.fromkeys(blocks, 0.0), 0
    with torch.inference_mode():
        for batch in batches:
            for name, branch, shortcut in _paths(model, images_of(batch)):
                ratios = branch.flatten(1).norm(dim=1) / shortcut.flatten(1).norm(dim=1)  # (B,)
                sums[name] += ratios.sum().item()
            count += len(batch)
    return {name: total / count for name, total in sums.items()}


def _paths(model: ImageClassifier, x: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, F(x) and shortcut(x), both (B, C, H, W), of each residual block, first to last."""
    x = after_stem(model, x)
    for name, block in model.blocks().items():
        branch, shortcut, out = residual_paths(block, x)
        yield name, branch, shortcut
        x = out


def measure_identity(
    model: ImageClassifier, images: LabeledImages, seed: int, label: str
) -> IdentityResult:
    """All measurements of a residual `model` on `images`; `seed` draws the random lesions."""
    blocks = residual_blocks(model)
    ratios = block_ratios(model, images.batches)
    generator = random.Random(seed)
    identity, groups = identity_blocks(model), swappable_blocks(model)
    neighbors = [(pair,) for group in groups for pair in pairwise(group)]

    def error_without(names: tuple[str, ...]) -> float:
        with dropped(model, names):
            return images.evaluate(model).top1_error

    def swap(pairs: tuple[Pair, ...]) -> Lesion:
        with swapped(model, pairs):
            return Lesion(pairs, images.evaluate(model).top1_error)

    single = {name: error_without((name,)) for name in progress(list(blocks), "dropping one block")}
    drops = [
        tuple(sorted(generator.sample(identity, count), key=identity.index))
        for count in _counts(len(identity))
        for _ in range(DRAWS if count < len(identity) else 1)
    ]
    swaps = [
        tuple(_random_pair(groups, generator) for _ in range(count))
        for count in _counts(sum(len(group) for group in groups))
        for _ in range(DRAWS)
    ]
    return IdentityResult(
        label=label,
        error=images.evaluate(model).top1_error,
        blocks=tuple(
            BlockResult(name, _kind(get_block_attr(block, "shortcut")), ratios[name], single[name])
            for name, block in blocks.items()
        ),
        swaps=tuple(swap(pairs) for pairs in progress(neighbors, "swapping neighbors")),
        random_drops=tuple(
            Lesion(tuple((name,) for name in names), error_without(names))
            for names in progress(drops, "dropping several blocks")
        ),
        random_swaps=tuple(swap(pairs) for pairs in progress(swaps, "swapping several")),
        deepened=compare_deepened(model, images_of(images.batches[0]), EXTRA_BLOCKS)
        if model.spec.passes_identity
        else None,
    )


def _counts(largest: int) -> list[int]:
    """At most MAX_COUNTS numbers from 1 to `largest`, evenly spread; none where it is 0."""
    if largest <= MAX_COUNTS:
        return list(range(1, largest + 1))
    return [round(1 + (largest - 1) * index / (MAX_COUNTS - 1)) for index in range(MAX_COUNTS)]


def _random_pair(groups: list[list[str]], generator: random.Random) -> Pair:
    """Two blocks of one group; a group is chosen in proportion to its size."""
    group = generator.choices(groups, weights=[len(each) for each in groups])[0]
    first, second = generator.sample(group, 2)
    return first, second


def _kind(shortcut: nn.Module) -> str:
    if isinstance(shortcut, GatedShortcut | ScaledShortcut):
        return "gated" if isinstance(shortcut, GatedShortcut) else "scaled"
    if isinstance(shortcut, nn.Identity):
        return "identity"
    return "zero-padded" if isinstance(shortcut, ZeroPad) else "projection"
