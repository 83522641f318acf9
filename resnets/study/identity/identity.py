"""How near the identity each residual block is, and what the net loses without it.

||F(x)|| / ||x|| asks whether residual functions are small (paper, section 4.2); lesions ask
whether the net needs any one of them (Veit et al., NIPS 2016); `deepen` shows that null ones cost
nothing (paper, section 1 and 3.1).
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
from resnets.models.block import require, residual_paths
from resnets.models.resnet import ZeroPad
from resnets.study.batches import (
    Pictures,
    images_of,
    progress,
)
from resnets.study.depth.deepen import Proof, prove
from resnets.study.identity.lesion import (
    Pair,
    dropped,
    identity_blocks,
    residual_blocks,
    swappable,
    swapped,
)

DRAWS = 5  # random choices for each number of blocks
COUNTS = 10  # numbers of blocks tried, at most
EXTRA_BLOCKS = 2  # per stage, in the proof


@dataclass(frozen=True)
class BlockFigures:
    """One residual block.

    shortcut: "identity", "zero-padded" or "projection". ratio: mean over pictures of the L2 norm
    of F(x) over that of what the shortcut adds to it, which is x for an identity.
    error_without: percent, with the branch dropped.
    """

    name: str
    shortcut: str
    ratio: float
    error_without: float


@dataclass(frozen=True)
class Lesion:
    """Error in percent with damage at `places`: each a dropped block's name, or two swapped."""

    places: tuple[tuple[str, ...], ...]
    error: float


@dataclass(frozen=True)
class IdentityFigures:
    """All that was measured of one net.

    error: percent, intact. swaps: of each block with the next of its kind. drops_at_random,
    swaps_at_random: several draws for each number of identity blocks dropped, or of swaps made.
    proof: None where option C allows none.
    """

    label: str
    error: float
    blocks: tuple[BlockFigures, ...]
    swaps: tuple[Lesion, ...]
    drops_at_random: tuple[Lesion, ...]
    swaps_at_random: tuple[Lesion, ...]
    proof: Proof | None


def block_ratios(net: ImageClassifier, batches: Iterable[Batch]) -> dict[str, float]:
    """||F(x)|| / ||shortcut(x)|| of each residual block, a mean over pictures; eval mode.

    Raises ConfigError for a net without residual blocks.
    """
    blocks = residual_blocks(net.eval())
    sums, count = dict.fromkeys(blocks, 0.0), 0
    with torch.inference_mode():
        for batch in batches:
            for name, branch, shortcut in _paths(net, images_of(batch)):
                ratios = branch.flatten(1).norm(dim=1) / shortcut.flatten(1).norm(dim=1)  # (B,)
                sums[name] += ratios.sum().item()
            count += len(batch)
    return {name: total / count for name, total in sums.items()}


def _paths(net: ImageClassifier, x: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, F(x) and shortcut(x), both (B, C, H, W), of each residual block, first to last."""
    for stage_name in net.stage_names:
        stage = net.get_submodule(stage_name)
        if not isinstance(stage, nn.Sequential):
            x = stage(x)
            continue
        for position, block in enumerate(stage):
            branch, shortcut, out = residual_paths(block, x)
            yield f"{stage_name}.{position}", branch, shortcut
            x = out


def measure_identity(
    net: ImageClassifier, pictures: Pictures, seed: int, label: str
) -> IdentityFigures:
    """All figures of a residual `net` on `pictures`; random lesions follow from `seed` alone."""
    blocks = residual_blocks(net)
    ratios = block_ratios(net, pictures.batches)
    chance = random.Random(seed)
    identity, groups = identity_blocks(net), swappable(net)
    neighbors = [(pair,) for group in groups for pair in pairwise(group)]

    def without(names: tuple[str, ...]) -> float:
        with dropped(net, names):
            return pictures.evaluate(net).top1_error

    def exchanged(pairs: tuple[Pair, ...]) -> Lesion:
        with swapped(net, pairs):
            return Lesion(pairs, pictures.evaluate(net).top1_error)

    alone = {name: without((name,)) for name in progress(list(blocks), "dropping one block")}
    drops = [
        tuple(sorted(chance.sample(identity, count), key=identity.index))
        for count in _counts(len(identity))
        for _ in range(DRAWS if count < len(identity) else 1)
    ]
    most = sum(len(group) for group in groups)
    swaps = [
        tuple(_random_pair(groups, chance) for _ in range(count))
        for count in _counts(most)
        for _ in range(DRAWS)
    ]
    return IdentityFigures(
        label=label,
        error=pictures.evaluate(net).top1_error,
        blocks=tuple(
            BlockFigures(name, _kind(require(block, "shortcut")), ratios[name], alone[name])
            for name, block in blocks.items()
        ),
        swaps=tuple(exchanged(pairs) for pairs in progress(neighbors, "swapping neighbours")),
        drops_at_random=tuple(
            Lesion(tuple((name,) for name in names), without(names))
            for names in progress(drops, "dropping several blocks")
        ),
        swaps_at_random=tuple(exchanged(pairs) for pairs in progress(swaps, "swapping several")),
        proof=None
        if net.spec.shortcut == "C"
        else prove(net, images_of(pictures.batches[0]), EXTRA_BLOCKS),
    )


def _counts(most: int) -> list[int]:
    """At most COUNTS numbers from 1 to `most`, evenly spread; none where there is none."""
    if most <= COUNTS:
        return list(range(1, most + 1))
    return [round(1 + (most - 1) * place / (COUNTS - 1)) for place in range(COUNTS)]


def _random_pair(groups: list[list[str]], chance: random.Random) -> Pair:
    """Two blocks of one group; a group is as likely as it has blocks."""
    group = chance.choices(groups, weights=[len(each) for each in groups])[0]
    first, second = chance.sample(group, 2)
    return first, second


def _kind(shortcut: nn.Module) -> str:
    if isinstance(shortcut, nn.Identity):
        return "identity"
    return "zero-padded" if isinstance(shortcut, ZeroPad) else "projection"
