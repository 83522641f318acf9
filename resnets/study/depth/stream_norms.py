"""The size of the residual stream of trained transformers, block by block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from resnets.models.transformer.network import Transformer
from resnets.report.figures import figure_style, series_colors, subplots
from resnets.report.page import Figure, Numbers, Row
from resnets.sequence.load import load
from resnets.sequence.text import open_text
from resnets.study.depth.figures import families
from resnets.study.depth.summary import ModelSummary, run_folder

WINDOWS = 16  # of the training text


def stream_norms(model: Transformer, windows: torch.Tensor) -> list[float]:
    """Root mean square of the stream at the embedding and after each block, over `windows` (B, T).

    Several streams are summed, and attention residuals read, as the head would.
    """
    with torch.inference_mode():
        states = [model.collapse(state) for state in model.states(windows)]
    return [float(state.square().mean().sqrt()) for state in states[::2]]  # two sublayers a block


def norms_figure(models: Sequence[ModelSummary]) -> Figure | None:
    """Norm of the stream against the share of the depth, a panel for each family; None of no run.

    Of the first finished seed of each model.
    """
    found: dict[str, list[float]] = {}
    rows: list[Row] = []
    for model in models:
        for cell in model.done[:1]:
            network = load(cell.folder)
            assert isinstance(network, Transformer)
            part = open_text(network.recipe.data, network.spec.context).splits["train"]
            indices = np.arange(min(WINDOWS, len(part)))
            windows, _ = part.get_batch(indices, np.zeros_like(indices))
            found[model.name] = stream_norms(network, windows)
            rows += [
                (model.name, model.depth, block, norm, run_folder(cell))
                for block, norm in enumerate(found[model.name])
            ]
    if not found:
        return None
    curves = [model.curves() for model in models if model.name in found]
    kinds = families(curves)
    depths = sorted({each.depth for each in curves})
    colors = dict(zip(depths, series_colors(len(depths)), strict=True))
    with figure_style():
        figure, panels = subplots(1, len(kinds), share="both")
        for axes, kind in zip(panels, kinds, strict=True):
            for curve in (each for each in curves if each.kind == kind):
                norms = found[curve.name]
                places = np.linspace(0, 1, len(norms))
                axes.plot(places, norms, "o-", ms=3, color=colors[curve.depth], label=curve.size)
            axes.set(title=f"{kind[:1].upper()}{kind[1:]}", xlabel="share of the depth")
            axes.set(ylabel="RMS of the stream", yscale="log")
            axes.legend()
    columns = ("model", "blocks", "block", "root mean square", "run folder")
    return Figure("stream-norms", figure, Numbers(columns, tuple(rows)))
