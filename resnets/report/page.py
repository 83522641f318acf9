"""Pages: one self-contained HTML file from a template that extends base.html.j2, and their index.

The text of a page is in its template; Python passes values, figures and tables. The folder of
report.html also gets figures/NAME.svg and .png, and numbers/NAME.csv with the data of each figure
and table. A drawing that is already SVG text has no .png.
"""

from __future__ import annotations

import base64
import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup, escape

from resnets.config import ConfigError
from resnets.report.figure_style import inline_drawing, inline_plot, to_svg
from resnets.report.render import Cell, Row, extract_lead, render
from resnets.utils.api_function import api_function
from resnets.utils.files.csv import write_csv
from resnets.utils.files.locks import RUNS
from resnets.utils.files.write import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

REPORT, INDEX = "report.html", "studies.html"
OF_STUDY = '<meta name="generator" content="resnets study">'  # in study/base.html.j2
PNG_DPI = 200
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class Numbers:
    """The content of a CSV file: raw values, with the run folder and step each comes from."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def write(self, path: Path) -> None:
        """Write the CSV file atomically."""
        write_csv(path, self.columns, self.rows)

    def to_dicts(self) -> list[dict[str, Cell]]:
        """Return the rows as dictionaries by column."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True)
class Table:
    """A table of a page. `name` (lower case, digits, hyphens) is that of its CSV file.

    None is shown as a dash. numbers: content of the CSV file, if not the cells of the page.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    numbers: Numbers | None = None

    @property
    def content(self) -> Numbers:
        """The content of the CSV file."""
        return self.numbers or Numbers(self.columns, self.rows)

    def write(self, folder: Path) -> None:
        """Write the CSV file below `folder`."""
        self.content.write(folder / "numbers" / f"{self.name}.csv")


@dataclass(frozen=True)
class Figure:
    """A figure of a page: a matplotlib figure, or a drawing as SVG text."""

    name: str
    plot: Plot | str
    numbers: Numbers | None = None

    @cached_property
    def svg(self) -> str:
        """The figure as an SVG document."""
        return self.plot if isinstance(self.plot, str) else to_svg(self.plot, self.name)

    @cached_property
    def markup(self) -> Markup:
        """The figure's HTML in a page."""
        if isinstance(self.plot, str):
            return inline_drawing(self.svg, self.name)
        return inline_plot(self.plot, self.svg, self.name)

    def write(self, folder: Path) -> None:
        """Write the figure's files below `folder`."""
        with atomic_write(_svg_path(folder, self.name)) as temporary:
            temporary.write_text(self.svg, encoding="utf-8")
        if not isinstance(self.plot, str):
            with atomic_write(folder / "figures" / f"{self.name}.png") as temporary:
                self.plot.savefig(temporary, format="png", dpi=PNG_DPI)
        if self.numbers is not None:
            self.numbers.write(folder / "numbers" / f"{self.name}.csv")


@dataclass(frozen=True, eq=False, repr=False)
class StudyResult:
    """What a study has written into `folder`; a notebook shows its conclusion and figures.

        rows = result.tables["gradient-states"]  # pandas.DataFrame(rows) is the table
        result.figures["gradients-start"]  # figures/gradients-start.svg; the .png is next to it

    lead: the conclusion. caution: why there is none, "" if there is one. tables: by name the rows
    of numbers/NAME.csv, each a dictionary by column; None is an empty cell. figures: by name the
    path of the SVG file.
    """

    folder: Path
    lead: str
    caution: str
    tables: Mapping[str, list[dict[str, Cell]]]
    figures: Mapping[str, Path]

    @property
    def report(self) -> Path:
        """The report, one self-contained HTML file."""
        return self.folder / REPORT

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r}, tables={[*self.tables]})"

    def _repr_html_(self) -> str:
        text = [f"<p><b>No conclusion.</b> {escape(self.caution)}</p>"] if self.caution else []
        text += [f"<p>{escape(each)}</p>" for each in self.lead.splitlines()]
        text += [_embed_image(name, path) for name, path in self.figures.items()]
        return "".join([*text, f"<p>report: <code>{escape(str(self.report))}</code></p>"])


def write_page(
    folder: Path,
    template: str,
    *,
    figures: Sequence[Figure] = (),
    tables: Sequence[Table] = (),
    **values: Any,
) -> StudyResult:
    """Render `template` into report.html in `folder` (created if missing), with its files.

    The template gets `values`, and the figures and tables by name. report.html is written
    atomically, after its other files.
    """
    parts: list[Figure | Table] = [*figures, *tables]
    names = [each.name for each in parts]
    assert len(set(names)) == len(names), f"duplicate names: {names}"
    assert all(NAME.fullmatch(name) for name in names), f"invalid in files and ids: {names}"
    for subfolder in ("figures", "numbers"):
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
    for each in parts:
        each.write(folder)
    page = render(
        template,
        figures={each.name: each for each in figures},
        tables={each.name: each for each in tables},
        **values,
    )
    path = folder / REPORT
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    update_index(folder)
    numbers = {each.name: each.numbers for each in figures}
    numbers |= {each.name: each.content for each in tables}
    return StudyResult(
        folder,
        extract_lead(page),
        values.get("caution", ""),
        {name: each.to_dicts() for name, each in numbers.items() if each is not None},
        {each.name: _svg_path(folder, each.name) for each in figures},
    )


@dataclass(frozen=True)
class Entry:
    """A study in the index; `date` is that of its page."""

    folder: str
    link: str
    title: str
    lead: str
    caution: str
    date: str


@api_function
def write_index(folder: str | PathLike[str] = RUNS) -> Path:
    """Write studies.html, which links the pages of all studies in `folder`; returns its path.

    Raises ConfigError if `folder` has no study.
    """
    folder = Path(folder).expanduser()
    pages = sorted(folder.glob(f"*/{REPORT}"), key=lambda path: -path.stat().st_mtime)
    texts = {path: path.read_text(encoding="utf-8") for path in pages}
    studies = [_read_entry(path, text) for path, text in texts.items() if OF_STUDY in text]
    if not studies:
        raise ConfigError(f"{folder}: no folder of a study with a {REPORT} in it")
    values = {"studies": studies, "others": len(texts) - len(studies)}
    page = render("study/index.html.j2", folder=folder.name or str(folder), **values)
    with atomic_write(folder / INDEX) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / INDEX


def update_index(study: Path) -> None:
    """Write the index into the parent of a study's folder, if it is runs/ or already has one.

    Nothing is written into the parent of a folder that the user has chosen.
    """
    if study.parent == RUNS or (study.parent / INDEX).is_file():
        write_index(study.parent)


def _svg_path(folder: Path, name: str) -> Path:
    return folder / "figures" / f"{name}.svg"


def _embed_image(name: str, svg: Path) -> str:
    """Return a figure as an HTML image, so that its ids cannot collide with those of others."""
    png = svg.with_suffix(".png")  # smaller, but drawings have none
    path, kind = (png, "png") if png.is_file() else (svg, "svg+xml")
    content = base64.b64encode(path.read_bytes()).decode()
    style = "max-width: 100%; background: white"
    return f'<p><img alt="{name}" style="{style}" src="data:image/{kind};base64,{content}"></p>'


def _read_entry(path: Path, text: str) -> Entry:
    def find(pattern: str) -> str:
        match = re.search(pattern, text, re.DOTALL)
        return Markup(match[1]).striptags() if match else ""

    day = datetime.datetime.fromtimestamp(path.stat().st_mtime).date().isoformat()
    return Entry(
        folder=path.parent.name,
        link=quote(f"{path.parent.name}/{REPORT}"),
        title=find(r"<title>(.*?)</title>"),
        lead=extract_lead(text),
        caution=find(r"<b>No conclusion\.</b>(.*?)</p>"),
        date=day,
    )
