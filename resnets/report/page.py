"""Pages: one self-contained HTML file, rendered from a template that extends base.html.j2.

The text of a page is in its template; Python hands over values, figures and tables. Beside
report.html stand figures/NAME.svg and .png, and numbers/NAME.csv with what each figure and table
shows. A drawing that is SVG text already has no .png.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from resnets.report.figures import inline_drawing, inline_plot, to_svg
from resnets.report.index import REPORT, update_index
from resnets.report.render import Row, lead_of, render
from resnets.utils.csv_files import write_csv
from resnets.utils.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

PNG_DPI = 200
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")

Tone = Literal["good", "bad", "open"]


@dataclass(frozen=True)
class Numbers:
    """The content of a CSV file: raw values, with the run folder and step each comes from."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def write(self, path: Path) -> None:
        """Write the CSV file, whole or not at all."""
        write_csv(path, self.columns, self.rows)


@dataclass(frozen=True)
class Table:
    """A table of a page. `name` (lower case, digits, hyphens) is that of its CSV file.

    None is shown as a dash. `numbers` goes into the CSV file where the page shows prettier text
    than the raw values.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    numbers: Numbers | None = None

    def write(self, folder: Path) -> None:
        """Write the CSV file below `folder`."""
        numbers = self.numbers or Numbers(self.columns, self.rows)
        numbers.write(folder / "numbers" / f"{self.name}.csv")


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
        """The figure as it stands in a page."""
        if isinstance(self.plot, str):
            return inline_drawing(self.svg, self.name)
        return inline_plot(self.plot, self.svg, self.name)

    def write(self, folder: Path) -> None:
        """Write the figure's files below `folder`."""
        with atomic_write(folder / "figures" / f"{self.name}.svg") as temporary:
            temporary.write_text(self.svg, encoding="utf-8")
        if not isinstance(self.plot, str):
            with atomic_write(folder / "figures" / f"{self.name}.png") as temporary:
                self.plot.savefig(temporary, format="png", dpi=PNG_DPI)
        if self.numbers is not None:
            self.numbers.write(folder / "numbers" / f"{self.name}.csv")


@dataclass(frozen=True)
class Report:
    """A written page: the path of its report.html, the text of its lead, and its caution."""

    path: Path
    lead: str
    caution: str


def write_page(
    folder: Path,
    template: str,
    *,
    figures: Sequence[Figure] = (),
    tables: Sequence[Table] = (),
    **values: Any,
) -> Report:
    """Render `template` into report.html in `folder` (created if missing), with its files.

    The template gets `values`, and the figures and tables by name. report.html is replaced whole
    or not at all, after all that stands beside it.
    """
    shown: list[Figure | Table] = [*figures, *tables]
    names = [each.name for each in shown]
    assert len(set(names)) == len(names), f"names are used twice: {names}"
    assert all(NAME.fullmatch(name) for name in names), f"unfit for files and ids: {names}"
    for subfolder in ("figures", "numbers"):
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
    for each in shown:
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
    return Report(path, lead_of(page), values.get("caution", ""))
