"""Write the results of a check: a page with thumbnails, tables, and a quarantine list."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resnets.config import DataSpec
from resnets.data.check.classes import count_suffixes, find_role, make_class_table, select_rows
from resnets.data.check.images_by_split import Contents
from resnets.data.check.run import CheckReport
from resnets.data.check.verdict import count_usable, exit_code, make_verdict, train_command
from resnets.data.dataset.quarantine_list import QUARANTINE, Quarantine, write_quarantine
from resnets.data.decode.decode import decode_whole
from resnets.data.errors import DataError
from resnets.data.finding_kinds import KINDS, LEAKS, Finding, FindingKind
from resnets.report.figure_style import Thumbnail
from resnets.report.render import render
from resnets.utils.files.csv import CsvWriter
from resnets.utils.files.write import atomic_write

TABLE, PAGE, ANNOTATIONS = "files.csv", "report.html", "annotations.csv"
MAX_SHOWN = 24  # findings per kind on the page
MAX_PROBLEMS = 100  # invalid annotations on the page
COLUMNS = (
    "path",
    "finding",
    "weight",
    "detail",
    "part",
    "class",
    "other_image",
    "other_part",
    "quarantined",
)


@dataclass(frozen=True)
class ReportItem:
    """A finding on the page, with thumbnails of its image and of the duplicate."""

    finding: Finding
    image: Thumbnail
    other: Thumbnail


@dataclass(frozen=True)
class WrittenReport:
    """The files that a check wrote, and the shell command to train without the listed images.

    recipe: that of the command. listed: number of images in the list. without_leaks: the list
    includes all leaks.
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
    kinds: frozenset[FindingKind] = LEAKS,
    recipe: str = "scratch",
) -> WrittenReport:
    """Write files.csv, report.html and quarantine.txt into folder `out`.

    The quarantine lists broken images, those of `kinds`, and those that the quarantine of `spec`
    lists already. Each file is written atomically. recipe: that of the command.
    """
    out.mkdir(parents=True, exist_ok=True)
    listed = report.quarantine(kinds)
    entries = {each.path: f"{each.kind.name}: {each.detail}" for each in listed}
    earlier = Quarantine.of(spec)
    for path in earlier.paths:
        entries.setdefault(path, f"listed before, in {earlier.file}")
    command = train_command(spec, out / QUARANTINE, recipe)
    without_leaks = all(each.path in entries for each in report.leaks)
    table, page, quarantine = (out / name for name in (TABLE, PAGE, QUARANTINE))
    written = WrittenReport(table, page, quarantine, command, recipe, len(entries), without_leaks)
    for file, text in (
        (table, _format_table(report)),
        (page, _render_page(report, written, kinds)),
    ):
        with atomic_write(file) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    write_quarantine(quarantine, sorted(entries.items()))
    return written


def _format_table(report: CheckReport) -> str:
    text = io.StringIO()
    writer = CsvWriter(text)
    writer.writerow(COLUMNS)
    for each in report.findings:
        kind, quarantined = each.kind, "yes" if each.path in report.quarantined else ""
        details = each.detail, each.part, each.label, each.other_image, each.other_part
        writer.writerow((each.path, kind.name, kind.weight, *details, quarantined))
    return text.getvalue()


def _render_page(report: CheckReport, written: WrittenReport, kinds: frozenset[FindingKind]) -> str:
    chosen = {
        kind: [each for each in report.findings if each.kind == kind][:MAX_SHOWN]
        for kind in (*KINDS, *report.counts)  # other checks have kinds of their own
        if kind in report.counts
    }
    paths = {
        path
        for findings in chosen.values()
        for each in findings
        for path in (each.path, each.other_image)
    }
    load = _load_thumbnails(report.contents, paths)
    sections = [
        (kind, [ReportItem(each, load(each.path), load(each.other_image)) for each in findings])
        for kind, findings in chosen.items()
    ]
    table = make_class_table(report.contents)
    return render(
        "check.html.j2",
        report=report,
        source=Path(report.contents.source).name or report.contents.source,
        points=make_verdict(report),
        code=exit_code(report),
        sections=sections,
        classes=table,
        rows=[] if table is None else select_rows(table),
        suffixes=count_suffixes(report.contents),
        roles=[(part, find_role(part, [*report.images])) for part in report.images],
        usable=count_usable(report),
        written=written,
        kinds=sorted(kind.name for kind in kinds),
        table=TABLE,
        annotations=ANNOTATIONS,
        problems=report.problems[:MAX_PROBLEMS],
        quarantine=QUARANTINE,
    )


def _load_thumbnails(contents: Contents, paths: set[str]) -> Callable[[str], Thumbnail]:
    """Return a function that gives the thumbnail of each of `paths` that can be decoded."""
    numbers = {
        path: number
        for number in range(len(contents) if paths else 0)
        if (path := contents.path(number)) in paths
    }
    thumbnails = {path: _load_thumbnail(contents, number) for path, number in numbers.items()}
    return lambda path: thumbnails.get(path, Thumbnail())


def _load_thumbnail(contents: Contents, number: int) -> Thumbnail:
    try:
        pixels = decode_whole(contents.read(number), contents.name(number), contents.levels)
    except DataError:
        return Thumbnail()
    return Thumbnail.of(pixels)
