"""`resnets study identity`: measure, then write the page."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot

from resnets.report.figures import SERIES, SOFT, figure_style, integer_ticks, subplots
from resnets.report.page import Figure, Numbers, Table
from resnets.study.identity.lesion import residual_blocks
from resnets.study.identity.measure import (
    DRAWS,
    BlockResult,
    IdentityResult,
    Lesion,
    measure_identity,
)
from resnets.study.trained import Analysis, Subject

IDENTITY, OTHER = SERIES[4], SERIES[0]  # colors of blocks by their shortcut


def describe(results: Sequence[IdentityResult]) -> dict[str, Any]:
    """How close the blocks of one residual model are to the identity."""
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


def measure(subject: Subject) -> IdentityResult:
    """All measurements of one model."""
    return measure_identity(subject.model, subject.images, subject.seed, subject.label)


ANALYSIS = Analysis("identity", measure, describe, check=residual_blocks, result=IdentityResult)


def _block_numbers(result: IdentityResult) -> Numbers:
    rows = tuple(
        (
            *(block.name, block.shortcut, block.ratio, block.error_without),
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
    found = result.deepened
    if found is None:
        return []
    rows = (
        ("residual, evaluation: largest difference of shallow and deep logits",
         found.eval_difference),
        ("residual, training mode: the same", found.train_difference),
        ("plain, shallow: largest difference between two images' logits",
         found.plain_variation_before),
        ("plain, deepened: the same", found.plain_variation),
    )  # fmt: skip
    return [Table("deepened", ("on the same images", "value"), rows)]


def _plot_blocks(result: IdentityResult) -> Plot:
    blocks = result.blocks
    positions = range(1, len(blocks) + 1)
    colors = [IDENTITY if block.shortcut == "identity" else OTHER for block in blocks]
    with figure_style():
        figure, (ratios, errors) = subplots(1, 2)
        ratios.bar(positions, [block.ratio for block in blocks], color=colors)
        ratios.set(title="Relative size of F(x)", ylabel="‖F(x)‖ / ‖shortcut(x)‖")
        rises = [block.error_without - result.error for block in blocks]
        errors.bar(positions, rises, bottom=result.error, color=colors)
        errors.axhline(result.error, color=SOFT, lw=1)
        position_of = {block.name: place for place, block in zip(positions, blocks, strict=True)}
        for swap in result.swaps:
            ((first, second),) = swap.blocks
            middle = (position_of[first] + position_of[second]) / 2
            errors.plot(middle, swap.error, "x", color=SERIES[1], ms=5, mew=1.5, zorder=3)
        errors.set(title="Dropped (bars), swapped (×)", ylabel="error (%)", ylim=(0, None))
        for axes in (ratios, errors):
            _mark_stages(axes, blocks)
    return figure


def _mark_stages(axes: Axes, blocks: Sequence[BlockResult]) -> None:
    """A tick at the first block of each stage, with the stage's name."""
    numbered = list(enumerate(blocks, 1))
    starts = {block.name.split(".")[0]: position for position, block in reversed(numbered)}
    axes.set_xticks(list(starts.values()), list(starts))
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("block, first to last")


def _lesion_numbers(result: IdentityResult) -> Numbers:
    both = (("dropped", result.random_drops), ("swapped", result.random_swaps))
    rows = tuple(
        (kind, len(lesion.blocks), lesion.error, " ".join(map("<->".join, lesion.blocks)))
        for kind, lesions in both
        for lesion in lesions
    )
    return Numbers(("lesion", "count", "error", "blocks"), rows)


def _plot_lesions(result: IdentityResult) -> Plot:
    with figure_style():
        figure, (drops, swaps) = subplots(1, 2, share="y")
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
        errors.setdefault(len(lesion.blocks), []).append(lesion.error)
    counts, groups = list(errors), list(errors.values())
    axes.axhline(intact, color=SOFT, lw=1)
    lows, highs = list(map(min, groups)), list(map(max, groups))
    axes.fill_between(counts, lows, highs, color=SERIES[4], alpha=0.16, lw=0)
    axes.plot(counts, list(map(mean, groups)), "o-", color=SERIES[4], ms=4, lw=2)
    axes.set_xlim(0, max(counts) or 1)
