"""Rendering of templates: filters for numbers and sections, and the lead of a rendered page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from resnets.config.recipe import format_duration
from resnets.report.figure_style import THEME
from resnets.utils.printable import format_count, valid_text

MINUS = "\N{MINUS SIGN}"

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
        "cell": format_cell,
        "duration": format_duration,
        "minus": minus_signs,
        "numeric": is_numeric,
        "sections": _list_sections,
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
    text = f"{value:,.2f}" if value == 0 or abs(value) >= 0.01 else f"{value:.2g}"
    return text.replace("-", MINUS)


def minus_signs(text: str) -> str:
    """Replace hyphens before numbers with minus signs."""
    return re.sub(r"(?<![\w.])-(?=\d)", MINUS, text)


def is_numeric(rows: Sequence[Row], column: int) -> bool:
    """Return whether most of a column's cells are numbers, or text that starts with one."""
    cells = [row[column] for row in rows if row[column] is not None]
    numbers = [
        cell for cell in cells if not isinstance(cell, str) or re.match(r"[-−+±<>]?\s?\d", cell)
    ]
    return bool(cells) and 2 * len(numbers) >= len(cells)


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _list_sections(body: str) -> list[tuple[str, Markup]]:
    """Return anchor and title of each section in a page's body, for its table of contents."""
    sections = re.findall(r'<section id="([^"]+)">\s*<h2>(.*?)</h2>', body, re.DOTALL)
    return [(anchor, Markup(title)) for anchor, title in sections]
