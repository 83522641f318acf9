"""Similarity of representations: linear CKA between the blocks of networks, and between networks.

Kornblith, Norouzi, Lee and Hinton, "Similarity of Neural Network Representations Revisited", ICML
2019; the unbiased estimate of HSIC is that of Song et al. 2012, as in Nguyen, Raghu and Kornblith,
"Do Wide and Deep Networks Learn the Same Things?", ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure as Plot
from matplotlib.patches import Patch
from torch import Tensor

from resnets.config import ModelSpec
from resnets.evaluate.figures.fonts import escape_label
from resnets.models import ImageClassifier
from resnets.models.block_config import eval_mode
from resnets.report.figure_style import figure_style, integer_ticks, subplots
from resnets.report.page import Figure, Numbers, Table
from resnets.study.analyses.base import Analysis, Subject
from resnets.study.trained_models import LabeledImages, get_images, iter_units, named_units

SIMILAR = 0.9  # CKA from which on two blocks are called similar
PANEL = (3.6, 3.6)  # inches
COLORS, LEGEND_VALUES = "magma", (0.0, 0.25, 0.5, 0.75, 1.0)
MAX_IMAGES = 400  # a block's Gram matrix has their square


@dataclass(frozen=True, eq=False)
class Grams:
    """Inner products of all pairs of images after each unit of one model: grams is (U, N, N)."""

    label: str
    spec: ModelSpec
    names: tuple[str, ...]
    grams: Tensor


@dataclass(frozen=True)
class Similarity:
    """CKA of the units of one model (rows) with those of another or of itself."""

    one: Grams
    other: Grams
    cka: tuple[tuple[float, ...], ...]

    @property
    def similar(self) -> float:
        """Percentage of the pairs of different units of one model that are similar."""
        rows = [[value for j, value in enumerate(row) if i != j] for i, row in enumerate(self.cka)]
        values = [value for row in rows for value in row]
        return 100 * sum(value >= SIMILAR for value in values) / max(1, len(values))

    @property
    def longest_run(self) -> int:
        """Length of the longest run of units of one model of which all pairs are similar."""
        count, longest = len(self.cka), 1
        for first in range(count):
            last = first
            while last + 1 < count and all(
                self.cka[last + 1][unit] >= SIMILAR for unit in range(first, last + 1)
            ):
                last += 1
            longest = max(longest, last - first + 1)
        return longest

    @property
    def offset(self) -> float:
        """`relative_distance` of the two models."""
        return relative_distance(self.cka)


def relative_distance(cka: Sequence[Sequence[float]]) -> float:
    """Return the mean distance in relative depth (0 to 1) from each unit to the most similar one.

    cka: of the units of one model (rows) with those of another.
    """
    height, width = len(cka), len(cka[0])
    distances = (
        abs((i + 0.5) / height - (row.index(max(row)) + 0.5) / width) for i, row in enumerate(cka)
    )
    return sum(distances) / height


def gram_matrices(model: ImageClassifier, images: LabeledImages) -> Tensor:
    """Return the inner products (U, N, N) of the flattened outputs of each unit, float64."""
    x = torch.cat([get_images(batch) for batch in images.batches])[:MAX_IMAGES]
    grams = []
    with eval_mode(model), torch.inference_mode():
        for parts in zip(*(iter_units(model, part) for part in x.split(50)), strict=True):
            flat = torch.cat([out for _, _, _, out in parts]).flatten(1)
            flat = flat - flat.mean(0)  # CKA is invariant to it; reduces rounding
            grams.append((flat @ flat.T).cpu().double())
    return torch.stack(grams)


def cka(one: Tensor, other: Tensor) -> Tensor:
    """Return the linear CKA (U, V) of each of the Gram matrices (U, N, N) with each of (V, N, N).

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with the unbiased estimate of HSIC: without it, all
    representations look similar if there are more features than images. Raises
    ValueError for N < 4.
    """
    if one.shape[1] < 4:
        raise ValueError(f"CKA needs at least 4 images, got {one.shape[1]}")

    def norms(grams: Tensor) -> Tensor:
        return torch.stack([_hsic(each[None], each[None])[0, 0] for each in grams])

    scale = (norms(one)[:, None] * norms(other)[None]).clamp_min(1e-300).sqrt()
    return _hsic(one, other) / scale


def _hsic(one: Tensor, other: Tensor) -> Tensor:
    """Return the unbiased HSIC (U, V), times N (N - 3), of matrices (U, N, N) and (V, N, N)."""
    count = one.shape[1]
    k, m = (each - torch.diag_embed(each.diagonal(dim1=1, dim2=2)) for each in (one, other))
    trace = k.flatten(1) @ m.flatten(1).T
    sums = k.sum((1, 2))[:, None] * m.sum((1, 2))[None] / ((count - 1) * (count - 2))
    return trace + sums - 2 / (count - 2) * (k.sum(2) @ m.sum(2).T)


def measure(subject: Subject) -> Grams:
    """Compute the Gram matrices of one model."""
    model = subject.model
    grams = gram_matrices(model, subject.images)
    return Grams(subject.label, model.spec, tuple(named_units(model)), grams)


def compare(one: Grams, other: Grams) -> Similarity:
    """Compute the CKA of the units of two models, or of one with itself."""
    return Similarity(one, other, tuple(map(tuple, cka(one.grams, other.grams).tolist())))


def describe(results: Sequence[Grams]) -> dict[str, Any]:
    """Return the values of the page: CKA within each model, and with the next one."""
    within = [compare(each, each) for each in results]
    between = [compare(one, other) for one, other in pairwise(results)]
    rows = tuple(
        (pair.one.label, name, pair.other.label, another, value)
        for pair in (*within, *between)
        for name, row in zip(pair.one.names, pair.cka, strict=True)
        for another, value in zip(pair.other.names, row, strict=True)
    )
    columns = ("model", "block", "other model", "other block", "cka")
    figures = [Figure("within", _plot(within), Numbers(columns, rows))]
    if between:
        figures.append(Figure("between", _plot(between)))
    deviations = [_sampling_deviation(pair) for pair in within]
    table = tuple(
        (pair.one.label, len(pair.cka), pair.similar, pair.longest_run, deviation)
        for pair, deviation in zip(within, deviations, strict=True)
    )
    names = (
        "model",
        "blocks",
        "similar pairs (%)",
        "longest run of similar blocks",
        "difference between halves of the images",
    )
    return {
        "figures": figures,
        "tables": [Table("similarity", names, table)],
        "within": within,
        "between": between,
        "similar": SIMILAR,
        "sampling": max(deviations),
        "images": min(MAX_IMAGES, results[0].grams.shape[1]),
    }


def _sampling_deviation(pair: Similarity) -> float:
    """Return the mean absolute difference of a model's CKA between two halves of the images."""
    half = pair.one.grams.shape[1] // 2
    if half < 4:
        return float("nan")
    parts = (pair.one.grams[:, :half, :half], pair.one.grams[:, half:, half:])
    first, second = (cka(part, part) for part in parts)
    return (first - second).abs().mean().item()


def _plot(pairs: Sequence[Similarity]) -> Plot:
    with figure_style():
        figure, panels = subplots(len(pairs), panel=PANEL)
        for axes, pair in zip(panels, pairs, strict=True):
            height, width = len(pair.cka), len(pair.cka[0])
            extent = (0.5, width + 0.5, 0.5, height + 0.5)
            axes.imshow(
                pair.cka, origin="lower", vmin=0, vmax=1, cmap=COLORS, extent=extent,
                aspect="auto",
            )  # fmt: skip
            axes.grid(visible=False)
            axes.set(xlabel=escape_label(f"block of {pair.other.label}"))
            axes.set(ylabel=escape_label(f"block of {pair.one.label}"))
            integer_ticks(axes)
        scale = [
            Patch(color=colormaps[COLORS](value), label=f"{value:g}") for value in LEGEND_VALUES
        ]
        figure.legend(handles=scale, loc="outside upper left", ncols=len(LEGEND_VALUES))
    return figure


ANALYSIS = Analysis("similarity", measure, describe)
