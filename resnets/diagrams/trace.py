"""What a diagram shows of a net, read from the net itself: its modules and the shapes they give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from torch import nn

from resnets.models import ImageClassifier, cost
from resnets.models.resnet import NoShortcut, Projection, ZeroPad

Role = Literal["conv", "fc", "pool"]


@dataclass(frozen=True)
class Box:
    """One layer. `size` is its row: the output size in px, never larger than in the box above."""

    text: str
    size: int
    role: Role
    detail: str


@dataclass(frozen=True)
class Shortcut:
    """A connection around a block; `label` names the operation on it, "" for the identity."""

    widens: bool
    label: str
    detail: str


@dataclass(frozen=True)
class Unit:
    """What can repeat: a block with its shortcut, or one layer; stands for `count` equal ones."""

    boxes: tuple[Box, ...]
    shortcut: Shortcut | None = None
    count: int = 1

    @property
    def looks(self) -> tuple[object, ...]:
        """Everything that is drawn; units of equal looks differ only in name."""
        shortcut = self.shortcut and (self.shortcut.widens, self.shortcut.label)
        return tuple((box.text, box.size, box.role) for box in self.boxes), shortcut


@dataclass(frozen=True)
class Column:
    """One net: title, lines below it, words on the input, and its units from input to output."""

    title: str
    lines: tuple[str, ...]
    image: str
    units: tuple[Unit, ...]

    @property
    def boxes(self) -> Iterator[Box]:
        """The boxes that are drawn, from input to output."""
        return (box for unit in self.units for box in unit.boxes)

    def total(self, *roles: Role) -> int:
        """Layers of these roles in the main path, repeats counted."""
        return sum(unit.count * sum(box.role in roles for box in unit.boxes) for unit in self.units)


def read_column(net: ImageClassifier, size: int | None = None) -> Column:
    """The layers of `net` for pictures of `size` px (default: `net.spec.input_size`)."""
    counted = cost.count(net, size)
    shape: tuple[int, ...] = (net.spec.in_channels, counted.input_size, counted.input_size)
    units: list[Unit] = []
    blocks = net.blocks()
    for name, group in groupby(_main_path(net, counted), key=lambda pair: _block(blocks, pair[0])):
        layers, boxes = zip(*group, strict=True)
        if name is None:
            units += [Unit((box,)) for box in boxes]
        else:
            units.append(Unit(boxes, _shortcut(blocks[name], widens=shape != layers[-1].output)))
        shape = layers[-1].output
    weighted = sum(box.role != "pool" for unit in units for box in unit.boxes)
    return Column(
        title=_title(net, weighted),
        lines=(
            net.spec.name,
            f"{short(counted.parameters)} parameters",
            f"{short(counted.multiply_adds)} multiply-adds",
        ),
        image=f"image, {counted.input_size} × {counted.input_size}",
        units=tuple(units),
    )


def _main_path(net: ImageClassifier, counted: cost.Cost) -> Iterator[tuple[cost.LayerCost, Box]]:
    """What gets a box, from input to output.

    Norms are left out, as in Fig. 3, and so is a pool that finds its output size already there
    (VGG's last one at 224 px).
    """
    row = counted.input_size
    shape: tuple[int, ...] = ()
    for layer in counted.layers:
        words = _words(net.get_submodule(layer.name))
        if words is None or ".shortcut." in layer.name:
            continue
        text, role = words
        if role == "pool" and layer.output == shape:
            continue
        shape = layer.output
        row = min(row, shape[-1] if len(shape) == 3 else 1)
        yield layer, Box(text, row, role, _detail(layer))


def _words(layer: nn.Module) -> tuple[str, Role] | None:
    """What Fig. 3 writes on the box of `layer`, and what it is; None for what it leaves out."""
    match layer:
        case nn.Conv2d():
            return conv_text(layer), "conv"
        case nn.Linear():
            return f"fc {layer.out_features}", "fc"
        case nn.MaxPool2d():
            return f"pool, /{layer.stride}", "pool"
        case nn.AdaptiveAvgPool2d():
            return "avg pool", "pool"
    return None


def _block(blocks: Mapping[str, nn.Module], layer: cost.LayerCost) -> str | None:
    """The name of the residual or plain block that `layer` belongs to, if any."""
    name = ".".join(layer.name.split(".")[:2])
    return name if name in blocks else None


def _shortcut(block: nn.Module, widens: bool) -> Shortcut | None:
    """The connection around `block`, None in a plain network."""
    match getattr(block, "shortcut", None):
        case None | NoShortcut():
            return None
        case Projection() as projection:
            words = conv_text(projection.conv)
            return Shortcut(widens, words.partition(",")[0], f"projection: {words}")
        case nn.Identity():
            return Shortcut(widens, "", "identity")
        case ZeroPad():
            return Shortcut(widens, "zero pad", "identity, padded with zero channels")
        case other:
            name = type(other).__name__
            return Shortcut(widens, name, name)


def _detail(layer: cost.LayerCost) -> str:
    """The tooltip of a box."""
    shape = " × ".join(map(str, layer.output))
    return (
        f"{layer.name}: {layer.kind}, output {shape}, {layer.parameters:,} parameters, "
        f"{short(layer.multiply_adds)} multiply-adds"
    )


def _title(net: ImageClassifier, weighted: int) -> str:
    """The net in the words of Fig. 3, such as "34-layer residual"."""
    if net.spec.is_vgg:
        return f"VGG-{weighted}"
    if not net.spec.residual:
        return f"{weighted}-layer plain"
    return f"{weighted}-layer {'pre-activation' if net.spec.is_preact else 'residual'}"


def fold(column: Column) -> Column:
    """`column` with each run of equal units drawn once."""
    runs = [list(run) for _, run in groupby(column.units, key=lambda unit: unit.looks)]
    units = tuple(replace(run[0], count=sum(unit.count for unit in run)) for run in runs)
    return replace(column, units=units)


def conv_text(conv: nn.Conv2d) -> str:
    """A convolution in the words of Fig. 3, such as "3x3 conv, 128, /2"."""
    height, width = conv.kernel_size
    words = [f"{height}x{width} conv", str(conv.out_channels)]
    if conv.stride[0] > 1:
        words.append(f"/{conv.stride[0]}")
    if conv.groups > 1:
        words.append(f"{conv.groups} groups")
    return ", ".join(words)


def short(number: int) -> str:
    """Three digits and a unit: 3.66G, 21.8M, 0.27M, 9408."""
    for unit, scale, least in (("G", 10**9, 10**9), ("M", 10**6, 10**5)):
        if number >= least:
            return f"{float(f'{number / scale:.3g}'):g}{unit}"
    return str(number)
