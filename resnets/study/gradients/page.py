"""The report on gradient norms: which schemes lose the signal, and what that leaves unexplained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from resnets.study.convergence import FITTED, guessing
from resnets.study.gradients.figures import FLOOR, depth_of, draw_layers, draw_training
from resnets.study.gradients.gradients import (
    EXPLODED,
    SCHEMES,
    VANISHED,
    Measurement,
    Scheme,
    Trace,
)
from resnets.study.page import Figure, Finding, Numbers, Page, Section, Table

FIRST_TO_LAST = 10.0  # a ratio of gradient norms beyond which growth is worth a sentence


def gradients_page(
    traces: Sequence[Trace],
    *,
    data: str,
    iterations: int,
    seed: int,
    recipe: str,
    commands: tuple[str, ...],
    environment: Mapping[str, Any],
) -> Page:
    """The report on `traces`; all that it states is computed from them."""
    remains = degradation_remains(traces)
    return Page(
        title="Gradients by layer",
        lead=_lead(traces, remains),
        findings=(*(_scheme_finding(scheme, traces) for scheme in SCHEMES), *remains),
        sections=(
            _section("at random initialization", "start", traces, 0),
            _section(f"after {iterations:,} steps", "end", traces, -1),
            _training_section(traces, iterations),
            _degradation_section(traces, remains),
        ),
        protocol=(
            f"{iterations:,} steps on {data}, seed {seed}, float32, no augmentation; the recipe is "
            "the paper's at its first rate, held constant. A gradient is that of the mean "
            "cross-entropy of a training batch by the weight of one convolution, or of the head, "
            "in training mode; projections on shortcuts are left out. Norms are L2. "
            f"A gradient is said to vanish where some layer's is below {_power(VANISHED)} of its "
            "weight's norm (100,000 equal steps at rate 0.1 would change that layer by 1%), and "
            f"to explode where one is above {EXPLODED:g} times it (one step overwrites the layer)."
            " A training whose loss is no number, or whose layers have no gradient at all, ends "
            "there."
        ),
        commands=commands,
        environment=environment,
        recipe=recipe,
    )


def degradation_remains(traces: Sequence[Trace]) -> tuple[Finding, ...]:
    """Plain nets that train worse than a better net though the gradient reaches all their layers.

    Each plain net with batch norm and He initialisation is held against its residual twin and
    against the shallowest plain net.
    """
    best = [t for t in traces if t.scheme == SCHEMES[0] and t.training_error is not None]
    plain = sorted((t for t in best if not t.spec.residual), key=depth_of)
    findings = []
    for trace in plain:
        peers = [t for t in best if t.spec.residual and t.spec.depths == trace.spec.depths]
        peers += [plain[0]] if depth_of(plain[0]) < depth_of(trace) else []
        for peer in peers:
            findings.append(_against(trace, peer))
    return tuple(findings)


def _against(trace: Trace, peer: Trace) -> Finding:
    assert trace.training_error is not None
    assert peer.training_error is not None
    worse = trace.training_error > peer.training_error
    converged = _fitted(trace) or _fitted(peer)
    lost = sum(measured.state == "vanishes" for measured in trace.measurements)
    reached = (
        f"and no gradient of {trace.spec.name} vanishes"
        if not lost
        else f"and a gradient of {trace.spec.name} vanishes in {lost} of "
        f"{len(trace.measurements)} measurements"
    )
    return Finding(
        label=f"{trace.spec.name} against {peer.spec.name}, {trace.scheme}",
        value=f"{trace.training_error:.1f}% / {peer.training_error:.1f}%",
        detail=f"training error: {'higher' if worse else 'not higher'}, {reached}"
        if converged
        else f"training error: neither has converged, so no conclusion, {reached}",
        tone="open" if not converged else "bad" if worse else "good",
    )


def _lead(traces: Sequence[Trace], remains: Sequence[Finding]) -> str:
    steps = max(trace.measurements[-1].step for trace in traces) + 1
    cured = not any(_loses(trace) for trace in traces if trace.scheme == SCHEMES[0])
    broken = [scheme for scheme in SCHEMES[1:] if any(map(_loses, _of(traces, scheme)))]
    first = (
        "With batch norm and He initialisation no gradient vanishes"
        if cured
        else "Even with batch norm and He initialisation a gradient vanishes"
    )
    first += f" in {steps:,} step{'' if steps == 1 else 's'}"
    if broken:
        first += "; it does, or the training breaks off, with " + "; with ".join(map(str, broken))
    if not remains:
        return f"{first}."
    judged = [finding for finding in remains if finding.tone != "open"]
    if not judged:
        lowest = min(t.training_error for t in traces if t.training_error is not None)
        return (
            f"{first}. The networks have not converged (lowest training error {lowest:.1f}%), so "
            "how well they train is not compared."
        )
    worse = sum(finding.tone == "bad" for finding in judged)
    if not worse:
        return f"{first}. No degradation is seen in so short a training."
    return (
        f"{first}. Yet deep plain nets train worse in {worse} of {len(judged)} "
        f"comparison{'' if len(judged) == 1 else 's'}: "
        + ("something other than vanishing gradients is at work." if cured else "see below.")
    )


def _scheme_finding(scheme: Scheme, traces: Sequence[Trace]) -> Finding:
    mine = _of(traces, scheme)
    lost = [trace.spec.name for trace in mine if _loses(trace)]
    explodes = any(now.state == "explodes" for trace in mine for now in trace.measurements)
    parts = [
        f"{trace.spec.name}: {trace.measurements[0].state} at the start, "
        f"{trace.measurements[-1].state} at step {trace.measurements[-1].step:,}"
        for trace in mine
    ]
    return Finding(
        label=str(scheme),
        value=f"fails in {len(lost)} of {len(mine)}" if lost else "reaches every layer",
        detail="; ".join(parts),
        tone="bad" if lost else "open" if explodes else "good",
    )


def _section(when: str, name: str, traces: Sequence[Trace], index: int) -> Section:
    measured = [(trace, trace.measurements[index]) for trace in traces]
    figure = Figure(
        name=f"gradients-{name}",
        figure=draw_layers(measured, narrow=False),
        narrow=draw_layers(measured, narrow=True),
        caption=f"Norm of the gradient over the norm of the weight, by layer, {when}. Plain nets "
        f"dashed, residual nets solid. Shaded: vanishing (below {_power(VANISHED)}) and exploding "
        f"(above {EXPLODED:g}). What is below {_power(FLOOR)} is drawn there.",
        alt=f"Gradient norms by layer {when} in four panels, one for each scheme",
        numbers=Numbers(
            ("net", "norm", "init", "step", "layer_index", "layer", "gradient_norm", "weight_norm"),
            tuple(
                (trace.spec.name, trace.scheme.norm, trace.scheme.init, now.step, number,
                 each.layer, each.gradient, each.weight)
                for trace, now in measured
                for number, each in enumerate(now.layers, 1)
            ),
        ),
    )  # fmt: skip
    return Section(f"Gradients {when}", _growth(measured, when), (figure,))


def _growth(measured: Sequence[tuple[Trace, Measurement]], when: str) -> str:
    """What happens between the last and the first layer with batch norm and He initialisation."""
    best = [(trace, now) for trace, now in measured if trace.scheme == SCHEMES[0]]
    ratios = ", ".join(f"{now.ratio:.3g} in {trace.spec.name}" for trace, now in best)
    text = (
        "First over last convolution's gradient norm, with batch norm and He initialisation, "
        f"{when}: {ratios}."
    )
    grows = any(not trace.spec.residual and now.ratio > FIRST_TO_LAST for trace, now in best)
    if grows and when.endswith("initialisation"):
        text += (
            "\n\nSo the gradient does not vanish in the plain net: it grows on its way back, as "
            "theory says of batch norm without shortcuts (Yang et al., ICLR 2019)."
        )
    return text


def _training_section(traces: Sequence[Trace], iterations: int) -> Section:
    figure = Figure(
        name="gradients-training",
        figure=draw_training(traces, iterations, narrow=False),
        narrow=draw_training(traces, iterations, narrow=True),
        caption="The first layer, which is farthest from the loss: norm of its gradient over that "
        "of its weight while the nets train.",
        alt="Relative gradient norm of the first layer against the training step, four panels",
        numbers=Numbers(
            ("net", "norm", "init", "step", "loss", "first_relative", "smallest_relative",
             "first_over_last"),
            tuple(
                (trace.spec.name, trace.scheme.norm, trace.scheme.init, now.step, _number(now.loss),
                 _number(now.layers[0].relative), _smallest(now), _number(now.ratio))
                for trace in traces
                for now in trace.measurements
            ),
        ),
    )  # fmt: skip
    return Section(
        "The first layer during training", "How much of the error signal still arrives.", (figure,)
    )


def _degradation_section(traces: Sequence[Trace], remains: Sequence[Finding]) -> Section:
    rows = tuple(
        (
            trace.spec.name,
            str(trace.scheme),
            _number(trace.measurements[0].ratio),
            _number(trace.measurements[-1].ratio),
            _smallest(trace.measurements[-1]),
            trace.measurements[-1].state,
            trace.measurements[-1].step,
            trace.training_error,
        )
        for trace in traces
    )
    table = Table(
        name="gradient-states",
        columns=("net", "scheme", "first / last, start", "first / last, end", "smallest relative",
                 "state at the end", "last step", "training error (%)"),
        rows=rows,
        caption="First over last convolution's gradient norm; the smallest gradient norm over "
        "weight norm among the layers, at the last measurement; the training error is the mean "
        "over the last tenth of the steps, a dash where the training ended early.",
    )  # fmt: skip
    text = (
        "If vanishing gradients were the reason why deep plain nets train worse, nets whose "
        "gradients do not vanish would not. "
    )
    text += "; ".join(f"{each.label}: {each.value}, {each.detail}" for each in remains)
    text += "." if remains else "Name plain nets of two depths, or a residual twin, to see it."
    text += (
        "\n\nTwo training errors are compared only where the lower one is at most a sixth of that "
        "of guessing. This is a short training at one seed and one rate: it shows where gradients "
        "go. Whether degradation is there, and stays, is what resnets study depth measures."
    )
    return Section("What this leaves unexplained", text, (), (table,))


def _of(traces: Sequence[Trace], scheme: Scheme) -> list[Trace]:
    return [trace for trace in traces if trace.scheme == scheme]


def _fitted(trace: Trace) -> bool:
    """Whether the net has fitted its data; the rate is constant, so nothing levels off here."""
    assert trace.training_error is not None
    return trace.training_error <= FITTED * guessing(trace.spec.num_classes)


def _loses(trace: Trace) -> bool:
    """Whether the gradient vanished, or was no number, at any time."""
    return any(now.state in ("vanishes", "not a number") for now in trace.measurements)


def _smallest(now: Measurement) -> float | None:
    return _number(min(each.relative for each in now.layers))


def _power(value: float) -> str:
    """A power of ten as people write it, such as 10⁻⁶."""
    exponent = f"{round(math.log10(value))}"
    return "10" + exponent.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _number(value: float) -> float | None:
    """None, a gap, where there is no number."""
    return value if math.isfinite(value) else None
