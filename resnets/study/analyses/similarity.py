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
from matplotlib.patches import Patch
from torch import Tensor

from resnets.config import ModelSpec
from resnets.evaluate.figures.fonts import escape_label
from resnets.models import ImageClassifier
from resnets.models.block_config import eval_mode
from resnets.report.figures import figure_style, integer_ticks, subplots
from resnets.report.page import Figure, Numbers, Table
from resnets.study.analysis import LabeledImages, after_stem, images_of, units
from resnets.study.trained import Analysis, Subject

ALIKE = 0.9  # CKA from which on two blocks are called alike
PLANE = (3.6, 3.6)  # inches of a panel
COLORS, SHOWN = "magma", (0.0, 0.25, 0.5, 0.75, 1.0)  # of the legend
MOST = 400  # images: a block's Gram matrix has their square


@dataclass(frozen=True, eq=False)
class Grams:
    """The inner products of all pairs of images after each unit of one model, (U, N, N)."""

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
    def alike(self) -> float:
        """Share of the pairs of different units that are alike, in percent; of one model."""
        rows = [[value for j, value in enumerate(row) if i != j] for i, row in enumerate(self.cka)]
        values = [value for row in rows for value in row]
        return 100 * sum(value >= ALIKE for value in values) / max(1, len(values))

    @property
    def run(self) -> int:
        """The most units one after another of which all pairs are alike; of one model."""
        count, longest = len(self.cka), 1
        for first in range(count):
            last = first
            while last + 1 < count and all(
                self.cka[last + 1][unit] >= ALIKE for unit in range(first, last + 1)
            ):
                last += 1
            longest = max(longest, last - first + 1)
        return longest

    @property
    def offset(self) -> float:
        """Mean distance in relative depth (0 to 1) of each unit and the most similar other one."""
        height, width = len(self.cka), len(self.cka[0])
        return (
            sum(
                abs((i + 0.5) / height - (row.index(max(row)) + 0.5) / width)
                for i, row in enumerate(self.cka)
            )
            / height
        )


def gram_matrices(model: ImageClassifier, images: LabeledImages) -> Tensor:
    """Inner products (U, N, N) of the flattened outputs of each unit, float64."""
    x = torch.cat([images_of(batch) for batch in images.batches])[:MOST]
    found = []
    with eval_mode(model), torch.inference_mode():
        parts = [after_stem(model, part) for part in x.split(50)]
        for unit in units(model).values():
            parts = [unit(part) for part in parts]
            flat = torch.cat(parts).flatten(1)
            flat = flat - flat.mean(0)  # changes nothing but rounding
            found.append((flat @ flat.T).double().cpu())
    return torch.stack(found)


def cka(one: Tensor, other: Tensor) -> Tensor:
    """Linear CKA (U, V) of each of the Gram matrices (U, N, N) with each of (V, N, N).

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with the unbiased estimate of HSIC: without it, more
    features than images make all representations look alike. Raises ValueError for N < 4.
    """
    if one.shape[1] < 4:
        raise ValueError(f"CKA needs at least 4 images, got {one.shape[1]}")

    def norms(grams: Tensor) -> Tensor:
        return torch.stack([_hsic(each[None], each[None])[0, 0] for each in grams])

    scale = (norms(one)[:, None] * norms(other)[None]).clamp_min(1e-300).sqrt()
    return _hsic(one, other) / scale


def _hsic(one: Tensor, other: Tensor) -> Tensor:
    """The unbiased estimates of HSIC (U, V), times N (N - 3), from (U, N, N) and (V, N, N)."""
    count = one.shape[1]
    k, m = (each - torch.diag_embed(each.diagonal(dim1=1, dim2=2)) for each in (one, other))
    trace = k.flatten(1) @ m.flatten(1).T
    sums = k.sum((1, 2))[:, None] * m.sum((1, 2))[None] / ((count - 1) * (count - 2))
    return trace + sums - 2 / (count - 2) * (k.sum(2) @ m.sum(2).T)


def measure(subject: Subject) -> Grams:
    """The Gram matrices of one model."""
    model = subject.model
    grams = gram_matrices(model, subject.images)
    return Grams(subject.label, model.spec, tuple(units(model)), grams)


def compare(one: Grams, other: Grams) -> Similarity:
    """The CKA of the units of two models, or of one with itself."""
    return Similarity(one, other, tuple(map(tuple, cka(one.grams, other.grams).tolist())))


def describe(results: Sequence[Grams]) -> dict[str, Any]:
    """CKA within each model, and between each model and the next."""
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
    table = tuple(
        (pair.one.label, len(pair.cka), pair.alike, pair.run, _sampling(pair)) for pair in within
    )
    names = (
        *("model", "blocks", "pairs alike (%)", "longest run of blocks alike"),
        "difference between halves of the images",
    )
    return {
        "figures": figures,
        "tables": [Table("similarity", names, table)],
        "within": within,
        "between": between,
        "alike": ALIKE,
        "sampling": max(_sampling(pair) for pair in within),
        "images": min(MOST, results[0].grams.shape[1]),
    }


def _sampling(pair: Similarity) -> float:
    """Mean absolute difference of CKA within a model between the two halves of the images."""
    half = pair.one.grams.shape[1] // 2
    if half < 4:
        return float("nan")
    parts = (pair.one.grams[:, :half, :half], pair.one.grams[:, half:, half:])
    first, second = (cka(part, part) for part in parts)
    return (first - second).abs().mean().item()


def _plot(pairs: Sequence[Similarity]) -> Any:
    columns = min(2, len(pairs))
    with figure_style():
        figure, panels = subplots(-(-len(pairs) // columns), columns, panel=PLANE)
        for axes in panels[len(pairs) :]:
            axes.set_visible(False)
        for axes, pair in zip(panels, pairs, strict=False):
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
        scale = [Patch(color=colormaps[COLORS](value), label=f"{value:g}") for value in SHOWN]
        figure.legend(handles=scale, loc="outside upper left", ncols=len(SHOWN))
    return figure


ANALYSIS = Analysis("similarity", measure, describe)
