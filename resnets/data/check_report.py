"""What a check found, as files: a table, a page with thumbnails, and a quarantine list."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from PIL import Image

from resnets.config import whole_file
from resnets.config.csv_files import CsvWriter
from resnets.data.check import CheckReport
from resnets.data.check_findings import KINDS, Finding, Kind
from resnets.data.check_source import Contents
from resnets.data.decode import decode_whole
from resnets.data.errors import DataError
from resnets.data.quarantine import QUARANTINE, write_quarantine

TABLE, PAGE = "files.csv", "report.html"
SHOWN = 24  # findings of a kind on the page
SIDE = 160  # px of a thumbnail's longer side
COLUMNS = ("path", "finding", "weight", "detail", "part", "class", "twin")


@dataclass(frozen=True)
class Picture:
    """A thumbnail as a data URI, empty where there is none, and its width and height."""

    source: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Shown:
    """A finding on the page, with the picture it is about and that one's twin."""

    finding: Finding
    picture: Picture
    twin: Picture


def write_check(report: CheckReport, out: Path, kinds: frozenset[Kind] = frozenset()) -> list[Path]:
    """Write files.csv, report.html and quarantine.txt into folder `out`; returns their paths.

    Broken pictures are put in quarantine, and those of `kinds`. Each file appears whole or not at
    all.
    """
    out.mkdir(parents=True, exist_ok=True)
    listed = report.quarantine(kinds)
    for name, text in ((TABLE, _table(report.findings)), (PAGE, _page(report, listed, kinds))):
        with whole_file(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    entries = ((each.path, f"{each.kind.name}: {each.detail}") for each in listed)
    write_quarantine(out / QUARANTINE, entries)
    return [out / TABLE, out / PAGE, out / QUARANTINE]


def _table(findings: Sequence[Finding]) -> str:
    text = io.StringIO()
    writer = CsvWriter(text)
    writer.writerow(COLUMNS)
    for each in findings:
        kind = each.kind
        cells = (each.path, kind.name, kind.weight, each.detail, each.part, each.label, each.twin)
        writer.writerow(cells)
    return text.getvalue()


def _page(report: CheckReport, listed: Sequence[Finding], kinds: frozenset[Kind]) -> str:
    chosen = {
        kind: [each for each in report.findings if each.kind == kind][:SHOWN]
        for kind in (*KINDS, *report.counts)  # others may have kinds of their own
        if kind in report.counts
    }
    paths = {path for some in chosen.values() for each in some for path in (each.path, each.twin)}
    thumbnail = _thumbnails(report.contents, paths)
    sections = [
        (kind, [Shown(each, thumbnail(each.path), thumbnail(each.twin)) for each in some])
        for kind, some in chosen.items()
    ]
    loader = jinja2.PackageLoader("resnets", "templates")
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("check.html.j2")
    page = template.render(
        report=report,
        source=Path(report.contents.source).name or report.contents.source,
        sections=sections,
        listed=len(listed),
        kinds=sorted(kind.name for kind in kinds),
        table=TABLE,
        quarantine=QUARANTINE,
    )
    return page.encode("utf-8", "replace").decode()  # names that are not UTF-8


def _thumbnails(contents: Contents, paths: set[str]) -> Callable[[str], Picture]:
    """What gives the thumbnail of each of `paths` that can be decoded."""
    numbers = {
        path: number
        for number in range(len(contents) if paths else 0)
        if (path := contents.path(number)) in paths
    }
    made = {path: _thumbnail(contents, number) for path, number in numbers.items()}
    return lambda path: made.get(path, Picture())


def _thumbnail(contents: Contents, number: int) -> Picture:
    try:
        pixels = decode_whole(contents.read(number), contents.name(number))
    except DataError:
        return Picture()
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    text = base64.b64encode(data.getvalue()).decode()
    return Picture(f"data:image/jpeg;base64,{text}", *image.size)
