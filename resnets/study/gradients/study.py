"""`resnets study gradients`: train, measure, then write the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resnets.config import ConfigError, to_toml
from resnets.data import fit_preprocess, open_data
from resnets.data.dataset.labels import is_multilabel
from resnets.data.dataset.summary import announce
from resnets.report.page import Figure, Numbers, Report, Table, write_page
from resnets.study.convergence_rule import FITTED, chance_level
from resnets.study.gradients.measure import (
    EXPLODED,
    SCHEMES,
    VANISHED,
    Measurement,
    Scheme,
    Trace,
    model_specs,
    schemes_of,
    short_recipe,
    trace_gradients,
)
from resnets.study.gradients.plots import FLOOR, depth_of, plot_layers, plot_training
from resnets.study.trained_models import format_command, label_sets_error
from resnets.utils import environment

FIRST_TO_LAST = 10.0  # ratio of gradient norms above which the text mentions their growth


@dataclass(frozen=True)
class Comparison:
    """A plain network that should train as well as `peer`: its residual twin or a shallower one."""

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
    """The traces of one scheme, and those of them in which a gradient vanishes or breaks off."""

    scheme: Scheme
    traces: tuple[Trace, ...]

    @property
    def failed(self) -> list[Trace]:
        """Traces whose gradient vanished, or was not finite, at any time."""
        states = ("vanishing", "not finite")
        return [trace for trace in self.traces if any(now.state in states for now in trace.judged)]

    @property
    def exploded(self) -> bool:
        """Whether a gradient was too large at any time."""
        return any(now.state == "exploding" for trace in self.traces for now in trace.measurements)


def gradients_study(
    models: Sequence[str], *, data: str | None, iterations: int, seed: int, device: str, out: Path
) -> Report:
    """Train each of `models` by each of `SCHEMES` for `iterations` steps; returns `out`'s report.

    A model that is named with a norm or initialization (NAME:norm=none) is trained with that alone.
    `data` is the embedded digits where None. Raises ConfigError (unknown or repeated models, VGGs,
    fewer than 10 iterations) and DataError.
    """
    if iterations < 10:
        raise ConfigError(f"--iterations {iterations}: too few to show anything; give 10 or more")
    source = data or "digits"
    specs = model_specs(models)
    recipe = short_recipe(specs[0], source, iterations, seed)
    splits = open_data(recipe.data)
    if is_multilabel(splits.train.labels):
        raise label_sets_error(source)
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
        for scheme in schemes_of(spec):
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


def write_gradients(out: Path, traces: Sequence[Trace], **values: Any) -> Report:
    """Write the page on `traces`: which schemes lose the signal, and what that leaves open."""
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
        schemes=scheme_results(traces),
        comparisons=comparisons(traces),
        lowest_error=min(errors, default=None),
        steps=max(trace.measurements[-1].step for trace in traces) + 1,
        vanished=_power(VANISHED),
        exploded=EXPLODED,
        floor=_power(FLOOR),
        first_to_last=FIRST_TO_LAST,
        **values,
    )


def scheme_results(traces: Sequence[Trace]) -> list[SchemeResult]:
    """The traces by scheme, in the order of `SCHEMES`; others follow, and those without are out."""
    used = [trace.scheme for trace in traces]
    schemes = [scheme for scheme in dict.fromkeys((*SCHEMES, *used)) if scheme in used]
    return [
        SchemeResult(scheme, tuple(trace for trace in traces if trace.scheme == scheme))
        for scheme in schemes
    ]


def comparisons(traces: Sequence[Trace]) -> list[Comparison]:
    """Each plain network with batch norm and He initialization with its peers.

    They are its residual twin and the shallowest plain model.
    """
    best = [t for t in traces if t.scheme == SCHEMES[0] and t.training_error is not None]
    plain = sorted((t for t in best if not t.spec.residual), key=depth_of)
    found = []
    for trace in plain:
        peers = [t for t in best if t.spec.residual and t.spec.depths == trace.spec.depths]
        peers += [plain[0]] if depth_of(plain[0]) < depth_of(trace) else []
        found += [Comparison(trace, peer) for peer in peers]
    return found


def _layers_figure(name: str, traces: Sequence[Trace], index: int) -> Figure:
    measured = [(trace, trace.measurements[index]) for trace in traces]
    columns = (
        *("model", "norm", "init", "step", "layer_index", "layer", "gradient_norm"),
        "weight_norm",
    )
    rows = tuple(
        (
            *(trace.spec.name, trace.scheme.norm, trace.scheme.init, now.step, number),
            *(each.layer, each.gradient, each.weight),
        )
        for trace, now in measured
        for number, each in enumerate(now.layers, 1)
    )
    return Figure(f"gradients-{name}", plot_layers(measured), Numbers(columns, rows))


def _training_figure(traces: Sequence[Trace], iterations: int) -> Figure:
    columns = (
        *("model", "norm", "init", "step", "loss", "first_relative", "smallest_relative"),
        "first_over_last",
    )
    rows = tuple(
        (
            *(trace.spec.name, trace.scheme.norm, trace.scheme.init, now.step),
            *map(_finite, (now.loss, now.layers[0].relative, _smallest(now), now.ratio)),
        )
        for trace in traces
        for now in trace.measurements
    )
    plot = plot_training(traces, iterations)
    return Figure("gradients-training", plot, Numbers(columns, rows))


def _table(traces: Sequence[Trace]) -> Table:
    columns = (
        *("model", "scheme", "first / last, start", "first / last, end", "smallest relative"),
        *("state at the end", "last step", "training error (%)"),
    )
    rows = []
    for trace in traces:
        start, end = trace.measurements[0], trace.measurements[-1]
        ratios = map(_finite, (start.ratio, end.ratio, _smallest(end)))
        row = (trace.spec.name, str(trace.scheme), *ratios)
        rows.append((*row, end.state, end.step, trace.training_error))
    return Table("gradient-states", columns, tuple(rows))


def _fitted(trace: Trace) -> bool:
    """Whether the model has fitted its data; at a constant rate nothing levels off here."""
    assert trace.training_error is not None
    return trace.training_error <= FITTED * chance_level(trace.spec.num_classes)


def _smallest(now: Measurement) -> float:
    return min(each.relative for each in now.layers)


def _power(value: float) -> str:
    """A power of ten as it is printed, such as 10⁻⁶."""
    exponent = f"{round(math.log10(value))}"
    return "10" + exponent.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _finite(value: float) -> float | None:
    """None, a gap, where the value is not finite."""
    return value if math.isfinite(value) else None
