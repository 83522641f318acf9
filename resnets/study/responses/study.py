"""`resnets study responses`: measure, then write the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from resnets.evaluate.figures.fonts import escape_label
from resnets.report.figures import figure_style, integer_ticks, series_colors, subplots
from resnets.report.page import Figure, Numbers, Report, Table, write_page
from resnets.study.analysis import (
    check_finite,
    draw_split,
    line_style,
    load_models,
    prepare_images,
    study_command,
)
from resnets.study.convergence_rule import caution, cautions
from resnets.study.responses.measure import SEED, ModelResponses, layer_responses
from resnets.utils import environment
from resnets.weights.load import NOTHING_SAID, LoadOptions

NO_DIFFERENCE = 0.02  # mean responses whose ratio is nearer to 1 than this are called equal


@dataclass(frozen=True)
class Comparison:
    """Mean responses that the paper expects to fall from the first of `models` to the last."""

    models: tuple[ModelResponses, ...]

    @property
    def ratio(self) -> float:
        """The largest ratio of a mean response to the one before it: the smallest fall decides."""
        return max(later.mean / earlier.mean for earlier, later in pairwise(self.models))

    @property
    def result(self) -> Literal["smaller", "equal", "larger"]:
        """Whether the responses fall, as in the paper."""
        if abs(self.ratio - 1) < NO_DIFFERENCE:
            return "equal"
        return "smaller" if self.ratio < 1 else "larger"


def responses_study(
    checkpoints: Sequence[Path],
    *,
    data: str | None,
    examples: int,
    device: str,
    out: Path,
    loading: LoadOptions = NOTHING_SAID,
) -> Report:
    """Measure `checkpoints` on `examples` held-out images; returns the report in `out`.

    `data` is the location of the data set, if not the one in the recipes. Raises ConfigError,
    DataError, CheckpointError, and ValueError for a model whose outputs are not finite.
    """
    models = load_models(checkpoints, data, loading)
    split = draw_split(models[0].model, data, "held-out", examples, SEED)
    responses, protocols, doubts = [], {}, {}
    for each in models:
        images = prepare_images(split, each.model, device)
        layers = layer_responses(each.model, images.batches)
        measured = ModelResponses(each.label, each.model.spec, layers)
        check_finite(measured.mean, each.path)
        responses.append(measured)
        protocols[each.label] = images.protocol
        error = images.evaluate(each.model).top1_error
        doubts[each.label] = caution(each.path, error, len(images.classes), errors_of="held-out")
    return write_responses(
        out,
        responses,
        protocols=protocols,
        caution=cautions(doubts),
        commands=[study_command("responses", *checkpoints, examples=examples, data=data)],
        environment=environment.describe(images.device),
    )


def write_responses(out: Path, models: Sequence[ModelResponses], **values: object) -> Report:
    """Write the page: Fig. 7 of these models, their means, and whether the paper's claims hold."""
    return write_page(
        out,
        "study/responses.html.j2",
        figures=[_figure(models)],
        tables=[_table(models)],
        models=models,
        twins=twins(models),
        depths=depths(models),
        **values,
    )


def twins(models: Sequence[ModelResponses]) -> list[Comparison]:
    """Each plain network with each residual network of the same blocks."""
    return [
        Comparison((plain, residual))
        for plain in models
        for residual in models
        if _shape(plain) == _shape(residual) and residual.spec.residual and not plain.spec.residual
    ]


def depths(models: Sequence[ModelResponses]) -> list[Comparison]:
    """Residual models of one block, width and shortcut, from shallow to deep."""
    families: dict[object, list[ModelResponses]] = {}
    for model in models:
        if model.spec.residual:
            key = (model.spec.block, model.spec.widths, model.spec.shortcut)
            families.setdefault(key, []).append(model)
    found = []
    for family in families.values():
        family.sort(key=lambda model: sum(model.spec.depths))
        if sum(family[0].spec.depths) < sum(family[-1].spec.depths):
            found.append(Comparison(tuple(family)))
    return found


def _shape(model: ModelResponses) -> tuple[object, ...]:
    return model.spec.block, model.spec.depths, model.spec.widths


def _figure(models: Sequence[ModelResponses]) -> Figure:
    """Fig. 7: layers in their original order, and sorted by response."""
    ordered = sorted(models, key=lambda model: (len(model.layers), model.spec.residual))
    sizes = sorted({len(model.layers) for model in models})
    colors = dict(zip(sizes, series_colors(len(sizes)), strict=True))
    with figure_style():
        figure, (original, by_size) = subplots(1, 2, share="y")
        for model in ordered:
            look = line_style(residual=model.spec.residual, color=colors[len(model.layers)])
            layers = range(1, len(model.layers) + 1)
            original.plot(layers, [layer.std for layer in model.layers], **look)
            name = escape_label(f"{model.label}, mean {model.mean:.2f}")
            by_size.plot(layers, model.sorted, label=name, **look)
        original.set(title="Original order", xlabel="3x3 layer")
        by_size.set(title="Sorted", xlabel="3x3 layers, largest response first")
        for axes in (original, by_size):
            axes.set(ylabel="standard deviation", ylim=(0, None))
            integer_ticks(axes)
        by_size.legend(fontsize=9)
    rows = tuple(
        (model.label, index, layer.layer, layer.std)
        for model in models
        for index, layer in enumerate(model.layers, 1)
    )
    return Figure("responses", figure, Numbers(("model", "layer_index", "layer", "std"), rows))


def _table(models: Sequence[ModelResponses]) -> Table:
    rows = []
    for model in models:
        stds = model.sorted
        rows.append((model.label, len(stds), model.mean, stds[len(stds) // 2], stds[-1], stds[0]))
    columns = ("model", "3x3 layers", "mean", "median", "smallest", "largest")
    return Table("response-means", columns, tuple(rows))
