"""The content of a model's diagram, read from its modules and the shapes of their outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from torch import nn

from resnets.models import ImageClassifier, cost
from resnets.models.shortcut import (
    GatedShortcut,
    NoShortcut,
    Projection,
    ScaledShortcut,
    ZeroPad,
)

Role = Literal["conv", "fc", "pool"]


@dataclass(frozen=True)
class Box:
    """One layer. `size` is its row: the output size in px, never larger than in the box above."""

    text: str
    size: int
    role: Role
    tooltip: str


@dataclass(frozen=True)
class Shortcut:
    """A connection around a block; `label` names the operation on it, "" for the identity."""

    widens: bool
    label: str
    tooltip: str


@dataclass(frozen=True)
class Unit:
    """A block with its shortcut, or one layer; `count` consecutive equal ones."""

    boxes: tuple[Box, ...]
    shortcut: Shortcut | None = None
    count: int = 1

    @property
    def appearance(self) -> tuple[object, ...]:
        """All that is drawn; units of equal appearance differ only in name."""
        shortcut = self.shortcut and (self.shortcut.widens, self.shortcut.label)
        return tuple((box.text, box.size, box.role) for box in self.boxes), shortcut


@dataclass(frozen=True)
class Column:
    """One model: title, subtitle lines, label of the input, and units from input to output."""

    title: str
    lines: tuple[str, ...]
    input_label: str
    units: tuple[Unit, ...]

    @property
    def boxes(self) -> Iterator[Box]:
        """The boxes that are drawn, from input to output."""
        return (box for unit in self.units for box in unit.boxes)

    def total(self, *roles: Role) -> int:
        """Count the layers of these roles on the main path, with repeats."""
        return sum(unit.count * sum(box.role in roles for box in unit.boxes) for unit in self.units)


def read_column(model: ImageClassifier, size: int | None = None) -> Column:
    """Read the layers of `model` for images of `size` px (default: `model.spec.input_size`)."""
    counted = cost.count_cost(model, size)
    shape: tuple[int, ...] = (model.spec.in_channels, counted.input_size, counted.input_size)
    units: list[Unit] = []
    blocks = model.blocks()
    for name, group in groupby(
        _main_path(model, counted), key=lambda pair: _find_block(blocks, pair[0])
    ):
        layers, boxes = zip(*group, strict=True)
        if name is None:
            units += [Unit((box,)) for box in boxes]
        else:
            units.append(
                Unit(boxes, _read_shortcut(blocks[name], widens=shape != layers[-1].output))
            )
        shape = layers[-1].output
    weighted = sum(box.role != "pool" for unit in units for box in unit.boxes)
    return Column(
        title=_title(model, weighted),
        lines=(
            model.spec.name,
            f"{abbreviate_number(counted.parameters)} parameters",
            f"{abbreviate_number(counted.multiply_adds)} multiply-adds",
        ),
        input_label=f"image, {counted.input_size} × {counted.input_size}",
        units=tuple(units),
    )


def _main_path(model: ImageClassifier, counted: cost.Cost) -> Iterator[tuple[cost.LayerCost, Box]]:
    """Yield the layers that get a box, from input to output.

    Norms are excluded, as in Fig. 3, and pools that do not change the size (VGG's last one at 224
    px).
    """
    row = counted.input_size
    shape: tuple[int, ...] = ()
    for layer in counted.layers:
        text_and_role = _text_and_role(model.get_submodule(layer.name))
        if text_and_role is None or ".shortcut." in layer.name or ".attention." in layer.name:
            continue
        text, role = text_and_role
        if role == "pool" and layer.output == shape:
            continue
        shape = layer.output
        row = min(row, shape[-1] if len(shape) == 3 else 1)
        yield layer, Box(text, row, role, _tooltip(layer))


def _text_and_role(layer: nn.Module) -> tuple[str, Role] | None:
    """Return the text in Fig. 3's box of `layer`, and its role; None for layers without a box."""
    match layer:
        case nn.Conv2d():
            return conv_text(layer), "conv"
        case nn.Linear():
            return f"fc {layer.out_features}", "fc"
        case nn.MaxPool2d():
            return f"pool, /{layer.stride}", "pool"
        case nn.AdaptiveAvgPool2d():
            return "avg pool", "pool"
        case nn.AdaptiveMaxPool2d():
            return "max pool", "pool"
    return None


def _find_block(blocks: Mapping[str, nn.Module], layer: cost.LayerCost) -> str | None:
    """Return the name of the residual or plain block that `layer` belongs to, if any.

    A transition comes before the shortcut of its block.
    """
    name = ".".join(layer.name.split(".")[:2])
    return name if name in blocks and ".transition." not in layer.name else None


def _read_shortcut(block: nn.Module, widens: bool) -> Shortcut | None:
    """Return the connection around `block`; None in a plain network."""
    match getattr(block, "shortcut", None):
        case None | NoShortcut():
            return None
        case Projection() as projection:
            text = conv_text(projection.conv)
            if not isinstance(projection.pool, nn.Identity):
                return Shortcut(widens, "avg pool, 1x1 conv", f"2x2 average pool, then {text}")
            return Shortcut(widens, text.partition(",")[0], f"projection: {text}")
        case nn.Identity():
            return Shortcut(widens, "", "identity")
        case ZeroPad():
            return Shortcut(widens, "zero pad", "identity, padded with zero channels")
        case GatedShortcut():
            return Shortcut(widens, "gate", "multiplied by 1 - gate")
        case ScaledShortcut(scale=nn.Dropout()):
            return Shortcut(widens, "dropout", "dropout")
        case ScaledShortcut(scale=scale):
            return Shortcut(widens, f"× {scale.factor:g}", f"multiplied by {scale.factor:g}")
        case other:
            name = type(other).__name__
            return Shortcut(widens, name, name)


def _tooltip(layer: cost.LayerCost) -> str:
    """Return name, output and cost of a layer."""
    shape = " × ".join(map(str, layer.output))
    return (
        f"{layer.name}: {layer.kind}, output {shape}, {layer.parameters:,} parameters, "
        f"{abbreviate_number(layer.multiply_adds)} multiply-adds"
    )


def _title(model: ImageClassifier, weighted: int) -> str:
    """Return the name of the model as in Fig. 3, such as "34-layer residual"."""
    if model.spec.is_vgg:
        return f"VGG-{weighted}"
    if not model.spec.residual:
        return f"{weighted}-layer plain"
    return f"{weighted}-layer {'pre-activation' if model.spec.is_preact else 'residual'}"


def fold(column: Column) -> Column:
    """Merge each run of equal units of `column` into one."""
    runs = [list(run) for _, run in groupby(column.units, key=lambda unit: unit.appearance)]
    units = tuple(replace(run[0], count=sum(unit.count for unit in run)) for run in runs)
    return replace(column, units=units)


def conv_text(conv: nn.Conv1d | nn.Conv2d) -> str:
    """Describe a convolution as in Fig. 3, such as "3x3 conv, 128, /2"."""
    parts = [f"{'x'.join(map(str, conv.kernel_size))} conv", str(conv.out_channels)]
    if conv.stride[0] > 1:
        parts.append(f"/{conv.stride[0]}")
    if conv.groups > 1:
        parts.append(f"{conv.groups} groups")
    return ", ".join(parts)


def abbreviate_number(number: int) -> str:
    """Format a number with three significant digits and a unit: 3.66G, 21.8M, 0.27M, 9408."""
    for unit, scale, smallest in (("G", 10**9, 10**9), ("M", 10**6, 10**5)):
        if number >= smallest:
            return f"{float(f'{number / scale:.3g}'):g}{unit}"
    return str(number)
