"""`resnets.study.gradients`: train, measure, then write the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot
from matplotlib.lines import Line2D

from resnets.config import ConfigError, to_toml
from resnets.data import fit_preprocess, open_data
from resnets.data.dataset.labels import is_multilabel
from resnets.data.dataset.summary import announce
from resnets.report.figure_style import LINE, figure_style, integer_ticks, series_colors, subplots
from resnets.report.page import Figure, Numbers, StudyResult, Table, write_page
from resnets.report.render import power_of_ten
from resnets.study.convergence_rule import FITTED, chance_level
from resnets.study.gradients.measure import (
    EXPLODED,
    SCHEMES,
    VANISHED,
    Measurement,
    Scheme,
    Trace,
    choose_schemes,
    list_schemes,
    model_specs,
    short_recipe,
    trace_gradients,
)
from resnets.study.grid.model_names import family_name
from resnets.study.trained_models import format_command, line_style, multilabel_error
from resnets.utils.api_function import api_function
from resnets.utils.files.locks import page_folder
from resnets.utils.machine import environment

FIRST_TO_LAST = 10.0  # ratio of gradient norms above which the text mentions their growth
FLOOR, CEILING = 1e-12, 1e5  # of the logarithmic axis
PANEL = (4.3, 3.3)  # inches
LONG_NAME = 32  # characters, from which on the legend has one column


@dataclass(frozen=True)
class Comparison:
    """A plain network and a `peer` that it should match in training error.

    The peer is its residual counterpart or a shallower plain network.
    """

    trace: Trace
    peer: Trace

    @property
    def converged(self) -> bool:
        """Whether the better of the two has fitted its data: only then is a comparison valid."""
        return _fitted(self.trace) or _fitted(self.peer)

    @property
    def worse(self) -> bool:
        """Whether the plain network has the higher training error."""
        assert self.trace.training_error is not None
        assert self.peer.training_error is not None
        return self.trace.training_error > self.peer.training_error

    @property
    def vanishing(self) -> int:
        """Measurements in which a gradient of the plain network vanishes."""
        return sum(now.state == "vanishing" for now in self.trace.measurements)


@dataclass(frozen=True)
class SchemeResult:
    """The traces of one scheme."""

    scheme: Scheme
    traces: tuple[Trace, ...]

    @property
    def failed(self) -> list[Trace]:
        """Traces whose gradient vanished, or was not finite, at any time."""
        states = ("vanishing", "not finite")
        return [
            trace
            for trace in self.traces
            if any(now.state in states for now in trace.after_zero_init)
        ]

    @property
    def exploded(self) -> bool:
        """Whether a gradient was too large at any time."""
        return any(now.state == "exploding" for trace in self.traces for now in trace.measurements)


@api_function
def gradients(
    models: str | Sequence[str],
    *,
    data: str | PathLike[str] | None = None,
    iterations: int = 200,
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    device: str = "auto",
) -> StudyResult:
    """Gradients by layer, with and without batch norm and He initialization.

        result = resnets.study.gradients(["cifar-plain56", "cifar-resnet56"])
        result.tables["gradient-states"]  # a row of each model and scheme

    Args:
        models: Catalog names; NAME:FIELD=VALUE for another field of the model. One named with a
            norm or initialization (NAME:norm=none) is trained only with that.
        data: Data set: a name or a path; the embedded digits by default.
        iterations: Training steps of each model, at least 10.
        seed: Seed of initialization and order.
        out: Folder; default runs/study-gradients-N.
        device: auto, cpu, cuda, cuda:1, mps.

    Raises ConfigError (unknown or repeated models, VGGs) and DataError.
    """
    with page_folder(out, "study-gradients") as folder:
        names = [models] if isinstance(models, str) else [*models]
        source = "digits" if data is None else fspath(data)
        return _train_and_measure(names, source, iterations, seed, device, folder)


def _train_and_measure(
    models: Sequence[str], source: str, iterations: int, seed: int, device: str, out: Path
) -> StudyResult:
    """Train each of `models` by each of `SCHEMES`, and write the page."""
    if iterations < 10:
        raise ConfigError(f"--iterations {iterations}: too few to show anything; give 10 or more")
    specs = model_specs(models)
    recipe = short_recipe(specs[0], source, iterations, seed)
    splits = open_data(recipe.data)
    if is_multilabel(splits.train.labels):
        raise multilabel_error(source)
    recipe = replace(recipe, data=replace(recipe.data, value_range=splits.value_range))
    announce(splits)
    preprocessor = fit_preprocess(splits.train, recipe.data, splits.train.channels)
    fitted: dict[str, Any] = {
        "num_classes": len(splits.classes),
        "in_channels": splits.train.channels,
        "input_size": preprocessor.spec.size,
    }
    chosen = environment.pick_device(device)
    traces = []
    for spec in specs:
        for scheme in choose_schemes(spec):
            model = replace(spec, norm=scheme.norm, init=scheme.init, **fitted)
            deep = short_recipe(spec, source, iterations, seed).recompute
            changed = replace(recipe, model=model, recompute=deep)
            traces.append(trace_gradients(changed, splits, preprocessor, chosen))
    names = ",".join(models)
    return write_gradients(
        out,
        traces,
        data=splits.train.description,
        iterations=iterations,
        seed=seed,
        recipe=to_toml(replace(recipe, model=replace(specs[0], **fitted))),
        commands=[
            format_command("gradients", names, data=source, iterations=iterations, seed=seed)
        ],
        environment=environment.describe(chosen),
    )


def write_gradients(out: Path, traces: Sequence[Trace], **values: Any) -> StudyResult:
    """Write the page of `traces`; `values` are those of study/gradients.html.j2."""
    errors = [trace.training_error for trace in traces if trace.training_error is not None]
    return write_page(
        out,
        "study/gradients.html.j2",
        figures=[
            _layers_figure("start", traces, 0),
            _layers_figure("end", traces, -1),
            _training_figure(traces, values["iterations"]),
        ],
        tables=[_table(traces)],
        schemes=group_by_scheme(traces),
        comparisons=list_comparisons(traces),
        lowest_error=min(errors, default=None),
        steps=max(trace.measurements[-1].step for trace in traces) + 1,
        vanished=power_of_ten(round(math.log10(VANISHED))),
        exploded=EXPLODED,
        floor=power_of_ten(round(math.log10(FLOOR))),
        first_to_last=FIRST_TO_LAST,
        **values,
    )


def group_by_scheme(traces: Sequence[Trace]) -> list[SchemeResult]:
    """Group the traces by scheme, in the order of `list_schemes`."""
    return [
        SchemeResult(scheme, tuple(trace for trace in traces if trace.scheme == scheme))
        for scheme in list_schemes(traces)
    ]


def list_comparisons(traces: Sequence[Trace]) -> list[Comparison]:
    """Compare each plain network with batch norm and He initialization with its peers.

    Its peers are its residual counterpart and the shallowest plain model.
    """
    best = [t for t in traces if t.scheme == SCHEMES[0] and t.training_error is not None]
    plain = sorted((t for t in best if not t.spec.residual), key=lambda trace: trace.depth)
    comparisons = []
    for trace in plain:
        peers = [t for t in best if t.spec.residual and t.spec.depths == trace.spec.depths]
        peers += [plain[0]] if plain[0].depth < trace.depth else []
        comparisons += [Comparison(trace, peer) for peer in peers]
    return comparisons


def _layers_figure(name: str, traces: Sequence[Trace], index: int) -> Figure:
    measured = [(trace, trace.measurements[index]) for trace in traces]
    columns = (
        "model",
        "norm",
        "init",
        "step",
        "layer_index",
        "layer",
        "gradient_norm",
        "weight_norm",
    )
    rows = tuple(
        (
            trace.spec.name,
            trace.scheme.norm,
            trace.scheme.init,
            now.step,
            number,
            each.layer,
            each.gradient,
            each.weight,
        )
        for trace, now in measured
        for number, each in enumerate(now.layers, 1)
    )
    return Figure(f"gradients-{name}", _plot_layers(measured), Numbers(columns, rows))


def _training_figure(traces: Sequence[Trace], iterations: int) -> Figure:
    columns = (
        "model",
        "norm",
        "init",
        "step",
        "loss",
        "first_relative",
        "smallest_relative",
        "first_over_last",
    )
    rows = tuple(
        (
            trace.spec.name,
            trace.scheme.norm,
            trace.scheme.init,
            now.step,
            *map(_none_if_infinite, (now.loss, now.layers[0].relative, now.smallest, now.ratio)),
        )
        for trace in traces
        for now in trace.measurements
    )
    plot = _plot_training(traces, iterations)
    return Figure("gradients-training", plot, Numbers(columns, rows))


def _table(traces: Sequence[Trace]) -> Table:
    columns = (
        "model",
        "scheme",
        "first / last, start",
        "first / last, end",
        "smallest relative",
        "state at the end",
        "last step",
        "training error (%)",
    )
    rows = []
    for trace in traces:
        start, end = trace.measurements[0], trace.measurements[-1]
        ratios = map(_none_if_infinite, (start.ratio, end.ratio, end.smallest))
        row = (trace.spec.name, str(trace.scheme), *ratios)
        rows.append((*row, end.state, end.step, trace.training_error))
    return Table("gradient-states", columns, tuple(rows))


def _fitted(trace: Trace) -> bool:
    """Return whether the model has fitted its data; with a constant rate no error levels off."""
    assert trace.training_error is not None
    return trace.training_error <= FITTED * chance_level(trace.spec.num_classes)


def _none_if_infinite(value: float) -> float | None:
    """Return the value, or None (a gap in tables) if it is not finite."""
    return value if math.isfinite(value) else None


def _plot_layers(measured: Sequence[tuple[Trace, Measurement]]) -> Plot:
    """Plot gradient norm over weight norm by layer, each trace at one measurement."""
    deepest = max(len(now.layers) for _, now in measured)
    styles = _line_styles([trace for trace, _ in measured])
    with figure_style():
        schemes = list_schemes([trace for trace, _ in measured])
        figure, panels = _panels(styles, len(schemes))
        for axes, scheme in zip(panels, schemes, strict=True):
            for trace, now in measured:
                if trace.scheme == scheme and now.state != "not finite":
                    values = [max(FLOOR, each.relative) for each in now.layers]
                    axes.plot(range(1, len(values) + 1), values, **styles[trace.spec.name])
            _format_axes(axes, str(scheme), "layer, first to last", deepest)
    return figure


def _plot_training(traces: Sequence[Trace], iterations: int) -> Plot:
    """Plot the first layer's gradient norm over weight norm against the step."""
    styles = _line_styles(traces)
    with figure_style():
        schemes = list_schemes(traces)
        figure, panels = _panels(styles, len(schemes))
        for axes, scheme in zip(panels, schemes, strict=True):
            for trace in (each for each in traces if each.scheme == scheme):
                points = [
                    (now.step, max(FLOOR, now.layers[0].relative))
                    for now in trace.measurements
                    if now.state != "not finite"
                ]
                if not points:
                    continue
                style = styles[trace.spec.name]
                axes.plot(*zip(*points, strict=True), **style)
                if trace.training_error is None:
                    axes.plot(*points[-1], "x", color=style["color"], ms=7, mew=1.8, clip_on=False)
            _format_axes(axes, str(scheme), "step (× ended early)", iterations)
    return figure


def _line_styles(traces: Sequence[Trace]) -> dict[str, dict[str, Any]]:
    """Return each model's line style: one color per depth and form, plain networks dashed."""
    kinds = sorted({(trace.depth, _form_name(trace)) for trace in traces})
    colors = dict(zip(kinds, series_colors(len(kinds)), strict=True))
    return {
        trace.spec.name: line_style(
            residual=trace.spec.residual, color=colors[trace.depth, _form_name(trace)]
        )
        for trace in traces
    }


def _form_name(trace: Trace) -> str:
    """Return the family of a model regardless of its norm; "" for plain and original networks."""
    name = family_name(replace(trace.spec, norm="batch")) if trace.spec.residual else ""
    return "" if name == "residual" else name


def _panels(styles: Mapping[str, dict[str, Any]], count: int) -> tuple[Plot, list[Axes]]:
    """Return a figure with a panel per scheme, and the legend of the models above them."""
    figure, panels = subplots(count, panel=PANEL, share="both")
    handles = [Line2D([], [], label=name, **style) for name, style in styles.items()]
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=1 if max(map(len, styles)) > LONG_NAME else min(2, len(handles)),
    )
    return figure, panels


def _format_axes(axes: Axes, title: str, xlabel: str, last: int) -> None:
    axes.set(title=title, xlabel=xlabel, ylabel="gradient / weight", xlim=(0, last + 1))
    axes.set(yscale="log", ylim=(FLOOR / 3, CEILING))
    axes.minorticks_off()
    integer_ticks(axes)
    for low, high in ((FLOOR / 3, VANISHED), (EXPLODED, CEILING)):
        axes.axhspan(low, high, color=LINE, alpha=0.45, lw=0, zorder=0)
