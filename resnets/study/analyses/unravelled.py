"""Blocks removed and swapped in residual and plain networks, and gradients by path length.

Veit, Wilber and Belongie, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks",
NIPS 2016. A removed block is replaced by the identity, in a plain network too. Part of the effect
may come from batch norms whose statistics no longer fit, so errors are also measured with
statistics recomputed on training images.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot
from torch import Tensor, nn

from resnets.data import Batch
from resnets.evaluate.figures.fonts import escape_label
from resnets.models import ImageClassifier
from resnets.models.block_config import activation_after_add, eval_mode, residual_paths
from resnets.report.figure_style import (
    add_legend,
    figure_style,
    integer_ticks,
    series_colors,
    subplots,
)
from resnets.report.page import Figure, Numbers, Table
from resnets.report.render import Row
from resnets.study.analyses.base import Analysis, Subject
from resnets.study.analyses.lesions import (
    Lesion,
    Pair,
    draw_blocks,
    recalibrate_norms,
    removable_blocks,
    remove_blocks,
    spread_counts,
    swap_blocks,
)
from resnets.study.trained_models import get_images, line_style, named_units
from resnets.utils.printable import show_progress

TRAINING_IMAGES = 200  # on which statistics of norms are recomputed
DRAWS = 3  # random choices for each number of blocks, and paths for each length
MAX_COUNTS = 6  # numbers of blocks tried
MAX_LENGTHS = 12  # path lengths tried
PATH_IMAGES = 64


@dataclass(frozen=True)
class PathLength:
    """Paths through `length` branches: their share of all paths, and the gradient of one.

    gradient: mean over paths of the L2 norm, at the output of the stem, of a path's gradient.
    """

    length: int
    share: float
    gradient: float

    @property
    def carried(self) -> float:
        """The gradient that paths of this length carry: their share times the gradient of one."""
        return self.share * self.gradient


@dataclass(frozen=True)
class Unravelled:
    """All measurements of one network.

    blocks: their number. error, recalibrated_error: percent, intact. single: each block removed
    alone. removals, swaps: several random draws for each number of blocks or pairs. paths: of a
    residual network.
    """

    label: str
    residual: bool
    blocks: int
    error: float
    recalibrated_error: float
    single: tuple[Lesion, ...]
    removals: tuple[Lesion, ...]
    swaps: tuple[Lesion, ...]
    paths: tuple[PathLength, ...]


def measure(subject: Subject) -> Unravelled:
    """Measure one model; its seed draws the blocks that are removed or swapped, and the paths."""
    assert subject.training is not None
    model, images, label = subject.model, subject.images, subject.label
    names = removable_blocks(model, get_images(images.batches[0]))
    inputs = [get_images(batch) for batch in subject.training.batches]
    generator = random.Random(subject.seed)

    def measure_errors() -> tuple[float, float]:
        error = images.evaluate(model).top1_error
        with recalibrate_norms(model, inputs):
            return error, images.evaluate(model).top1_error

    def remove(chosen: tuple[str, ...]) -> Lesion:
        with remove_blocks(model, chosen):
            return Lesion(tuple((name,) for name in chosen), *measure_errors())

    def swap(pairs: tuple[Pair, ...]) -> Lesion:
        with swap_blocks(model, pairs):
            return Lesion(pairs, *measure_errors())

    counts = spread_counts(len(names), MAX_COUNTS)
    drops = draw_blocks(names, [count for count in counts if count > 1], DRAWS, generator)
    swaps = _draw_swaps(names, counts, generator)
    error, recalibrated = measure_errors()
    return Unravelled(
        label,
        model.spec.residual,
        len(named_units(model)),
        error,
        recalibrated,
        tuple(remove((name,)) for name in show_progress(names, f"{label}, removing one block")),
        tuple(remove(chosen) for chosen in show_progress(drops, f"{label}, removing several")),
        tuple(swap(pairs) for pairs in show_progress(swaps, f"{label}, swapping")),
        path_gradients(model, images.batches[0], generator) if model.spec.residual else (),
    )


def _draw_swaps(
    names: Sequence[str], counts: Sequence[int], generator: random.Random
) -> list[tuple[Pair, ...]]:
    """Draw `DRAWS` times each number of pairs, each of two blocks of one stage."""
    stages: dict[str, list[str]] = {}
    for name in names:
        stages.setdefault(name.split(".")[0], []).append(name)
    groups = [group for group in stages.values() if len(group) > 1]

    def draw_pair() -> Pair:
        first, second = generator.sample(generator.choice(groups), 2)
        return first, second

    return [
        tuple(draw_pair() for _ in range(count))
        for count in (counts if groups else [])
        for _ in range(DRAWS)
    ]


def path_gradients(
    model: ImageClassifier, batch: Batch, generator: random.Random
) -> tuple[PathLength, ...]:
    """Measure the gradient of the loss of `batch` along single paths of each length, in eval mode.

    The forward pass is that of the whole network. In the backward pass the gradient passes `length`
    blocks through their branch alone and all others through their shortcut alone (Veit et al.,
    section 4.3). Of n blocks, C(n, k) paths pass k branches.
    """
    assert isinstance(batch.targets, Tensor)
    images, targets = get_images(batch)[:PATH_IMAGES], batch.targets[:PATH_IMAGES]
    names = list(model.blocks())
    lengths = []
    for length in [0, *spread_counts(len(names), MAX_LENGTHS - 1)]:
        norms = []
        for _ in range(DRAWS if 0 < length < len(names) else 1):
            branches = set(generator.sample(names, length))
            norms.append(_path_gradient(model, images, targets, branches))
        share = math.comb(len(names), length) / 2 ** len(names)
        lengths.append(PathLength(length, share, statistics.fmean(norms)))
    return tuple(lengths)


def _path_gradient(
    model: ImageClassifier, images: Tensor, targets: Tensor, branches: set[str]
) -> float:
    """Return the gradient's norm along the path through `branches` and the other shortcuts."""
    with eval_mode(model):
        stem = model.get_submodule("stem")(images).detach().requires_grad_()
        x = stem * 1
        for name, block in model.blocks().items():
            branch, shortcut, out = residual_paths(block, x)
            activation = activation_after_add(block, branch + shortcut, out)
            if name in branches:
                shortcut = shortcut.detach()
            else:
                branch = branch.detach()
            x = activation(branch + shortcut)
        loss = nn.functional.cross_entropy(model.classify(x), targets)
        (gradient,) = torch.autograd.grad(loss, [stem], allow_unused=True)
    return 0.0 if gradient is None else gradient.norm().item()


def describe(results: Sequence[Unravelled]) -> dict[str, Any]:
    """Return the values of the page: the errors of each model with blocks removed and swapped."""
    figures = [
        Figure("removed", _plot_single(results), _lesion_numbers(results)),
        Figure("several", _plot_several(results)),
    ]
    if any(each.paths for each in results):
        figures.append(Figure("paths", _plot_paths(results), _path_numbers(results)))
    return {
        "figures": figures,
        "tables": [_single_table(results)],
        "rises": [_median_rises(each) for each in results],
        "jumps": {each.label: _largest_jump(each) for each in results},
        "draws": DRAWS,
        "lengths": {
            each.label: max(each.paths, key=lambda path: path.carried).length
            for each in results
            if each.paths
        },
    }


ANALYSIS = Analysis(
    "unravelled", measure, describe, training_images=TRAINING_IMAGES, result=Unravelled
)


def _errors(lesions: Sequence[Lesion], *, recalibrated: bool = False) -> list[float]:
    """Return the errors of lesions, with the statistics as trained or recomputed."""
    errors = [each.recalibrated_error if recalibrated else each.error for each in lesions]
    return [error for error in errors if error is not None]


def _mean_errors(lesions: Sequence[Lesion], *, recalibrated: bool = False) -> dict[int, float]:
    """Return the mean error by number of blocks or pairs, in ascending order."""
    groups: dict[int, list[Lesion]] = {}
    for each in lesions:
        groups.setdefault(each.count, []).append(each)
    return {
        count: statistics.fmean(_errors(groups[count], recalibrated=recalibrated))
        for count in sorted(groups)
    }


def _median_rises(result: Unravelled) -> tuple[float, float]:
    """Return the median rise in points by removing one block: as trained, and recalibrated."""
    return (
        statistics.median(_errors(result.single)) - result.error,
        statistics.median(_errors(result.single, recalibrated=True)) - result.recalibrated_error,
    )


def _largest_jump(result: Unravelled) -> float:
    """Return the largest step of the mean error from count to count over the total rise."""
    means = _mean_errors((*result.single, *result.removals))
    errors = [result.error, *means.values()]
    rise = max(errors) - errors[0]
    return max(after - before for before, after in pairwise(errors)) / rise if rise > 0 else 0.0


def _plot_single(results: Sequence[Unravelled]) -> Plot:
    with figure_style():
        figure, panels = subplots(2, share="both")
        for axes, recalibrated in zip(panels, (False, True), strict=True):
            for each, color in zip(results, series_colors(len(results)), strict=True):
                errors = _errors(each.single, recalibrated=recalibrated)
                style = line_style(residual=each.residual, color=color)
                label = escape_label(each.label)
                axes.plot(range(1, len(errors) + 1), errors, marker="o", ms=3, label=label, **style)
                intact = each.recalibrated_error if recalibrated else each.error
                axes.axhline(intact, color=color, lw=0.8, ls=":")
            title = "Statistics recomputed" if recalibrated else "Statistics as trained"
            axes.set(title=title, xlabel="block removed, first to last", ylabel="error (%)")
            axes.set_ylim(0, 100)
            integer_ticks(axes)
        add_legend(figure, panels[0])
    return figure


def _plot_several(results: Sequence[Unravelled]) -> Plot:
    with figure_style():
        figure, (removed, swapped) = subplots(2, share="y")
        for each, color in zip(results, series_colors(len(results)), strict=True):
            _plot_counts(removed, each, (*each.single, *each.removals), color)
            _plot_counts(swapped, each, each.swaps, color)
        removed.set(title="Removed", xlabel="blocks removed at once")
        swapped.set(title="Swapped", xlabel="pairs swapped within stages")
        for axes in (removed, swapped):
            axes.set(ylabel="error (%)", ylim=(0, 100))
            integer_ticks(axes)
        add_legend(figure, removed)
    return figure


def _plot_counts(axes: Axes, result: Unravelled, lesions: Sequence[Lesion], color: str) -> None:
    """Plot mean errors by count: a line as trained, crosses with recomputed statistics."""
    style = line_style(residual=result.residual, color=color)
    means, recalibrated = _mean_errors(lesions), _mean_errors(lesions, recalibrated=True)
    axes.plot(
        [0, *means], [result.error, *means.values()], label=escape_label(result.label), **style
    )
    errors = [result.recalibrated_error, *recalibrated.values()]
    axes.plot([0, *recalibrated], errors, "x", color=color, ms=6, mew=1.6)


def _plot_paths(results: Sequence[Unravelled]) -> Plot:
    colors = series_colors(len(results))
    residual = [(each, color) for each, color in zip(results, colors, strict=True) if each.paths]
    with figure_style():
        figure, (alone, carried) = subplots(2)
        for each, color in residual:
            lengths = [path.length for path in each.paths]
            label = escape_label(each.label)
            alone.plot(lengths, [path.gradient or math.nan for path in each.paths], "o-", ms=3,
                       color=color, label=label)  # fmt: skip
            total = sum(path.carried for path in each.paths) or 1.0
            shares = [100 * path.carried / total for path in each.paths]
            carried.plot(lengths, shares, "o-", ms=3, color=color)
            paths = sum(path.share for path in each.paths)
            counts = [100 * path.share / paths for path in each.paths]
            carried.plot(lengths, counts, ":", lw=1.4, color=color)
        alone.set(title="Gradient of one path", yscale="log", ylabel="gradient norm")
        carried.set(title="Share of the gradient (paths: dotted)", ylabel="%", ylim=(0, None))
        for axes in (alone, carried):
            axes.set_xlabel("branches on the path")
            integer_ticks(axes)
        alone.legend(fontsize=9)
    return figure


def _lesion_numbers(results: Sequence[Unravelled]) -> Numbers:
    columns = ("model", "kind", "count", "error", "error with recomputed statistics", "blocks")
    rows: list[Row] = []
    for each in results:
        rows.append((each.label, "intact", 0, each.error, each.recalibrated_error, ""))
        removals = (*each.single, *each.removals)
        for kind, lesions in (("removed", removals), ("swapped", each.swaps)):
            for one in lesions:
                blocks = " ".join(name for names in one.blocks for name in names)
                errors = (one.error, one.recalibrated_error)
                rows.append((each.label, kind, one.count, *errors, blocks))
    return Numbers(columns, tuple(rows))


def _path_numbers(results: Sequence[Unravelled]) -> Numbers:
    rows = tuple(
        (each.label, path.length, path.share, path.gradient, path.carried)
        for each in results
        for path in each.paths
    )
    return Numbers(("model", "length", "share of paths", "gradient", "carried"), rows)


def _single_table(results: Sequence[Unravelled]) -> Table:
    columns = (
        "model",
        "blocks",
        "intact",
        "intact, recomputed",
        "without one block, median",
        "median, recomputed",
        "without one block, worst",
        "worst, recomputed",
    )
    rows: list[Row] = []
    for each in results:
        errors = _errors(each.single)
        recalibrated = _errors(each.single, recalibrated=True)
        rows.append(
            (
                each.label,
                each.blocks,
                each.error,
                each.recalibrated_error,
                statistics.median(errors),
                statistics.median(recalibrated),
                max(errors),
                max(recalibrated),
            )
        )
    return Table("unravelled", columns, tuple(rows))
