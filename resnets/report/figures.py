"""How figures of reports are drawn and put into pages.

Figures are drawn in the light colors of `THEME`; in a page these become CSS variables, so that a
figure follows the reader's light or dark setting. A figure of several panels is drawn once: a page
shows each panel through a window of its own, side by side on a desktop and stacked on a phone.
"""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Plot
    from matplotlib.transforms import Bbox

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

PANEL = (4.3, 3.9)  # inches of one panel: two fit beside each other on a desktop, one on a phone
PX_PER_POINT = 4 / 3
MARGIN = 3  # points around a panel's window


def figure_style() -> AbstractContextManager[None]:
    """Settings of matplotlib shared by all reports; make figures and their axes inside it."""
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
    """`count` colors from shallow to deep, spread over the palette; beyond six they repeat."""
    last = len(SERIES) - 1
    if count > len(SERIES):
        return [SERIES[index % len(SERIES)] for index in range(count)]
    return [SERIES[round(index * last / max(1, count - 1))] for index in range(count)]


def integer_ticks(axes: Axes) -> None:
    """Ticks of the x axis at integers only: layers, blocks and steps have no halves."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def to_svg(plot: Plot, name: str) -> str:
    """The figure as SVG with real text; the same figure gives the same bytes."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        plot.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def inline_plot(plot: Plot, svg: str, name: str) -> Markup:
    """The markup of a figure in a page: its legend, if it has one, then a window on each panel.

    The drawing is in the first window; the others refer to it. `svg` is `to_svg(plot, name)`.
    """
    drawing = _themed(_embedded(svg, name))
    attributes, body = _split(drawing)
    scale = _width(attributes) / plot.get_figwidth()  # points an inch
    key, panels = _windows(plot)
    markup: list[str] = []
    for window in [*key, *panels]:
        left, right = (window.x0 * scale - MARGIN, window.x1 * scale + MARGIN)
        height = plot.get_figheight()
        top, bottom = (height - window.y1) * scale - MARGIN, (height - window.y0) * scale + MARGIN
        box = f"{left:.1f} {top:.1f} {right - left:.1f} {bottom - top:.1f}"
        width = f"{(right - left) * PX_PER_POINT:.0f}px"
        content = f'<use href="#{name}-figure_1"/>' if markup else body
        markup.append(f'<svg class="plot" viewBox="{box}" style="--width: {width}">{content}</svg>')
    return Markup(
        "".join(f'<div class="key">{each}</div>' for each in markup[: len(key)])
        + f'<div class="panels">{"".join(markup[len(key) :])}</div>'
    )


def inline_drawing(svg: str, name: str) -> Markup:
    """The markup of a drawing, given as SVG in pixels, in a page."""
    attributes, body = _split(_embedded(svg, name))
    attributes = re.sub(r'\s(role|class|width|height|aria-label)="[^"]*"', "", attributes)
    width = _width(attributes)
    return Markup(f'<svg{attributes} class="drawing" style="--width: {width:.0f}px">{body}</svg>')


def _windows(plot: Plot) -> tuple[list[Bbox], list[Bbox]]:
    """The boxes of the figure's legends and of its visible panels, in inches from bottom left.

    Panels in one row of the grid have one height, so that they stand level in a page.
    """
    from matplotlib.transforms import Bbox

    dpi = plot.get_dpi()

    def inches(box: Bbox) -> Bbox:
        return Bbox.from_extents(*(value / dpi for value in box.extents))

    legends = [inches(legend.get_window_extent()) for legend in plot.legends]
    rows: dict[int, list[Bbox]] = {}
    for axes in plot.axes:
        place, box = axes.get_subplotspec(), axes.get_tightbbox() if axes.get_visible() else None
        if box is not None:
            rows.setdefault(place.rowspan.start if place else 0, []).append(inches(box))
    level = [
        Bbox.from_extents(box.x0, min(b.y0 for b in row), box.x1, max(b.y1 for b in row))
        for row in rows.values()
        for box in row
    ]
    return legends, level


def _embedded(svg: str, name: str) -> str:
    """An SVG document made fit to stand in a page with others: ids of its own, no namespaces."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)


def _themed(svg: str) -> str:
    """Replace the theme's light colors and the font by CSS variables.

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


def _split(svg: str) -> tuple[str, str]:
    """The attributes of the outer element, and what follows its start tag but the end tag."""
    _, attributes, body = re.split(r"<svg([^>]*)>", svg, maxsplit=1)
    return attributes, body.rstrip().removesuffix("</svg>")


def _width(attributes: str) -> float:
    """Width of the drawing in its own units."""
    match = re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+)', attributes)
    assert match is not None
    return float(match[1])
