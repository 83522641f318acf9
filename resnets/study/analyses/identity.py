"""How close each residual block is to the identity, and how much the error rises without it.

||F(x)|| / ||x|| measures whether residual functions are small (paper, section 4.2); lesions,
whether the model needs any single block (Veit et al., NIPS 2016); `deepen`, that blocks of zero
weights do not raise the error (paper, sections 1 and 3.1).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot
from torch import nn

from resnets.data import Batch
from resnets.models import ImageClassifier
from resnets.models.block_config import get_block_attr, residual_paths
from resnets.models.shortcut import GatedShortcut, ScaledShortcut, ZeroPad
from resnets.report.figure_style import SERIES, SOFT, figure_style, integer_ticks, subplots
from resnets.report.page import Figure, Numbers, Table
from resnets.study.analyses.base import Analysis, Subject
from resnets.study.analyses.deepen import DeepenedComparison, compare_deepened
from resnets.study.analyses.lesions import (
    Lesion,
    Pair,
    draw_blocks,
    identity_blocks,
    remove_branches,
    residual_blocks,
    spread_counts,
    swap_blocks,
    swappable_blocks,
)
from resnets.study.trained_models import apply_stem, get_images
from resnets.utils.printable import show_progress

DRAWS = 5  # random choices for each number of blocks
MAX_COUNTS = 10  # numbers of blocks tried
EXTRA_BLOCKS = 2  # per stage, in the deepened model
IDENTITY_COLOR, OTHER_COLOR = SERIES[4], SERIES[0]  # of blocks by their shortcut


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
class IdentityResult:
    """All measurements of one model.

    error: percent, intact. swaps: of each block with the next of its kind. random_drops,
    random_swaps: several draws for each number of identity blocks dropped, or of pairs swapped.
    deepened: None where shortcuts are not the identity, such as option C.
    """

    label: str
    error: float
    blocks: tuple[BlockResult, ...]
    swaps: tuple[Lesion, ...]
    random_drops: tuple[Lesion, ...]
    random_swaps: tuple[Lesion, ...]
    deepened: DeepenedComparison | None


def measure(subject: Subject) -> IdentityResult:
    """Measure one residual model; the subject's seed draws the random lesions."""
    model, images = subject.model, subject.images
    blocks = residual_blocks(model)
    ratios = block_ratios(model, images.batches)
    generator = random.Random(subject.seed)
    identity, groups = identity_blocks(model), swappable_blocks(model)
    neighbors = [(pair,) for group in groups for pair in pairwise(group)]

    def drop(names: tuple[str, ...]) -> Lesion:
        with remove_branches(model, names):
            return Lesion(tuple((name,) for name in names), images.evaluate(model).top1_error)

    def swap(pairs: tuple[Pair, ...]) -> Lesion:
        with swap_blocks(model, pairs):
            return Lesion(pairs, images.evaluate(model).top1_error)

    single = {
        name: drop((name,)).error for name in show_progress(list(blocks), "dropping one block")
    }
    drops = draw_blocks(identity, spread_counts(len(identity), MAX_COUNTS), DRAWS, generator)
    swaps = [
        tuple(_draw_pair(groups, generator) for _ in range(count))
        for count in spread_counts(sum(len(group) for group in groups), MAX_COUNTS)
        for _ in range(DRAWS)
    ]
    return IdentityResult(
        label=subject.label,
        error=subject.intact.top1_error,
        blocks=tuple(
            BlockResult(name, _shortcut_kind(block), ratios[name], single[name])
            for name, block in blocks.items()
        ),
        swaps=tuple(swap(pairs) for pairs in show_progress(neighbors, "swapping neighbors")),
        random_drops=tuple(
            drop(names) for names in show_progress(drops, "dropping several blocks")
        ),
        random_swaps=tuple(swap(pairs) for pairs in show_progress(swaps, "swapping several")),
        deepened=compare_deepened(model, get_images(images.batches[0]), EXTRA_BLOCKS)
        if model.spec.passes_identity
        else None,
    )


def block_ratios(model: ImageClassifier, batches: Iterable[Batch]) -> dict[str, float]:
    """Return ||F(x)|| / ||shortcut(x)|| of each residual block, mean over images; in eval mode.

    Raises ConfigError for a model without residual blocks.
    """
    blocks = residual_blocks(model.eval())
    sums, count = dict.fromkeys(blocks, 0.0), 0
    with torch.inference_mode():
        for batch in batches:
            x = apply_stem(model, get_images(batch))
            for name, block in blocks.items():
                branch, shortcut, x = residual_paths(block, x)
                ratios = branch.flatten(1).norm(dim=1) / shortcut.flatten(1).norm(dim=1)  # (B,)
                sums[name] += ratios.sum().item()
            count += len(batch)
    return {name: total / count for name, total in sums.items()}


def _draw_pair(groups: list[list[str]], generator: random.Random) -> Pair:
    """Draw two blocks of one group; a group is chosen in proportion to its size."""
    group = generator.choices(groups, weights=[len(each) for each in groups])[0]
    first, second = generator.sample(group, 2)
    return first, second


def _shortcut_kind(block: nn.Module) -> str:
    shortcut = get_block_attr(block, "shortcut")
    if isinstance(shortcut, GatedShortcut | ScaledShortcut):
        return "gated" if isinstance(shortcut, GatedShortcut) else "scaled"
    if isinstance(shortcut, nn.Identity):
        return "identity"
    return "zero-padded" if isinstance(shortcut, ZeroPad) else "projection"


def describe(results: Sequence[IdentityResult]) -> dict[str, Any]:
    """Return the values of the page of one residual model."""
    (result,) = results
    lesions = _lesion_numbers(result)
    figures = [Figure("blocks", _plot_blocks(result), _block_numbers(result))]
    if lesions.rows:
        figures.append(Figure("lesions", _plot_lesions(result), lesions))
    identity = [block for block in result.blocks if block.shortcut == "identity"]
    return {
        "figures": figures,
        "tables": [_block_table(result), *_deepened_table(result)],
        "result": result,
        "identity": identity,
        "ratio": median(block.ratio for block in identity) if identity else None,
        "rise": (
            median(block.error_without for block in identity) - result.error if identity else None
        ),
        "worst": max(result.blocks, key=lambda block: block.error_without),
        "draws": DRAWS,
    }


ANALYSIS = Analysis("identity", measure, describe, check=residual_blocks, result=IdentityResult)


def _block_numbers(result: IdentityResult) -> Numbers:
    rows = tuple(
        (
            block.name,
            block.shortcut,
            block.ratio,
            block.error_without,
            block.error_without - result.error,
        )
        for block in result.blocks
    )
    return Numbers(("block", "shortcut", "ratio", "error_without", "rise"), rows)


def _block_table(result: IdentityResult) -> Table:
    numbers = _block_numbers(result)
    columns = ("block", "shortcut", "‖F(x)‖ / ‖x‖", "error without it (%)", "increase (points)")
    return Table("block-figures", columns, numbers.rows, numbers)


def _deepened_table(result: IdentityResult) -> list[Table]:
    deepened = result.deepened
    if deepened is None:
        return []
    rows = (
        ("residual, evaluation: largest difference of shallow and deep logits",
         deepened.eval_difference),
        ("residual, training mode: the same", deepened.train_difference),
        ("plain, shallow: largest difference between two images' logits",
         deepened.plain_variation_before),
        ("plain, deepened: the same", deepened.plain_variation),
    )  # fmt: skip
    return [Table("deepened", ("on the same images", "value"), rows)]


def _plot_blocks(result: IdentityResult) -> Plot:
    blocks = result.blocks
    positions = range(1, len(blocks) + 1)
    colors = [IDENTITY_COLOR if block.shortcut == "identity" else OTHER_COLOR for block in blocks]
    with figure_style():
        figure, (ratios, errors) = subplots(2)
        ratios.bar(positions, [block.ratio for block in blocks], color=colors)
        ratios.set(title="Relative size of F(x)", ylabel="‖F(x)‖ / ‖shortcut(x)‖")
        rises = [block.error_without - result.error for block in blocks]
        errors.bar(positions, rises, bottom=result.error, color=colors)
        errors.axhline(result.error, color=SOFT, lw=1)
        position_by_name = {
            block.name: position for position, block in zip(positions, blocks, strict=True)
        }
        for swap in result.swaps:
            ((first, second),) = swap.blocks
            middle = (position_by_name[first] + position_by_name[second]) / 2
            errors.plot(middle, swap.error, "x", color=SERIES[1], ms=5, mew=1.5, zorder=3)
        errors.set(title="Dropped (bars), swapped (×)", ylabel="error (%)", ylim=(0, None))
        for axes in (ratios, errors):
            _mark_stages(axes, blocks)
    return figure


def _mark_stages(axes: Axes, blocks: Sequence[BlockResult]) -> None:
    """Put a tick with the stage's name at the first block of each stage."""
    numbered = list(enumerate(blocks, 1))
    starts = {block.name.split(".")[0]: position for position, block in reversed(numbered)}
    axes.set_xticks(list(starts.values()), list(starts))
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("block, first to last")


def _lesion_numbers(result: IdentityResult) -> Numbers:
    by_kind = (("dropped", result.random_drops), ("swapped", result.random_swaps))
    rows = tuple(
        (kind, lesion.count, lesion.error, " ".join(map("<->".join, lesion.blocks)))
        for kind, lesions in by_kind
        for lesion in lesions
    )
    return Numbers(("lesion", "count", "error", "blocks"), rows)


def _plot_lesions(result: IdentityResult) -> Plot:
    with figure_style():
        figure, (drops, swaps) = subplots(2, share="y")
        _plot_series(drops, result.random_drops, result.error)
        drops.set(title="Blocks dropped", xlabel="identity blocks dropped at once")
        _plot_series(swaps, result.random_swaps, result.error)
        swaps.set(title="Blocks swapped", xlabel="random swaps within stages")
        for axes in (drops, swaps):
            axes.set(ylabel="error (%)", ylim=(0, 100))
            integer_ticks(axes)
    return figure


def _plot_series(axes: Axes, lesions: Sequence[Lesion], intact: float) -> None:
    errors: dict[int, list[float]] = {0: [intact]}
    for lesion in lesions:
        errors.setdefault(lesion.count, []).append(lesion.error)
    counts, groups = list(errors), list(errors.values())
    axes.axhline(intact, color=SOFT, lw=1)
    lows, highs = list(map(min, groups)), list(map(max, groups))
    axes.fill_between(counts, lows, highs, color=SERIES[4], alpha=0.16, lw=0)
    axes.plot(counts, list(map(mean, groups)), "o-", color=SERIES[4], ms=4, lw=2)
    axes.set_xlim(0, max(counts) or 1)
