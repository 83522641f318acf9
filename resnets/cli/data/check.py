"""`resnets data check`: whether a data set is fit for training and evaluation, and if not, why."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from resnets.config.detect import AnnotationFormat, ClassMapScheme
from resnets.utils.printable import Table, echo, escape, terminal_console

if TYPE_CHECKING:
    from resnets.api.data.check import DataReport
    from resnets.data.check.run import CheckReport

STYLES = {
    "leak": "bold red",
    "refused": "bold red",
    "broken": "red",
    "suspect": "yellow",
    "good": "green",
}
MARKS = {
    "leak": "LEAK",
    "refused": "REFUSED",
    "broken": "BROKEN",
    "suspect": "review",
    "good": "ok",
}


@dataclass(frozen=True)
class Check:
    """Read every image of a data set completely and report its problems, worst first.

    Finds leaks between splits (training images that are copies or near-copies of test images),
    unreadable images, unbalanced classes, duplicates, unusual formats, and files that training
    ignores. Bad boxes, polygons and label maps (COCO, VOC, YOLO, labelme, CVAT) are listed one by
    one. Writes report.html, files.csv and quarantine.txt, a list of images that training leaves
    out.

    Exit code: 0 no finding that invalidates a result; 3 leaks between splits; 1 images that cannot
    be read or have two labels, bad annotations, or a set that training refuses; 2 bad usage. Images
    that the quarantine list names already do not count.

    Args:
        source: Data set: a folder of class folders, a tar of one, ..., or any folder of images.
        out: Folder for the report; default NAME-check in this folder.
        exclude: Findings to list in quarantine.txt, besides unreadable images: leak, near-leak,
            duplicate, ..., or none. Of two copies, the one further from the test split is listed
            (train before val before test).
        quarantine: List of images that are already excluded (data.quarantine of a recipe); default:
            quarantine.txt in the folder of the data set, if it exists.
        tiny: Shorter side in px below which an image is reported as tiny.
        ground_truth: Labels of a flat validation folder (ImageNet's ground truth).
        labels_from: Where labels are read from (data.labels_from): auto, folder (each top folder is
            a class) or name (cat.0.jpg is of class cat).
        workers: Threads, 0 = one per core.
        repair: New folder for corrected annotations of a set with boxes, as COCO JSON; boxes are
            clipped to the image, and annotations that cannot be repaired are omitted.
        class_map: Meaning of the values of class maps (detect.class_map): ids, binary, voc,
            cityscapes, cityscapes-trainids.
        class_map_folder: Folder of the class maps (detect.class_map_folder).
        format: Annotation format (detect.format).
    """

    source: tyro.conf.Positional[str]
    out: Path | None = None
    exclude: str = "leak,near-leak"
    quarantine: str | None = None
    tiny: int = 16
    ground_truth: str | None = None
    labels_from: Literal["auto", "folder", "name"] = "auto"
    workers: int = 0
    repair: Path | None = None
    class_map: ClassMapScheme = ""
    class_map_folder: str = ""
    format: AnnotationFormat = ""

    def run(self) -> int:
        """Check and write the report; returns the exit code."""
        from resnets.api.data.check import check_data
        from resnets.cli.data.check_boxes import print_annotations, print_repair
        from resnets.data.check.verdict import exit_code

        options = vars(self) | self._lists()
        source = options.pop("source")
        report = check_data(source, **options, quiet=False)
        _print_report(report)
        if report.annotations is not None:
            print_annotations(report.annotations, report.folder)
        if self.repair is not None and report.repaired is not None:
            print_repair(report.repaired, self.repair)
        code = exit_code(report.check)
        plain = [options[name] for name in ("labels_from", "ground_truth", "quarantine")]
        _print_conclusion(report, code, source if plain == ["auto", None, None] else None)
        return code

    def _lists(self) -> dict[str, Any]:
        """Return the quarantine list, and the kinds of findings to put into a new one.

        --quarantine once had the meaning of --exclude.
        """
        from resnets.data.finding_kinds import KINDS

        names = set((self.quarantine or "").split(","))
        if not names <= {kind.name for kind in KINDS} or Path(self.quarantine or "").exists():
            return {}
        echo(
            "resnets data check: --quarantine expects a file; continuing as with "
            f"--exclude {self.quarantine}",
            error=True,
        )
        return {"quarantine": None, "exclude": f"{self.exclude},{self.quarantine}"}


def _print_report(report: DataReport) -> None:
    from resnets.data.check.classes import count_suffixes

    console, check = terminal_console(), report.check
    echo(_format_counts(check))
    warnings = set(report.warnings)  # `_print_conclusion` prints them
    for point in report.verdict:
        if point.text in warnings:
            continue
        mark = f"[{STYLES[point.weight]}]{MARKS[point.weight]:<8}[/]"
        console.print(f"{mark}{escape(point.text)}", highlight=False, soft_wrap=True)
        if point.advice:
            echo(f"        {point.advice}")
    if check.leaks or check.broken:
        echo(_format_remedy(report))
    for table in _tables(check):
        console.print(table)
    counts = count_suffixes(check.contents)
    suffixes = ", ".join(f"{count:,} {suffix or 'without extension'}" for suffix, count in counts)
    echo(f"files by extension: {suffixes}")


def _format_remedy(report: DataReport) -> str:
    check, written = report.check, report.written
    if check.refused:  # until then no command trains on it
        return (
            "Once training accepts the data set, exclude them with "
            f"data.quarantine={written.quarantine}"
        )
    if check.leaks and not written.without_leaks:
        return (
            "Run the check again with --exclude leak,near-leak to list the images to "
            "exclude from training."
        )
    return f"Train without them:\n  {written.command}"


def _format_counts(report: CheckReport) -> str:
    """Format the number of images of each split, and of those that training can use."""
    from resnets.data.check.verdict import count_usable

    parts = ", ".join(f"{count:,} {part}" for part, count in report.images.items() if part)
    total = f"{len(report.contents):,} images" + (f": {parts}" if parts else "")
    counts = count_usable(report)
    if counts == report.images:
        return total
    text = ", ".join(f"{count:,} {part}".rstrip() for part, count in counts.items())
    return f"{total}; usable (neither unreadable nor in quarantine): {text}"


def _tables(report: CheckReport) -> Iterator[Table]:
    from resnets.data.check.classes import make_class_table, select_rows
    from resnets.data.finding_kinds import KINDS

    counts = report.counts
    if counts:
        table = Table("finding", "", "files", "such as")
        table.columns[2].justify = "right"
        table.columns[3].overflow = "fold"
        for kind in dict.fromkeys((*KINDS, *counts)):
            if kind in counts:
                first = next(each for each in report.findings if each.kind == kind)
                example = " ".join(filter(None, (first.path, f"({first.detail})")))
                table.add_row(kind.name, kind.weight, f"{counts[kind]:,}", escape(example))
        yield table
    classes = make_class_table(report.contents)
    if classes is not None:
        table = Table("class, fewest images first")
        table.columns[0].overflow = "fold"
        for part in classes.parts:
            table.add_column(part or "images", justify="right")
        for row in select_rows(classes):
            cells = ["..."] if row is None else [escape(row.name), *map("{:,}".format, row.counts)]
            table.add_row(*cells)
        yield table


def _print_conclusion(report: DataReport, code: int, source: str | None) -> None:
    """Print the files that were written, the worst problem once more, and the exit code.

    source: the data set, if `resnets train` reads it in the same way without further options.
    """
    from resnets.data.check.classes import make_class_table

    echo(f"report: {report.report}\nfindings: {report.table}")
    echo(f"quarantine: {report.quarantine} ({report.written.listed:,} listed)")
    worst = report.verdict[0]
    if worst.weight == "leak":
        echo(f"LEAK: {worst.text}.\n{_format_remedy(report)}")
    elif worst.weight in ("refused", "broken"):
        echo(f"{MARKS[worst.weight]}: {worst.text}")
    found = report.warnings
    for warning in found:
        echo(f"WARNING: {warning}")
    if code:
        echo(f"exit code {code}")
    elif found:
        echo(f"exit code 0, with {len(found):,} warning{'s' * (len(found) > 1)}: see above")
    else:
        echo("no problems found")
    classes = make_class_table(report.check.contents)
    is_plain = classes is not None and report.written.recipe == "scratch"
    if not code and source is not None and is_plain:
        source = shlex.quote(source)
        echo(f"next:   resnets train finetune --data {source}    (from pretrained weights)")
        echo(f"        resnets train scratch --data {source}     (from random weights)")
