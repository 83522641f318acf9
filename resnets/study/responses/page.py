"""The report on layer responses: the paper's Fig. 7 with what it is said to show."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from matplotlib.figure import Figure as Plot

from resnets.evaluate.figures.fonts import label
from resnets.study.figures import NARROW, WIDE, house_style, series_colors, whole_numbers
from resnets.study.page import Figure, Finding, Numbers, Page, Section, Table
from resnets.study.responses.responses import NetResponses

NO_DIFFERENCE = 0.02  # mean responses nearer than this share are called equal
PROTOCOL = (
    "A layer's response is the output of a 3x3 convolution after its batch norm and before relu "
    "or addition; its standard deviation is taken over all pictures, channels and places, in eval "
    "mode (stored batch norm statistics), in float32."
)


def responses_page(
    nets: Sequence[NetResponses],
    *,
    measured: str,
    commands: tuple[str, ...],
    environment: Mapping[str, Any],
    caution: str = "",
) -> Page:
    """The report: Fig. 7 of these nets, their means, and whether the paper's two claims hold.

    `measured` says on which images and with which weights; a `caution` leaves the claims open.
    """
    findings = (*_twins(nets), *_depths(nets))
    if caution:
        findings = tuple(_without_claim(finding) for finding in findings)
    return Page(
        title="Layer responses",
        lead=_lead(findings, caution),
        caution=caution,
        sections=(
            Section(
                "Standard deviation of each 3x3 layer's response",
                "The paper's argument (section 4.2, Fig. 7): if residual functions are generally "
                "closer to zero than functions without a shortcut, their responses should be "
                "smaller; and the more layers there are, the less each of them should change the "
                "signal.\n\nBatch norm starts every response at a standard deviation of 1, so "
                "what departs from 1 was learned, and short trainings leave nets much alike.",
                figures=(_figure(nets),),
                tables=(_table(nets),),
            ),
        ),
        protocol=f"{PROTOCOL}\n\n{measured}",
        commands=commands,
        environment=environment,
        findings=findings,
    )


def _twins(nets: Sequence[NetResponses]) -> tuple[Finding, ...]:
    """Each residual net against each plain net of the same blocks."""
    found = []
    for plain in nets:
        for residual in nets:
            ours, theirs = plain.spec, residual.spec
            same = (ours.block, ours.depths, ours.widths) == (
                theirs.block,
                theirs.depths,
                theirs.widths,
            )
            if not same or ours.residual or not theirs.residual:
                continue
            ratio = residual.mean / plain.mean
            tone, words = _judge(ratio)
            found.append(
                Finding(
                    label=f"{residual.label} against {plain.label}",
                    value=f"{ratio:.2f}×",
                    detail=f"mean response {residual.mean:.3f} against {plain.mean:.3f}: {words}",
                    tone=tone,
                )
            )
    return tuple(found)


def _depths(nets: Sequence[NetResponses]) -> tuple[Finding, ...]:
    """Residual nets of one block and one width, from shallow to deep."""
    families: dict[object, list[NetResponses]] = {}
    for net in nets:
        if net.spec.residual:
            key = (net.spec.block, net.spec.widths, net.spec.shortcut)
            families.setdefault(key, []).append(net)
    found = []
    for family in families.values():
        family.sort(key=lambda net: sum(net.spec.depths))
        if sum(family[0].spec.depths) == sum(family[-1].spec.depths):
            continue
        means = [net.mean for net in family]
        # The least fall from one depth to the next decides.
        tone, words = _judge(max(later / earlier for earlier, later in pairwise(means)))
        found.append(
            Finding(
                label="deeper residual nets",
                value=" → ".join(f"{mean:.3f}" for mean in means),
                detail=f"mean response of {', '.join(net.label for net in family)}: {words}",
                tone=tone,
            )
        )
    return tuple(found)


def _judge(ratio: float) -> tuple[Literal["good", "bad", "open"], str]:
    """What a ratio of mean responses, which the paper expects below 1, says of it."""
    if abs(ratio - 1) < NO_DIFFERENCE:
        return "open", "no difference to speak of"
    return (
        ("good", "smaller, as in the paper") if ratio < 1 else ("bad", "larger, unlike the paper")
    )


def _without_claim(finding: Finding) -> Finding:
    """The numbers of `finding` alone."""
    numbers, _, _ = finding.detail.rpartition(": ")
    return dataclasses.replace(finding, detail=numbers, tone="open")


def _lead(findings: Sequence[Finding], caution: str) -> str:
    if caution:
        return (
            "How strongly each 3x3 layer of these networks responds, as they are: what the paper "
            "expects of trained ones is not judged here."
        )
    if not findings:
        return (
            "How strongly each 3x3 layer of these nets responds. Add a plain twin or a residual "
            "net of another depth to compare, as the paper does."
        )
    agree = sum(finding.tone == "good" for finding in findings)
    return (
        "The paper expects residual nets to respond less than their plain twins, and deeper ones "
        f"less still. Here {agree} of {len(findings)} "
        f"comparison{' agrees' if len(findings) == 1 else 's agree'}."
    )


def _figure(nets: Sequence[NetResponses]) -> Figure:
    return Figure(
        name="responses",
        figure=_draw(nets, narrow=False),
        narrow=_draw(nets, narrow=True),
        caption="Standard deviation of the response of each 3x3 layer, in the order of the layers "
        "and from the largest down. Plain nets dashed, residual nets solid, a colour a depth.",
        alt="Line plot of response against layer: "
        + ", ".join(f"{net.label} has mean {net.mean:.3f}" for net in nets),
        numbers=Numbers(
            ("net", "layer_index", "layer", "std"),
            tuple(
                (net.label, index, layer.layer, layer.std)
                for net in nets
                for index, layer in enumerate(net.layers, 1)
            ),
        ),
    )


def _draw(nets: Sequence[NetResponses], *, narrow: bool) -> Plot:
    """Fig. 7: original order, and sorted."""
    ordered = sorted(nets, key=lambda net: (len(net.layers), net.spec.residual))
    sizes = sorted({len(net.layers) for net in nets})
    colors = dict(zip(sizes, series_colors(len(sizes)), strict=True))
    with house_style():
        figure = Plot(figsize=NARROW if narrow else WIDE, layout="constrained")
        panels = figure.subplots(*((2, 1) if narrow else (1, 2)), sharey=True)
        for net in ordered:
            look = {
                "color": colors[len(net.layers)],
                "linestyle": "-" if net.spec.residual else (0, (4, 2)),
                "lw": 2.2 if net.spec.residual else 1.3,
            }
            places = range(1, len(net.layers) + 1)
            panels[0].plot(places, [layer.std for layer in net.layers], **look)
            name = label(f"{net.label}, mean {net.mean:.2f}")
            panels[1].plot(places, net.sorted, label=name, **look)
        for axes, title, across in zip(
            panels,
            ("Original order", "Sorted"),
            ("3x3 layer", "3x3 layers, largest response first"),
            strict=True,
        ):
            axes.set(title=title, xlabel=across, ylabel="standard deviation", ylim=(0, None))
            axes.tick_params(labelleft=True)
            whole_numbers(axes)
        panels[1].legend(fontsize=9)
    return figure


def _table(nets: Sequence[NetResponses]) -> Table:
    rows = []
    for net in nets:
        stds = net.sorted
        rows.append((net.label, len(stds), net.mean, stds[len(stds) // 2], stds[-1], stds[0]))
    return Table(
        name="response-means",
        columns=("net", "3x3 layers", "mean", "median", "smallest", "largest"),
        rows=tuple(rows),
        caption="Standard deviation of responses over the layers of each net.",
    )
