"""Models side by side as in Fig. 3: rows aligned by output size, shortcuts as curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resnets.diagrams.svg import HAIRLINE, MUTED, Svg, text_width
from resnets.diagrams.trace import Column, Unit, fold

# Fill and stroke by output size, smallest first; as in Fig. 3.
PALETTE = (
    ("#d6e6fb", "#5b86bf"),
    ("#fad7d5", "#bf6a66"),
    ("#d8ecd3", "#67a05b"),
    ("#e3d9f2", "#8a71b5"),
    ("#fdebc8", "#c09a45"),
    ("#d3eeec", "#4f9d98"),
)
HEAD_COLORS = ("#eceef2", "#7b8494")
POOL_COLORS = ("#ffffff", "#9aa1ad")

MAX_UNFOLDED = 60  # weighted layers; of deeper models consecutive equal blocks are drawn once
FONT_SIZE = 11.0
BOX_HEIGHT = 20.0
GAP = 16.0  # between boxes, for the arrow
PITCH = BOX_HEIGHT + GAP
MARGIN = 20.0
LABEL_WIDTH = 62.0  # of the output sizes at the left
HEADER = 104.0
BAND_GAP = 10.0
COLUMN_GAP = 30.0
TITLE_SIZE, SMALL = 14.0, 9.5
BULGE = 26.0  # distance of a shortcut's curve from the boxes
BRACE_WIDTH = 52.0


@dataclass(frozen=True)
class UnitLayout:
    """Position of one unit of a column: the top of each of its boxes, px."""

    unit: Unit
    tops: tuple[float, ...]

    @property
    def start(self) -> float:
        """Height at which the unit's shortcut leaves the main path."""
        return self.tops[0] - GAP * 0.55

    @property
    def end(self) -> float:
        """Height at which the unit's shortcut joins the main path."""
        return self.tops[-1] + BOX_HEIGHT + GAP * 0.25


def draw_models(columns: Sequence[Column]) -> str:
    """Draw `columns` (at least one) from left to right, as SVG."""
    if any(column.total("conv", "fc") > MAX_UNFOLDED for column in columns):
        columns = [fold(column) for column in columns]
    svg = Svg()
    tops, bottom = _place_rows(columns)
    sizes = [size for size in tops if size > 1]
    colors = {size: PALETTE[rank % len(PALETTE)] for rank, size in enumerate(sorted(sizes))} | {
        1: HEAD_COLORS
    }
    box_width = 16 + max(
        text_width(box.text, FONT_SIZE) for column in columns for box in column.boxes
    )
    widths = [_column_width(column, box_width) for column in columns]
    width = 2 * MARGIN + LABEL_WIDTH + sum(widths)
    _draw_bands(svg, tops, width)
    left = MARGIN + LABEL_WIDTH
    for column, column_width in zip(columns, widths, strict=True):
        _draw_column(svg, column, left, box_width, tops, colors)
        left += column_width
    height = _draw_legend(svg, columns, bottom, width) + MARGIN
    title = " | ".join(column.title for column in columns)
    return svg.render(width, height, title, "; ".join(map(_describe, columns)) + ".")


def _place_rows(columns: Sequence[Column]) -> tuple[dict[int, float], float]:
    """Return output size -> top of its rows of boxes in px, and the end of the last row."""
    sizes = sorted({box.size for column in columns for box in column.boxes}, reverse=True)
    tops, y = {}, HEADER + GAP
    for size in sizes:
        tops[size] = y
        rows = max(sum(box.size == size for box in column.boxes) for column in columns)
        y += rows * PITCH + BAND_GAP
    return tops, y


def _column_width(column: Column, box_width: float) -> float:
    """Return the width of the boxes with curves and braces, and of the centered title."""
    head = max(
        text_width(column.title, TITLE_SIZE), *(text_width(line, SMALL) for line in column.lines)
    )
    margin = max(_right_margin(unit) for unit in column.units)
    return max(box_width + margin, (box_width + head) / 2) + COLUMN_GAP


def _right_margin(unit: Unit) -> float:
    """Return the width of curve, label and brace at the right of a unit's boxes."""
    label = 6 + text_width(unit.shortcut.label, SMALL) if unit.shortcut else 0
    return (BULGE if unit.shortcut else 0) + label + (BRACE_WIDTH if unit.count > 1 else 0)


def _draw_bands(svg: Svg, tops: dict[int, float], width: float) -> None:
    """Draw output sizes at the left, and a hairline between rows of one size."""
    for size, top in tops.items():
        border = top - GAP + 0.5  # between the curves that end above it and start below it
        svg.line(MARGIN, border, width - MARGIN, border, color=HAIRLINE)
        middle = top + BOX_HEIGHT / 2
        svg.text(MARGIN, middle - 6.5, "output", size=SMALL, anchor="start", color=MUTED)
        svg.text(MARGIN, middle + 5.5, f"size: {size}", size=SMALL, anchor="start", color=MUTED)


def _draw_column(
    svg: Svg,
    column: Column,
    left: float,
    box_width: float,
    tops: dict[int, float],
    colors: dict[int, tuple[str, str]],
) -> None:
    """Draw one model: header, boxes with arrows, curves and braces."""
    center = left + box_width / 2
    svg.open_group("model")
    svg.text(center, MARGIN + 8, column.title, size=TITLE_SIZE, bold=True)
    for row, line in enumerate(column.lines):
        svg.text(center, MARGIN + 26 + 13 * row, line, size=10, color=MUTED)
    svg.text(center, HEADER - 14, column.input_label, size=FONT_SIZE)
    above = HEADER - 6
    for layout in _place_units(column, tops):
        for box, top in zip(layout.unit.boxes, layout.tops, strict=True):
            svg.arrow_down(center, above, top)
            fill, stroke = POOL_COLORS if box.role == "pool" else colors[box.size]
            svg.open_group(f"layer {box.role}", box.tooltip)
            svg.rect(left, top, box_width, BOX_HEIGHT, fill=fill, stroke=stroke, radius=3)
            svg.text(center, top + BOX_HEIGHT / 2, box.text, size=FONT_SIZE)
            svg.close_group()
            above = top + BOX_HEIGHT
        if layout.unit.shortcut:
            _draw_curve(svg, layout, center, left + box_width)
        if layout.unit.count > 1:
            _draw_brace(svg, layout, left + box_width)
    svg.close_group()


def _place_units(column: Column, tops: dict[int, float]) -> list[UnitLayout]:
    """Place the boxes of each unit; those of one size fill their rows from the top."""
    used = dict.fromkeys(tops, 0)
    layouts = []
    for unit in column.units:
        ys = []
        for box in unit.boxes:
            ys.append(tops[box.size] + PITCH * used[box.size])
            used[box.size] += 1
        layouts.append(UnitLayout(unit, tuple(ys)))
    return layouts


def _draw_curve(svg: Svg, layout: UnitLayout, center: float, right: float) -> None:
    """Draw a shortcut from above the unit's first box to below its last, dotted if it widens."""
    shortcut = layout.unit.shortcut
    assert shortcut is not None
    out, y1, y2 = right + BULGE, layout.start, layout.end
    turn = min(16.0, (y2 - y1) / 3)
    svg.open_group(f"shortcut {'widening' if shortcut.widens else 'same'}", shortcut.tooltip)
    svg.path(
        f"M{center:g} {y1:g}H{right - 6:g}Q{out:g} {y1:g} {out:g} {y1 + turn:g}"
        f"V{y2 - turn:g}Q{out:g} {y2:g} {right - 6:g} {y2:g}H{center + 4:g}",
        dotted=shortcut.widens,
    )
    svg.tip_left(center + 0.8, y2)
    if shortcut.label:
        svg.text(out + 4, (y1 + y2) / 2, shortcut.label, size=SMALL, anchor="start", color=MUTED)
    svg.close_group()


def _draw_brace(svg: Svg, layout: UnitLayout, right: float) -> None:
    """Draw a brace at a unit that stands for several equal ones, with their number."""
    x = right + 2 + _right_margin(layout.unit) - BRACE_WIDTH
    top, bottom = layout.tops[0], layout.tops[-1] + BOX_HEIGHT
    middle = (top + bottom) / 2
    svg.open_group("fold")
    svg.path(
        f"M{x:g} {top:g}q5 0 5 5V{middle - 5:g}q0 5 5 5q-5 0 -5 5V{bottom - 5:g}q0 5 -5 5",
        color=MUTED,
    )
    svg.text(x + 14, middle, f"× {layout.unit.count}", size=FONT_SIZE, anchor="start", bold=True)
    svg.close_group()


def _draw_legend(svg: Svg, columns: Sequence[Column], top: float, width: float) -> float:
    """Draw the legend of curves and braces, one line each; returns its lowest point, px."""
    units = [unit for column in columns for unit in column.units]
    shortcuts = [unit.shortcut for unit in units if unit.shortcut]
    rows: list[tuple[str, str]] = []
    if any(not shortcut.widens for shortcut in shortcuts):
        rows.append(("solid", "shortcut, same dimensions"))
    if any(shortcut.widens for shortcut in shortcuts):
        rows.append(("dotted", "shortcut that increases dimensions"))
    if any(unit.count > 1 for unit in units):
        rows.append(("fold", "n equal blocks in a row, drawn once"))
    if not rows:
        return top
    svg.line(MARGIN, top, width - MARGIN, top, color=HAIRLINE)
    y = top + 4
    for kind, text in rows:
        y += 15
        x = MARGIN
        if kind == "fold":
            svg.text(x, y, "× n", size=10, anchor="start", bold=True)
        else:
            svg.path(f"M{x:g} {y:g}h26", dotted=kind == "dotted")
        svg.text(x + 36, y, text, size=10, anchor="start", color=MUTED)
    return y + 4


def _describe(column: Column) -> str:
    """Describe one column in words, for screen readers."""
    counts = [
        f"{column.total('conv')} convolutions",
        f"{column.total('pool')} pools",
        f"{column.total('fc')} fully connected",
    ]
    shortcuts = [unit.shortcut for unit in column.units for _ in range(unit.count)]
    kinds = [shortcut.widens for shortcut in shortcuts if shortcut]
    if kinds:
        counts.append(f"{len(kinds)} shortcuts, {sum(kinds)} of which increase dimensions")
    return f"{column.title}: {', '.join(counts)}"
