"""Rendering of templates: filters for numbers and sections, and the lead of a rendered page."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup, escape

from resnets.config.recipe import format_duration
from resnets.report.figure_style import THEME
from resnets.utils.printable import format_count, valid_text

MINUS = "\N{MINUS SIGN}"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# Elements with commands, and an option in one: lines must not break after its hyphens.
CODE = re.compile(r"<(pre|code)\b[^>]*>[^<]*</\1>")
OPTION = re.compile(r"(?<![\w/.=-])--[a-z][\w-]*")

Cell = str | float | int | None
Row = tuple[Cell, ...]


def render(template: str, **values: Any) -> str:
    """Render a template of report/templates, with escaping if its name ends in .html.j2."""
    found = _environment().get_template(template)
    text = valid_text(found.render(**values))
    is_page = found.name is None or found.name.endswith(".html.j2")
    return CODE.sub(_keep_options_together, text) if is_page else text


def _keep_options_together(element: re.Match[str]) -> str:
    return OPTION.sub(r'<span class="option">\g<0></span>', element[0])


def extract_lead(page: str) -> str:
    """Return the paragraphs of a page's lead as plain lines."""
    match = re.search(r'<div class="lead">(.*?)</div>', page, re.DOTALL)
    paragraphs = match[1].split("</p>") if match else []
    return "\n".join(filter(None, (Markup(each).striptags() for each in paragraphs)))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("resnets.report"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    filters: Mapping[str, Callable[..., Any]] = {
        "anchor": _anchor,
        "breakable": _breakable,
        "cell": format_cell,
        "duration": format_duration,
        "minus": minus_signs,
        "numeric": is_numeric,
        "sections": _list_sections,
        "significant": format_significant,
    }
    environment.filters |= filters
    environment.globals |= {"theme": THEME, "plural": format_count}
    return environment


def format_cell(value: Cell) -> str:
    """Format a value for a table: a dash for None, two decimals, or more if both are zero."""
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value != 0 and abs(value) < 0.01:
        return format_significant(value, 2)
    return f"{value:,.2f}".replace("-", MINUS)


def format_significant(value: float, digits: int = 3) -> str:
    """Format a value with `digits` significant digits: "0.0123", "42,000", "1.2 × 10⁻⁵"."""
    if not math.isfinite(value):
        return str(value)
    rounded = float(f"{value:.{digits}g}")
    power = math.floor(math.log10(abs(rounded))) if rounded else 0
    if -4 <= power < 6:
        text = f"{rounded:,.{max(0, digits - 1 - power)}f}" if rounded else "0"
    else:
        text = f"{rounded / 10.0**power:.{digits - 1}f} × {power_of_ten(power)}"
    return text.replace("-", MINUS)


def power_of_ten(exponent: int) -> str:
    """Format a power of ten, such as 10⁻⁶."""
    return f"10{str(exponent).translate(SUPERSCRIPTS)}"


def minus_signs(text: str) -> str:
    """Replace hyphens before numbers with minus signs."""
    return re.sub(r"(?<![\w.])-(?=\d)", MINUS, text)


def is_numeric(rows: Sequence[Row], column: int) -> bool:
    """Return whether most of a column's cells are numbers, text that starts with one, or empty."""
    cells = [row[column] for row in rows if row[column] is not None]
    numbers = [
        cell for cell in cells if not isinstance(cell, str) or re.match(r"[-−+±<>]?\s?\d", cell)
    ]
    return 2 * len(numbers) >= len(cells)


def _breakable(name: str) -> Markup:
    """Allow line breaks after the dots and underscores of a field's name."""
    return Markup(re.sub(r"(?<=\w[._])(?=\w)", "<wbr>", escape(name)))


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _list_sections(body: str) -> list[tuple[str, Markup]]:
    """Return anchor and title of each section in a page's body, for its table of contents."""
    sections = re.findall(r'<section id="([^"]+)">\s*<h2>(.*?)</h2>', body, re.DOTALL)
    return [(anchor, Markup(title)) for anchor, title in sections]
