"""Tables of `resnets info`: the layers of a model, and the catalog.

They keep to 80 columns, the width of a narrow terminal and of output that is piped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from resnets.config import ModelSpec
from resnets.diagrams.trace import abbreviate_number
from resnets.models import ImageClassifier, cost
from resnets.study.paper import CIFAR10, COSTS, IMAGENET, PaperCost, PaperError
from resnets.utils.printable import Console, Table

NO_PAPER_COST = PaperCost("")  # of a model that the paper does not have


@dataclass(frozen=True)
class Group:
    """The layers of one block, or one layer outside of blocks."""

    name: str
    layers: tuple[cost.LayerCost, ...]

    @property
    def signature(self) -> tuple[object, ...]:
        """Everything but the name of the group; groups with equal signatures share their rows."""
        start = len(self.name)
        return tuple(
            (layer.name[start:], layer.kind, layer.output, layer.parameters, layer.multiply_adds)
            for layer in self.layers
        )


def print_models(models: Sequence[ImageClassifier], *, folded: bool, published: bool) -> None:
    """Print a table of layers and the totals of each model.

    folded: consecutive equal blocks are listed once. published: show the paper's figures.
    """
    console = Console(highlight=False)
    for position, model in enumerate(models):
        counted = cost.count_cost(model)
        size, channels = counted.input_size, model.spec.in_channels
        gap = "\n\n" if position else ""
        console.print(f"{gap}[bold]{model.spec.name}[/bold], input {channels}×{size}×{size}\n")
        console.print(_layer_table(model, counted, folded))
        if folded:
            console.print("\n× n: n equal blocks, summed; below them the layers of one block.")
        console.print()
        console.print(_totals(counted, model.spec.name, published))


def print_catalog(costs: Sequence[tuple[ModelSpec, int, int]]) -> None:
    """Print one line per model from its parameters and multiply-adds."""
    console = Console(highlight=False)
    table = Table("model", "block, shortcut")
    for heading in ("input", "parameters", "mult-adds"):
        table.add_column(heading, justify="right")
    for spec, parameters, multiply_adds in costs:
        table.add_row(
            spec.name,
            spec.block if spec.is_vgg else f"{spec.block}, {spec.shortcut}",
            str(spec.input_size),
            f"{parameters:,}",
            abbreviate_number(multiply_adds),
        )
    console.print(table)
    console.print(
        "\nAlso: cifar-resnetN, cifar-plainN and cifar-preact-resnetN for any N = 6n+2 (basic"
        " blocks); those of 164 and 1001 layers have bottlenecks (9n+2)."
    )


def _layer_table(model: ImageClassifier, counted: cost.Cost, folded: bool) -> Table:
    """Layers in execution order, one section per stage."""
    table = Table("layer", "kind")
    for heading in ("output", "parameters", "mult-adds"):
        table.add_column(heading, justify="right")
    for _, section in groupby(_groups(counted), key=lambda group: _section(model, group.name)):
        for run in _runs(section, folded):
            _add_run(table, model, run)
        table.add_section()
    return table


def _groups(counted: cost.Cost) -> Iterator[Group]:
    """The layers of each block, or of each unit of a VGG stage; other layers one by one."""

    def block_name(layer: cost.LayerCost) -> str:
        parts = layer.name.split(".")
        return ".".join(parts[:2]) if parts[0].startswith("stage") else layer.name

    for name, layers in groupby(counted.layers, key=block_name):
        yield Group(name, tuple(layers))


def _section(model: ImageClassifier, name: str) -> str:
    """The stage that `name` is in, or "head"."""
    first = name.partition(".")[0]
    return first if first in model.stage_names else "head"


def _runs(groups: Iterator[Group], folded: bool) -> Iterator[list[Group]]:
    """Runs of equal groups if `folded`, else single groups."""
    if folded:
        return (list(run) for _, run in groupby(groups, key=lambda group: group.signature))
    return ([group] for group in groups)


def _add_run(table: Table, model: ImageClassifier, run: Sequence[Group]) -> None:
    """Add rows of equal groups: the sum of all, then the layers of one of them."""
    first, layers = run[0], run[0].layers
    parameters = len(run) * sum(layer.parameters for layer in layers)
    multiply_adds = len(run) * sum(layer.multiply_adds for layer in layers)
    several = len(layers) > 1
    name = first.name if several else layers[0].name
    if len(run) > 1:
        name = f"{first.name}-{run[-1].name.rpartition('.')[2]}  × {len(run)}"
    kind = " + ".join(layer.kind for layer in layers)
    if first.name in model.blocks():
        kind = f"{model.spec.block} block"
    style = "bold" if several else None
    _add_row(table, name, kind, layers[-1].output, parameters, multiply_adds, style)
    if several:
        for layer in layers:
            label = "  " + layer.name.removeprefix(f"{first.name}.")
            _add_row(table, label, layer.kind, layer.output, layer.parameters, layer.multiply_adds)


def _add_row(
    table: Table,
    name: str,
    kind: str,
    output: tuple[int, ...],
    parameters: int,
    multiply_adds: int,
    style: str | None = None,
) -> None:
    table.add_row(
        name,
        kind,
        "×".join(map(str, output)),
        f"{parameters:,}" if parameters else "",
        abbreviate_number(multiply_adds) if multiply_adds else "",
        style=style,
    )


def _totals(counted: cost.Cost, name: str, published: bool) -> Table:
    """Total parameters and multiply-adds, with the paper's figures if it has any."""
    multiply_adds = f"{counted.multiply_adds:,} ({abbreviate_number(counted.multiply_adds)})"
    # A v1.5 bottleneck model is compared with its v1 counterpart, the one in the paper.
    source = f"{name}-v1" if f"{name}-v1" in COSTS else name
    paper, error = COSTS.get(source, NO_PAPER_COST), (CIFAR10 | IMAGENET).get(source)
    if not published or (paper is NO_PAPER_COST and error is None):
        table = Table("total", "")
        table.add_row("parameters", f"{counted.parameters:,}")
        table.add_row("multiply-adds", multiply_adds)
        return table
    table = Table("total", "this model", "paper" if source == name else f"paper, {source}")
    table.add_row("parameters", f"{counted.parameters:,}", paper.parameters)
    table.add_row("multiply-adds", multiply_adds, paper.multiply_adds)
    if error is not None:
        table.add_row(*_error_row(error, source in CIFAR10))
    return table


def _error_row(error: PaperError, cifar: bool) -> tuple[str, str, str]:
    """A row with the error in the paper."""
    if cifar:
        return "CIFAR-10 test error, %", "", error.text
    if error.top5 is None:
        return "10-crop top-1 error, %", "", error.text
    return "10-crop top-1 / top-5 error, %", "", f"{error.text} / {error.top5:.2f}"
