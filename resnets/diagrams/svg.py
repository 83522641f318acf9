"""A small SVG writer for the shapes of diagrams, without ids, scripts or style sheets.

Styles are presentation attributes, so that several drawings can be inlined in one page.
"""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

INK = "#1f2430"
MUTED = "#5b6270"
HAIRLINE = "#dfe2e8"
FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
ARROW = 5.0  # length of an arrowhead, px


class Svg:
    """A drawing under construction; coordinates are px from the top left corner."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str,
        stroke: str,
        radius: float,
    ) -> None:
        """Add a rectangle with rounded corners."""
        self._add("rect", x=x, y=y, width=width, height=height, rx=radius, fill=fill, stroke=stroke)

    def circle(self, x: float, y: float, radius: float) -> None:
        """Add an outlined circle around (x, y)."""
        self._add("circle", cx=x, cy=y, r=radius, fill="#ffffff", stroke=INK)

    def path(self, commands: str, *, color: str = INK, dotted: bool = False) -> None:
        """Add an unfilled path; `commands` is SVG path data."""
        style: dict[str, object] = {"stroke-width": 1.6 if dotted else 1.1}
        if dotted:
            style |= {"stroke-dasharray": "0.1 3.4", "stroke-linecap": "round"}
        self._add("path", d=commands, fill="none", stroke=color, **style)

    def line(self, x1: float, y1: float, x2: float, y2: float, *, color: str = INK) -> None:
        """Add a straight line."""
        self.path(f"M{_num(x1)} {_num(y1)}L{_num(x2)} {_num(y2)}", color=color)

    def arrow_down(self, x: float, top: float, bottom: float) -> None:
        """Add a vertical arrow whose tip is at (x, bottom)."""
        self.line(x, top, x, bottom - ARROW + 1)
        self._tip(f"M{_num(x)} {_num(bottom)}l{-ARROW / 2} {-ARROW}h{ARROW}z")

    def tip_left(self, x: float, y: float) -> None:
        """Add an arrowhead that points left, its tip at (x, y)."""
        self._tip(f"M{_num(x)} {_num(y)}l{ARROW} {-ARROW / 2}v{ARROW}z")

    def _tip(self, commands: str) -> None:
        self._add("path", d=commands, fill=INK)

    def text(
        self,
        x: float,
        y: float,
        content: str,
        *,
        size: float = 11,
        anchor: str = "middle",
        color: str = INK,
        bold: bool = False,
        italic: bool = False,
    ) -> None:
        """Add a line of text with its vertical middle at y; `anchor` is start, middle or end."""
        extra = {"font-weight": "bold"} if bold else {}
        if italic:
            extra["font-style"] = "italic"
        # The baseline is offset here, because few renderers support `dominant-baseline`.
        attributes = _format_attributes(
            {"x": x, "y": y + 0.35 * size, "font-size": size, "text-anchor": anchor, "fill": color}
            | extra
        )
        self._parts.append(f"<text{attributes}>{escape(content)}</text>")

    def open_group(self, kind: str, tooltip: str | None = None) -> None:
        """Start a group of class `kind`; viewers show `tooltip` on hover."""
        title = "" if tooltip is None else f"<title>{escape(tooltip)}</title>"
        self._parts.append(f"<g class={quoteattr(kind)}>{title}")

    def close_group(self) -> None:
        """End the innermost group."""
        self._parts.append("</g>")

    def render(self, width: float, height: float, title: str, description: str) -> str:
        """Return the document, with a white background of `width` x `height` px."""
        w, h = _num(width), _num(height)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" '
            f'viewBox="0 0 {w} {h}" role="img" font-family="{FONT}">\n'
            f"<title>{escape(title)}</title>\n<desc>{escape(description)}</desc>\n"
            f'<rect x="0.5" y="0.5" width="{_num(width - 1)}" height="{_num(height - 1)}" rx="8" '
            f'fill="#ffffff" stroke="{HAIRLINE}"/>\n' + "\n".join(self._parts) + "\n</svg>\n"
        )

    def _add(self, tag: str, **attributes: object) -> None:
        self._parts.append(f"<{tag}{_format_attributes(attributes)}/>")


def text_width(content: str, size: float) -> float:
    """Return the approximate width of `content` in px; Helvetica averages 0.55 em."""
    return 0.55 * size * len(content)


def _format_attributes(values: dict[str, object]) -> str:
    return "".join(
        f" {key}={quoteattr(_num(value) if isinstance(value, float | int) else str(value))}"
        for key, value in values.items()
    )


def _num(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
