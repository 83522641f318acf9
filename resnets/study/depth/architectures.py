"""The nets of a study as a section of its report: their sizes, and drawings of the extremes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from resnets.config import ModelSpec
from resnets.diagrams.draw import model_diagram
from resnets.models import ImageClassifier, build, cost
from resnets.study.depth.summary import NetSummary
from resnets.study.figures import KINDS
from resnets.study.page import Figure, Row, Section, Table

COLUMNS = ("Net", "Kind", "Layers", "Blocks per stage", "Shortcut", "Parameters", "Multiply-adds")

DRAWN_AT_MOST = 4  # of more nets than that, only the extremes are drawn


def nets_section(nets: Sequence[NetSummary]) -> Section:
    """All nets with what they cost, drawn; of many, the shallowest and deepest of each kind."""
    models = {name: _build(spec) for name, spec in _specs(nets).items()}
    drawn = [net.net for net in nets]
    which = "The nets"
    if len(nets) > DRAWN_AT_MOST:
        which = "The shallowest and the deepest net of each kind"
        by_kind = [[net.net for net in nets if net.kind == kind] for kind in KINDS]
        drawn = [name for mine in by_kind for name in dict.fromkeys([*mine[:1], *mine[-1:]])]
    figure = Figure(
        name="nets",
        figure=model_diagram([models[name] for name in drawn]),
        caption=f"{which}, drawn from the modules that are trained. One box is one layer; curves "
        "are shortcuts, dotted where the number of channels grows. A plain net is its residual "
        "twin without them.",
        alt=f"Layer diagrams of {', '.join(drawn)}, side by side.",
    )
    table = Table(
        name="nets-compared",
        columns=COLUMNS,
        rows=tuple(_row(net, models[net.net]) for net in nets),
        caption="The nets compared. Layers count convolutions and the classifier, as in the paper; "
        "parameters and multiply-adds are counted from the built net.",
    )
    return Section("The nets compared", "", figures=(figure,), tables=(table,))


def _row(net: NetSummary, model: ImageClassifier) -> Row:
    spec = model.spec
    counted = cost.count(model, spec.input_size)
    blocks = " + ".join(map(str, spec.depths))
    return (
        net.net,
        net.kind,
        net.depth,
        blocks,
        spec.shortcut,
        counted.parameters,
        counted.multiply_adds,
    )


def _specs(nets: Sequence[NetSummary]) -> dict[str, ModelSpec]:
    """Each net as trained; one not trained yet gets the classes and picture size of the others."""
    begun = [cell.spec for net in nets for cell in net.cells if cell.status != "missing"]
    specs = {net.net: net.cells[0].spec for net in nets}
    if not begun:
        return specs
    shape = {key: getattr(begun[0], key) for key in ("num_classes", "in_channels", "input_size")}
    return {net: dataclasses.replace(spec, **shape) for net, spec in specs.items()}


def _build(spec: ModelSpec) -> ImageClassifier:
    with torch.device("meta"):
        return build(spec)
