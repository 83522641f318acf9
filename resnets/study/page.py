"""A study's report as a value, and that value as one self-contained HTML file.

Beside report.html stand figures/NAME.svg and .png, and numbers/NAME.csv with what each figure and
table shows. A drawing that is SVG text already has no .png.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure as Plot

from resnets.config import atomic_write
from resnets.study.figures import THEME
from resnets.utils.csv_files import CsvWriter

REPORT = "report.html"
PNG_DPI = 200
MINUS = "\N{MINUS SIGN}"
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")

Cell = str | float | int | None
Row = tuple[Cell, ...]
Tone = Literal["good", "bad", "open"]


@dataclass(frozen=True)
class Numbers:
    """What a CSV holds: raw values, with the run folder and step that each comes from."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A table of the page. `name` (lower case, digits, hyphens) is that of its CSV.

    None shows as a dash: a gap. `numbers` goes to the CSV where the page shows prettier text than
    the raw values; `folded` hides the table behind its caption until the reader opens it.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str
    numbers: Numbers | None = None
    folded: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure of the page: a matplotlib figure, or a drawing as SVG text.

    `caption` says what to see in it; `alt` says it to those who cannot. `narrow` is a version for
    a phone's width; without it the figure scrolls sideways in its own box there.
    """

    name: str
    figure: Plot | str
    caption: str
    alt: str
    narrow: Plot | None = None
    numbers: Numbers | None = None


@dataclass(frozen=True)
class Finding:
    """One result at the top of the page: `value` in large type, `label` above, `detail` below."""

    label: str
    value: str
    detail: str
    tone: Tone = "open"


@dataclass(frozen=True)
class Section:
    """A heading and its text (paragraphs parted by blank lines), figures and tables, in order."""

    title: str
    text: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Page:
    """A whole report. `lead` is the answer in plain words; `protocol` how the numbers were got.

    `commands` repeat the study; `environment` may nest one level of mappings; `recipe` is TOML,
    shown folded under the protocol. Two things stand above all else: `warning` says what is
    missing, and `caution` why the page concludes nothing (see `resnets.study.convergence`).
    """

    title: str
    lead: str
    sections: tuple[Section, ...]
    protocol: str
    commands: tuple[str, ...]
    environment: Mapping[str, Any]
    findings: tuple[Finding, ...] = ()
    warning: str = ""
    caution: str = ""
    recipe: str = ""


@dataclass(frozen=True)
class Report:
    """A page and the path of the report.html that holds it."""

    path: Path
    page: Page


def write_report(page: Page, folder: Path) -> Report:
    """`write_page`, with the page beside the path."""
    return Report(write_page(page, folder), page)


def write_page(page: Page, folder: Path) -> Path:
    """Write the report into `folder` (made if missing) and return the path of report.html.

    report.html is replaced whole or not at all, after all that stands beside it.
    """
    figures = [figure for section in page.sections for figure in section.figures]
    tables = [table for section in page.sections for table in section.tables]
    shown: list[Figure | Table] = [*figures, *tables]
    names = [each.name for each in shown]
    assert len(set(names)) == len(names), f"names are used twice: {names}"
    assert all(NAME.fullmatch(name) for name in names), f"unfit for files and ids: {names}"
    for subfolder in ("figures", "numbers"):
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
    inline = {figure.name: _write_figure(figure, folder / "figures") for figure in figures}
    for each in shown:
        _write_numbers(each, folder / "numbers")
    text = _template().render(page=page, theme=THEME, inline=inline)
    path = folder / REPORT
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _write_figure(figure: Figure, folder: Path) -> Markup:
    """Write the figure's files; returns it as markup for the page."""
    if isinstance(figure.figure, str):
        svg = figure.figure
    else:
        svg = _svg_of(figure.figure, figure.name)
        with atomic_write(folder / f"{figure.name}.png") as temporary:
            figure.figure.savefig(temporary, format="png", dpi=PNG_DPI)
    with atomic_write(folder / f"{figure.name}.svg") as temporary:
        temporary.write_text(svg, encoding="utf-8")
    if isinstance(figure.figure, str):
        return Markup(_inline(svg, figure.name, figure.alt, "drawing"))
    kind = "plot" if figure.narrow is None else "plot wide"
    parts = [_inline(svg, figure.name, figure.alt, kind)]
    if figure.narrow is not None:
        name = f"{figure.name}-narrow"
        parts.append(_inline(_svg_of(figure.narrow, name), name, figure.alt, "plot narrow"))
    return Markup("\n".join(parts))


def _svg_of(plot: Plot, name: str) -> str:
    """The figure as SVG with real text; the same figure gives the same bytes."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        plot.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _inline(svg: str, name: str, alt: str, kind: str) -> str:
    """An SVG document made fit to stand in a page with others: own ids, a name for readers' tools.

    A plot's colours become the page's variables, so that it follows light and dark.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    if kind != "drawing":
        svg = _themed(svg)
    _, attributes, body = re.split(r"<svg([^>]*)>", svg, maxsplit=1)
    attributes = re.sub(r'\s(role|class|width|height)="[^"]*"', "", attributes)
    width = float(re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+)', attributes)[1])  # type: ignore[index]
    # A plot is drawn in points, a drawing in pixels; at most its natural size, at 4/3 px a point.
    natural = width if kind == "drawing" else width * 4 / 3
    return (
        f'<svg{attributes} class="{kind}" role="img" aria-label="{html.escape(alt)}" '
        f'style="--natural: {natural:.0f}px">{body}'
    )


def _themed(svg: str) -> str:
    """Replace the theme's light colours by CSS variables; black and white count as ink and card."""
    names = {light: name for name, (light, _) in THEME.items()}
    names |= {"#000000": "ink", "#ffffff": "card"}

    def variable(match: re.Match[str]) -> str:
        color = match[0]
        return f"var(--{names[color]})" if color in names else color

    return re.sub(r"(?<=: )#[0-9a-f]{6}\b", variable, svg)


def _write_numbers(shown: Figure | Table, folder: Path) -> None:
    """The CSV of a figure or table; a figure without numbers (a drawing) has none."""
    numbers = shown.numbers
    if numbers is None and isinstance(shown, Table):
        numbers = Numbers(shown.columns, shown.rows)
    if numbers is None:
        return
    with (
        atomic_write(folder / f"{shown.name}.csv") as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        writer = CsvWriter(file)
        writer.writerow(numbers.columns)
        writer.writerows(numbers.rows)


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("resnets", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": show, "numeric": is_numeric, "paragraphs": paragraphs}
    return environment.get_template("study.html.j2")


def show(value: Cell) -> str:
    """A value as a table shows it: a dash for None, two decimals, more where they are all zero."""
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:,.2f}" if value == 0 or abs(value) >= 0.01 else f"{value:.2g}"
    return text.replace("-", MINUS)


def minus_signs(text: str) -> str:
    """`text` with real minus signs before numbers, in place of hyphens."""
    return re.sub(r"(?<![\w.])-(?=\d)", MINUS, text)


def is_numeric(rows: Sequence[Row], column: int) -> bool:
    """Whether most of a column's cells are numbers, or text that starts with one: align right."""
    cells = [row[column] for row in rows if row[column] is not None]
    numbers = [
        cell for cell in cells if not isinstance(cell, str) or re.match(r"[-−+±<>]?\s?\d", cell)
    ]
    return bool(cells) and 2 * len(numbers) >= len(cells)


def paragraphs(text: str) -> list[str]:
    """Paragraphs of a text in which blank lines part them."""
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
