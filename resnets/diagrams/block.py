"""A building block as in Fig. 2 and Fig. 5, drawn from the data flow of its `forward`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from resnets.config import ConfigError
from resnets.diagrams.svg import MUTED, Svg
from resnets.diagrams.trace import conv_text
from resnets.models.layers import DropPath, EfficientChannelAttention, SqueezeExcitation
from resnets.models.norm import NormAct

FILL, STROKE = "#d6e6fb", "#5b86bf"
BOX_WIDTH, BOX_HEIGHT = 150.0, 30.0
STEP = 46.0  # height of an arrow between two boxes, with room for text
SWING = 52.0  # distance of the shortcut from the boxes
MARGIN, HEADER = 22.0, 74.0
LEFT = 64.0  # width of F(x) and its brace
PITCH = LEFT + BOX_WIDTH + SWING + 84
RADIUS = 9.0  # of the addition's circle
ATTENTION = (SqueezeExcitation, EfficientChannelAttention)
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")


@dataclass(frozen=True)
class Op:
    """One operation of a block; weighted layers get a box, others text at the arrow."""

    text: str
    weighted: bool = False


@dataclass(frozen=True)
class Flow:
    """A block's data flow, each part in order from input to output.

    shared: before the paths divide. branch: F(x). shortcut: empty for the identity. after: what
    follows the addition.
    """

    title: str
    width: int
    shared: tuple[Op, ...]
    branch: tuple[Op, ...]
    shortcut: tuple[Op, ...]
    after: tuple[Op, ...]


class _LayerTracer(fx.Tracer):
    """Traces a block down to its layers and the functions between them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is a layer; modules that only contain others are traced."""
        known = isinstance(m, (nn.Conv2d, *ATTENTION)) or m.__module__.startswith("torch.nn")
        return known and not isinstance(m, nn.Sequential)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Trace the addition and the relu of a `NormAct`; its norm is a leaf."""
        if not isinstance(m, NormAct):
            return super().call_module(m, forward, args, kwargs)
        x, *rest = args
        y: Any = self.create_proxy("call_module", self.path_of_module(m), (x,), {})
        return m.add_relu(y, *rest, **kwargs)


def read_flow(block: nn.Module, title: str) -> Flow:
    """Trace the data flow of a residual `block` from its own `forward`.

    Raises ConfigError if `forward` cannot be traced, or adds no shortcut.
    """
    modules = dict(block.named_modules())
    try:
        graph = _LayerTracer().trace(block)
        addition = next(node for node in graph.nodes if _is_addition(node))
        left, right = (_upstream(node) for node in addition.all_input_nodes)
        fork = next(node for node in left if node in right)
    except (fx.proxy.TraceError, StopIteration) as error:
        raise ConfigError(f"{title}: its data flow cannot be drawn ({error or 'no sum'})") from None
    paths = sorted((left[: left.index(fork)], right[: right.index(fork)]), key=len)
    shortcut, branch = ([_read_op(node, modules) for node in reversed(path)] for path in paths)
    shared = [
        _read_op(node, modules) for node in reversed(_upstream(fork)) if node.op != "placeholder"
    ]
    output = next(node for node in graph.nodes if node.op == "output")
    after = _upstream(output.all_input_nodes[0])
    final = [_read_op(node, modules) for node in reversed(after[: after.index(addition)])]
    first = next(module for module in modules.values() if isinstance(module, nn.Conv2d))
    parts = ([op for op in ops if op is not None] for ops in (shared, branch, shortcut, final))
    return Flow(title, first.in_channels, *(tuple(part) for part in parts))


def _is_addition(node: fx.Node) -> bool:
    return node.target in ADDITIONS and len(node.all_input_nodes) == 2


def _upstream(node: fx.Node) -> list[fx.Node]:
    """Return `node` and its first inputs, back to the block's input."""
    chain = [node]
    while chain[-1].all_input_nodes:
        chain.append(chain[-1].all_input_nodes[0])
    return chain


def _read_op(node: fx.Node, modules: dict[str, nn.Module]) -> Op | None:
    """Return the operation of a node of the graph; None for the identity."""
    if node.op != "call_module":
        target = node.target
        return Op((target if isinstance(target, str) else target.__name__).rstrip("_"))
    module = modules[str(node.target)]
    if isinstance(module, nn.Identity | DropPath):
        return None
    if isinstance(module, nn.Conv2d):
        return Op(conv_text(module), weighted=True)
    if isinstance(module, ATTENTION):
        return Op(module.label)
    return Op("batch norm" if isinstance(module, nn.BatchNorm2d) else type(module).__name__.lower())


def draw_blocks(flows: Sequence[Flow]) -> str:
    """Draw building blocks (at least one) from left to right, as SVG."""
    svg = Svg()
    bottoms = [_draw_flow(svg, flow, MARGIN + PITCH * i) for i, flow in enumerate(flows)]
    title = " | ".join(flow.title for flow in flows)
    description = "; ".join(map(_describe, flows)) + "."
    return svg.render(MARGIN + PITCH * len(flows), max(bottoms) + MARGIN, title, description)


def _draw_flow(svg: Svg, flow: Flow, left: float) -> float:
    """Draw one block at `left`; returns its lowest point, px."""
    center = left + LEFT + BOX_WIDTH / 2
    svg.open_group("block")
    svg.text(center, MARGIN + 8, flow.title, size=15, bold=True)
    svg.text(center - 10, HEADER, "x", size=15, anchor="end", italic=True)
    svg.text(center + 10, HEADER, f"{flow.width}-d", anchor="start", color=MUTED)
    y = HEADER - 10
    if flow.shared:
        y = _draw_path(svg, flow.shared, center, y)
    fork = y + 20
    svg.line(center, y, center, fork)
    top = _draw_path(svg, flow.branch, center, fork)
    addition = top + RADIUS
    _draw_brace(svg, left + LEFT - 6, fork + 6, top - 6)
    _draw_shortcut(svg, flow, center, fork, addition)
    svg.circle(center, addition, RADIUS)
    svg.line(center - 5, addition, center + 5, addition)
    svg.line(center, addition - 5, center, addition + 5)
    svg.text(center - RADIUS - 6, addition, "F(x) + x", size=13, anchor="end", italic=True)
    bottom = _draw_path(svg, flow.after, center, addition + RADIUS)
    svg.close_group()
    return bottom


def _draw_path(svg: Svg, ops: Sequence[Op], center: float, y: float) -> float:
    """Draw `ops` downwards from height y, ending in an arrow; returns the height of its tip."""
    text: list[str] = []
    for op in ops:
        if not op.weighted:
            text.append(op.text)
            continue
        y = _draw_arrow(svg, text, center, y)
        text = []
        left = center - BOX_WIDTH / 2
        svg.open_group("layer conv")
        svg.rect(left, y, BOX_WIDTH, BOX_HEIGHT, fill=FILL, stroke=STROKE, radius=4)
        svg.text(center, y + BOX_HEIGHT / 2, op.text, size=13)
        svg.close_group()
        y += BOX_HEIGHT
    return _draw_arrow(svg, text, center, y)


def _draw_arrow(svg: Svg, lines: Sequence[str], center: float, y: float) -> float:
    """Draw an arrow down from height y with `lines` of text; returns the height of its tip."""
    svg.arrow_down(center, y, y + STEP)
    for row, line in enumerate(lines):
        height = y + STEP / 2 - 2 + 13 * (row - (len(lines) - 1) / 2)
        svg.text(center + 9, height, line, size=11, anchor="start", color=MUTED)
    return y + STEP


def _draw_brace(svg: Svg, x: float, top: float, bottom: float) -> None:
    """Draw the label F(x) and the brace around its layers."""
    middle = (top + bottom) / 2
    svg.path(
        f"M{x:g} {top:g}q-6 0 -6 6V{middle - 6:g}q0 6 -6 6q6 0 6 6V{bottom - 6:g}q0 6 6 6",
        color=MUTED,
    )
    svg.text(x - 18, middle, "F(x)", size=15, anchor="end", italic=True)


def _draw_shortcut(svg: Svg, flow: Flow, center: float, fork: float, addition: float) -> None:
    """Draw the curve around the branch, with the operations on it."""
    right = center + BOX_WIDTH / 2
    out, start = right + SWING, center + RADIUS
    svg.open_group("shortcut")
    svg.path(
        f"M{center:g} {fork:g}H{right - 10:g}C{out:g} {fork:g} {out:g} {fork + 20:g} "
        f"{out:g} {fork + 60:g}V{addition - 60:g}C{out:g} {addition - 20:g} {out:g} {addition:g} "
        f"{right - 10:g} {addition:g}H{start + 4:g}"
    )
    svg.tip_left(start, addition)
    middle = (fork + addition) / 2
    lines = [op.text for op in flow.shortcut] or ["identity"]
    svg.text(out + 8, middle - 9, "x", size=15, anchor="start", italic=True)
    for row, line in enumerate(lines):
        svg.text(out + 8, middle + 8 + 13 * row, line, size=12, anchor="start")
    svg.close_group()


def _describe(flow: Flow) -> str:
    """Describe one block in words, for screen readers."""

    def join_texts(ops: Sequence[Op]) -> str:
        return ", ".join(op.text for op in ops)

    return (
        f"{flow.title} on {flow.width} channels: F(x) is {join_texts(flow.branch)}; the shortcut "
        f"is {join_texts(flow.shortcut) or 'the identity'}; then addition"
        + (f" and {join_texts(flow.after)}" if flow.after else "")
    )
