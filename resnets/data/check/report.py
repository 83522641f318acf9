"""What a check found, as files: a page with thumbnails, tables, and a quarantine list."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resnets.config import DataSpec, atomic_write
from resnets.data.check.classes import class_table, role_of, shown_classes, suffix_counts
from resnets.data.check.parts import Contents
from resnets.data.check.run import CheckReport
from resnets.data.check.verdict import exit_code, train_command, usable, verdict
from resnets.data.dataset.quarantine import QUARANTINE, Quarantine, write_quarantine
from resnets.data.decode.decode import decode_whole
from resnets.data.errors import DataError
from resnets.data.finding_kinds import KINDS, LEAKS, Finding, Kind
from resnets.report.figures import Thumbnail
from resnets.report.render import render
from resnets.utils.csv_files import CsvWriter

TABLE, PAGE = "files.csv", "report.html"
SHOWN = 24  # findings of a kind on the page
COLUMNS = (
    *("path", "finding", "weight", "detail", "part", "class", "twin", "twin_part", "quarantined"),
)


@dataclass(frozen=True)
class ReportItem:
    """A finding on the page, with the image it is about and that one's twin."""

    finding: Finding
    image: Thumbnail
    twin: Thumbnail


@dataclass(frozen=True)
class Written:
    """Where a check wrote what it found, and the shell command to train on what is left.

    recipe: that of the command. listed: images in the list. without_leaks: whether all that leak
    are among them.
    """

    table: Path
    page: Path
    quarantine: Path
    command: str
    recipe: str
    listed: int
    without_leaks: bool


def write_check(
    report: CheckReport,
    out: Path,
    spec: DataSpec,
    kinds: frozenset[Kind] = LEAKS,
    recipe: str = "scratch",
) -> Written:
    """Write files.csv, report.html and quarantine.txt into folder `out`.

    Broken images are put in quarantine, and those of `kinds`, and what the quarantine of `spec`
    lists already. Each file appears whole or not at all. `recipe`: that of the command.
    """
    out.mkdir(parents=True, exist_ok=True)
    listed = report.quarantine(kinds)
    entries = {each.path: f"{each.kind.name}: {each.detail}" for each in listed}
    before = Quarantine.of(spec)
    for path in before.paths:
        entries.setdefault(path, f"listed before, in {before.file}")
    command = train_command(spec, out / QUARANTINE, recipe)
    without = all(each.path in entries for each in report.leaks)
    table, page, quarantine = (out / name for name in (TABLE, PAGE, QUARANTINE))
    written = Written(table, page, quarantine, command, recipe, len(entries), without)
    for file, text in ((table, _table(report)), (page, _page(report, written, kinds))):
        with atomic_write(file) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    write_quarantine(quarantine, sorted(entries.items()))
    return written


def _table(report: CheckReport) -> str:
    text = io.StringIO()
    writer = CsvWriter(text)
    writer.writerow(COLUMNS)
    for each in report.findings:
        kind, out = each.kind, "yes" if each.path in report.left_out else ""
        about = each.detail, each.part, each.label, each.twin, each.twin_part
        writer.writerow((each.path, kind.name, kind.weight, *about, out))
    return text.getvalue()


def _page(report: CheckReport, written: Written, kinds: frozenset[Kind]) -> str:
    chosen = {
        kind: [each for each in report.findings if each.kind == kind][:SHOWN]
        for kind in (*KINDS, *report.counts)  # others may have kinds of their own
        if kind in report.counts
    }
    paths = {path for some in chosen.values() for each in some for path in (each.path, each.twin)}
    shown = _thumbnails(report.contents, paths)
    sections = [
        (kind, [ReportItem(each, shown(each.path), shown(each.twin)) for each in some])
        for kind, some in chosen.items()
    ]
    table = class_table(report.contents)
    return render(
        "check.html.j2",
        report=report,
        source=Path(report.contents.source).name or report.contents.source,
        points=verdict(report),
        code=exit_code(report),
        sections=sections,
        classes=table,
        rows=[] if table is None else shown_classes(table),
        suffixes=suffix_counts(report.contents),
        roles=[(part, role_of(part, [*report.images])) for part in report.images],
        usable=usable(report),
        written=written,
        kinds=sorted(kind.name for kind in kinds),
        table=TABLE,
        quarantine=QUARANTINE,
    )


def _thumbnails(contents: Contents, paths: set[str]) -> Callable[[str], Thumbnail]:
    """What gives the thumbnail of each of `paths` that can be decoded."""
    numbers = {
        path: number
        for number in range(len(contents) if paths else 0)
        if (path := contents.path(number)) in paths
    }
    made = {path: _thumbnail(contents, number) for path, number in numbers.items()}
    return lambda path: made.get(path, Thumbnail())


def _thumbnail(contents: Contents, number: int) -> Thumbnail:
    try:
        pixels = decode_whole(contents.read(number), contents.name(number), contents.levels)
    except DataError:
        return Thumbnail()
    return Thumbnail.of(pixels)
