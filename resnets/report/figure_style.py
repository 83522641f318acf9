"""Figures and images of reports: style, panels, colors, and their markup in pages.

Figures are drawn in the light colors of `THEME`; in a page these become CSS variables, so that a
figure follows the reader's light or dark setting. A figure of several panels is drawn once: a page
shows each panel in an SVG of its own, side by side on a desktop and stacked on a phone.
"""

from __future__ import annotations

import base64
import io
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Plot
    from matplotlib.transforms import Bbox
    from numpy.typing import NDArray

# CSS variable -> (light, dark). Series run from shallow to deep along a perceptually even ramp
# (after matplotlib's plasma), so they stay in order under every color blindness and in gray;
# as they color labels too, each has a contrast of 4.5:1 to the card (WCAG 1.4.3).
THEME = {
    "ink": ("#1c2330", "#e7eaf0"),
    "soft": ("#586174", "#a3adbd"),
    "line": ("#dde1e8", "#333b49"),
    "card": ("#ffffff", "#171c25"),
    "series-1": ("#b9570d", "#a578e8"),
    "series-2": ("#c5305f", "#dd6fb4"),
    "series-3": ("#a42c95", "#f2857c"),
    "series-4": ("#6b28a8", "#f8a45e"),
    "series-5": ("#33208f", "#f7c948"),
    "series-6": ("#140b52", "#fbf0b2"),
}
INK, SOFT, LINE, CARD = (THEME[name][0] for name in ("ink", "soft", "line", "card"))
SERIES = tuple(light for name, (light, _) in THEME.items() if name.startswith("series"))
# Over the pixels of an image, which are the same in both themes: not among the theme's colors.
DARK_ON_IMAGE, LIGHT_ON_IMAGE = "#1b222f", "#fefefe"

PANEL = (4.3, 3.9)  # inches of a panel: two fit side by side on a desktop, one on a phone
PX_PER_POINT = 4 / 3
MARGIN = 3  # points around a panel
LAYOUT_PASSES = 2  # that make a layout stable
THUMBNAIL_SIDE = 160  # px of the longer side


def figure_style() -> AbstractContextManager[None]:
    """Context with the matplotlib style of all reports, in which to create figures and axes."""
    from matplotlib import style

    return style.context(Path(__file__).with_name("resnets.mplstyle"))


def subplots(
    count: int,
    *,
    max_columns: int = 2,
    panel: tuple[float, float] = PANEL,
    share: str | bool = False,
) -> tuple[Plot, list[Axes]]:
    """Return a figure of `count` panels, each of `panel` inches, with tick labels of its own.

    share: what the panels' axes have in common: "x", "y", "both" or nothing.
    """
    from matplotlib.figure import Figure

    columns = min(max_columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(columns * panel[0], rows * panel[1]))
    grid = figure.subplots(
        rows,
        columns,
        squeeze=False,
        sharex=share in ("x", "both"),
        sharey=share in ("y", "both"),
    )
    panels = list(grid.flat)
    for axes in panels:
        axes.tick_params(labelleft=True, labelbottom=True, length=3)
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels[:count]


def add_legend(figure: Plot, axes: Axes, columns: int = 2) -> None:
    """Put the legend of the lines of `axes` above the panels of `figure`."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def series_colors(count: int) -> list[str]:
    """Return `count` colors from shallow to deep, spread over the palette; from seven on cyclic."""
    last = len(SERIES) - 1
    if count > len(SERIES):
        return [SERIES[index % len(SERIES)] for index in range(count)]
    return [SERIES[round(index * last / max(1, count - 1))] for index in range(count)]


def integer_ticks(axes: Axes) -> None:
    """Put ticks of the x axis at integers only, for layers, blocks and steps."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def to_svg(plot: Plot, name: str) -> str:
    """Return the figure as SVG with text elements; equal figures give equal bytes."""
    from matplotlib import rc_context

    _freeze_layout(plot)
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        plot.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _freeze_layout(plot: Plot) -> None:
    """Repeat the constrained layout until it is stable, and end it.

    With axes of a fixed aspect each repetition moves them a little, so boxes that are measured
    later would not be those of an SVG that was written before. Drawing in between would take
    twice as long, and so would saving a figure that has a layout engine.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = plot.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        for _ in range(LAYOUT_PASSES):
            engine.execute(plot)
        plot.set_layout_engine(None)


def inline_plot(plot: Plot, svg: str, name: str) -> Markup:
    """Return the markup of a figure in a page: its legends, then each panel in an SVG of its own.

    The first SVG has the drawing; the others refer to it. `svg` is `to_svg(plot, name)`.
    """
    drawing = _apply_theme(_make_embeddable(svg, name))
    attributes, body = _split_svg(drawing)
    scale = _view_width(attributes) / plot.get_figwidth()  # points per inch
    legends, panels = _bounding_boxes(plot)
    markup: list[str] = []
    for bounds in [*legends, *panels]:
        left, right = (bounds.x0 * scale - MARGIN, bounds.x1 * scale + MARGIN)
        height = plot.get_figheight()
        top, bottom = (height - bounds.y1) * scale - MARGIN, (height - bounds.y0) * scale + MARGIN
        box = f"{left:.1f} {top:.1f} {right - left:.1f} {bottom - top:.1f}"
        width = f"{(right - left) * PX_PER_POINT:.0f}px"
        content = f'<use href="#{name}-figure_1"/>' if markup else body
        markup.append(f'<svg class="plot" viewBox="{box}" style="--width: {width}">{content}</svg>')
    return Markup(
        "".join(f'<div class="key">{each}</div>' for each in markup[: len(legends)])
        + f'<div class="panels">{"".join(markup[len(legends) :])}</div>'
    )


def inline_drawing(svg: str, name: str) -> Markup:
    """Return the markup in a page of a drawing given as SVG in pixels."""
    attributes, body = _split_svg(_make_embeddable(svg, name))
    attributes = re.sub(r'\s(role|class|width|height|aria-label)="[^"]*"', "", attributes)
    width = _view_width(attributes)
    return Markup(f'<svg{attributes} class="drawing" style="--width: {width:.0f}px">{body}</svg>')


@dataclass(frozen=True)
class Thumbnail:
    """A small image in a page: its data URI (empty if there is none), width and height."""

    source: str = ""
    width: int = 0
    height: int = 0

    @classmethod
    def of(cls, pixels: NDArray[Any]) -> Thumbnail:
        """Return the thumbnail of an image (H, W, 3), or (H, W) gray, uint8."""
        from PIL import Image

        image = Image.fromarray(pixels)
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        data = io.BytesIO()
        image.save(data, "JPEG", quality=80)
        text = base64.b64encode(data.getvalue()).decode()
        return cls(f"data:image/jpeg;base64,{text}", *image.size)


def _bounding_boxes(plot: Plot) -> tuple[list[Bbox], list[Bbox]]:
    """Return the boxes of the figure's legends and visible panels, in inches from bottom left.

    Panels of one row have one height, so that they are aligned in a page.
    """
    from matplotlib.transforms import Bbox

    dpi = plot.get_dpi()

    def inches(box: Bbox) -> Bbox:
        return Bbox.from_extents(*(value / dpi for value in box.extents))

    legends = [inches(legend.get_window_extent()) for legend in plot.legends]
    rows: dict[int, list[Bbox]] = {}
    for axes in plot.axes:
        spec, box = axes.get_subplotspec(), axes.get_tightbbox() if axes.get_visible() else None
        if box is not None:
            rows.setdefault(spec.rowspan.start if spec else 0, []).append(inches(box))
    panels = [
        Bbox.from_extents(box.x0, min(b.y0 for b in row), box.x1, max(b.y1 for b in row))
        for row in rows.values()
        for box in row
    ]
    return legends, panels


def _make_embeddable(svg: str, name: str) -> str:
    """Prefix the ids of an SVG document with `name`, and remove metadata and namespaces."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)


def _apply_theme(svg: str) -> str:
    """Replace the theme's light colors and the font with CSS variables.

    Black and white count as ink and card.
    """
    names = {light: name for name, (light, _) in THEME.items()}
    names |= {"#000000": "ink", "#ffffff": "card"}

    def variable(match: re.Match[str]) -> str:
        color = match[0]
        return f"var(--{names[color]})" if color in names else color

    svg = re.sub(r"(?<=: )#[0-9a-f]{6}\b", variable, svg)
    svg = re.sub(r"font-family: [^\";]+", "font-family: var(--sans)", svg)
    return re.sub(r"font: ([^\"';]*?px) [^\";]+", r"font: \1 var(--sans)", svg)


def _split_svg(svg: str) -> tuple[str, str]:
    """Return the attributes and the content of the outer element."""
    _, attributes, body = re.split(r"<svg([^>]*)>", svg, maxsplit=1)
    return attributes, body.rstrip().removesuffix("</svg>")


def _view_width(attributes: str) -> float:
    """Return the width of the drawing in its own units."""
    match = re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+)', attributes)
    assert match is not None
    return float(match[1])
