"""`resnets data check`: whether a data set is fit for training and evaluation, and if not, why."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.table import Table

from resnets.cli.options import refuse_unread
from resnets.config import ConfigError, DataSpec, DetectSpec
from resnets.config.detect import AnnotationFormat, ClassMapScheme
from resnets.config.ranges import check_range
from resnets.utils.files import results_folder
from resnets.utils.printable import console as terminal_console
from resnets.utils.printable import echo, escape

if TYPE_CHECKING:
    from resnets.data.check.report import WrittenReport
    from resnets.data.check.run import CheckReport
    from resnets.data.finding_kinds import Kind

# Options that are read for sets with boxes, outlines or class maps.
ANNOTATED = "source out leave_out quarantine tiny workers repair class_map class_map_folder format"
RECIPES = {"segment": "segment"}  # others are for `detect`
STYLES = {
    "leak": "bold red",
    "refused": "bold red",
    "broken": "red",
    "suspect": "yellow",
    "good": "green",
}
MARKS = {"leak": "LEAK", "refused": "REFUSED", "broken": "BROKEN", "suspect": "look", "good": "ok"}


@dataclass(frozen=True)
class Check:
    """Read every image of a data set completely and report its problems, worst first.

    Finds leaks between splits (training images that are copies or near-copies of test images),
    unreadable images, unbalanced classes, duplicates, unusual formats, and files that training
    ignores. Bad boxes, outlines and class maps (COCO, VOC, YOLO, labelme, CVAT) are listed one by
    one. Writes report.html, files.csv and quarantine.txt, a list of images that training leaves
    out.

    Exit code: 0 nothing that spoils a result; 3 leaks between splits; 1 images that cannot be read
    or have two labels, bad annotations, or a set that training refuses; 2 bad usage. Images that
    the quarantine list names already do not count.

    Args:
        source: Data set: a folder of class folders, a tar of one, ..., or any folder of images.
        out: Folder for the report; default NAME-check in this folder.
        leave_out: Findings to list in quarantine.txt, besides what cannot be read: leak, near-leak,
            duplicate, ..., or none. Of two copies, the one further from the test split is listed
            (train before val before test).
        quarantine: List of images that are left out already (data.quarantine of a recipe);
            default: quarantine.txt in the folder of the data set, if it exists.
        tiny: Shorter side in px below which an image is reported as tiny.
        ground_truth: Labels of a flat validation folder (ImageNet's ground truth).
        labels_from: Where labels are read from (data.labels_from): auto, folder (each top folder is
            a class) or name (cat.0.jpg is of class cat).
        workers: Threads, 0 = one per core.
        repair: New folder for corrected annotations of a set with boxes, as COCO JSON; boxes are
            clipped to the image, and annotations that cannot be repaired are left out.
        class_map: Meaning of the values of class maps (detect.class_map): ids, binary, voc,
            cityscapes, cityscapes-trainids.
        class_map_folder: Folder of the class maps (detect.class_map_folder).
        format: Annotation format (detect.format).
    """

    source: tyro.conf.Positional[str]
    out: Path | None = None
    leave_out: str = "leak,near-leak"
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
        from resnets.cli.data.check_boxes import (
            check_all_annotations,
            print_annotation_check,
            repair,
        )
        from resnets.data.check.images_by_split import open_contents, split_into_shares
        from resnets.data.check.report import write_check
        from resnets.data.check.run import check_data
        from resnets.data.check.verdict import exit_code
        from resnets.data.dataset.summary import announce
        from resnets.detect.check.images_by_split import annotated_contents
        from resnets.detect.check.run import annotation_tasks, explain_no_annotations

        check_range("--tiny", self.tiny, "[0, inf)")
        listed, leave_out = self._options()
        out = self.out or Path(f"{Path(self.source).resolve().name.split('.')[0]}-check")
        if out.exists() and not out.is_dir():
            raise ConfigError(f"--out {out}: is a file; give a folder")
        spec = DataSpec(
            source=self.source,
            ground_truth=self.ground_truth,
            labels_from=self.labels_from,
            workers=self.workers,
            quarantine=listed,
        )
        detect = DetectSpec(
            class_map=self.class_map,
            class_map_folder=self.class_map_folder,
            format=self.format,
        )
        tasks = annotation_tasks(self.source, detect)
        for option, value in (("repair", self.repair), ("format", self.format)):
            if value and not tasks:
                why = explain_no_annotations(self.source)
                raise ConfigError(f"--{option}: {self.source}: {why}")
        if tasks:
            refuse_unread(Check, vars(self), ANNOTATED, "labels are in the annotations")
        contents = (
            annotated_contents(spec, tasks[0], detect)
            if tasks
            else split_into_shares(open_contents(spec), spec)
        )
        announce(replace(contents.summary, warnings=()))  # printed once, with the exit code
        # Not earlier: a new folder inside the data set would be listed as one of its folders.
        warnings = list(contents.warnings)
        with results_folder(out), results_folder(self.repair), _printed_if_it_fails(warnings):
            check = check_all_annotations(self.source, tasks, detect, self.workers)
            warnings += check.warnings
            report = check_data(spec, tiny=self.tiny, contents=contents, watch=_show_progress)
            if tasks:
                report = report.with_annotations(check.bad, check.refusals, check.warnings)
            recipe = RECIPES.get(tasks[0], "detect") if tasks else "scratch"
            written = write_check(report, out, spec, leave_out, recipe)
            _save_findings(report, spec, written, annotated=bool(tasks))
            _print_report(report, written)
            if tasks:
                print_annotation_check(check, out)
            if self.repair is not None:
                repair(self.source, tasks[0], self.repair, detect)
            code = exit_code(report)
            _print_conclusion(report, written, spec, code)
            return code

    def _options(self) -> tuple[str | None, frozenset[Kind]]:
        """Return the quarantine list, and the kinds of findings to put into a new one."""
        from resnets.data.finding_kinds import KINDS, kinds_by_name

        known = {kind.name for kind in KINDS}
        kinds = {name for name in self.leave_out.split(",") if name and name != "none"}
        names = set((self.quarantine or "").split(","))
        if names <= known and not Path(self.quarantine or "").exists():
            echo(
                "resnets data check: --quarantine expects a file; continuing as with "
                f"--leave-out {self.quarantine}",
                error=True,
            )
            return None, kinds_by_name(sorted(kinds | names))
        return self.quarantine, kinds_by_name(sorted(kinds))


@contextmanager
def _printed_if_it_fails(warnings: Sequence[str]) -> Iterator[None]:
    """Context that prints warnings if an error ends it; otherwise `_print_conclusion` does."""
    try:
        yield
    except Exception:
        for warning in warnings:
            echo(f"WARNING: {warning}")
        raise


def _save_findings(
    report: CheckReport, spec: DataSpec, written: WrittenReport, *, annotated: bool
) -> None:
    """Save the findings in the cache, where training on the same data set reads them."""
    from resnets.data.errors import DataError
    from resnets.data.sources.open import find_source
    from resnets.data.splits.check_results import fingerprint_source, save_record
    from resnets.detect.check.images_by_split import annotated_listing

    try:
        if annotated:
            listing = annotated_listing(spec.source)
        else:
            listing = fingerprint_source(find_source(spec), spec.source)
    except DataError:  # nothing trains on it
        return
    if save_record(spec.source, report.findings, listing, written.quarantine) is None:
        echo("note: the cache cannot be written, so training will not repeat these findings")


def _show_progress(counts: Iterable[int], total: int, doing: str) -> Iterable[int]:
    from resnets.evaluate.prepare import with_progress

    return with_progress(counts, total, description=doing)


def _print_report(report: CheckReport, written: WrittenReport) -> None:
    from resnets.data.check.classes import count_suffixes
    from resnets.data.check.verdict import list_warnings, make_verdict

    console = terminal_console()
    echo(_format_counts(report))
    warnings = set(list_warnings(report))  # `_print_conclusion` prints them
    for point in make_verdict(report):
        if point.text in warnings:
            continue
        mark = f"[{STYLES[point.weight]}]{MARKS[point.weight]:<8}[/]"
        console.print(f"{mark}{escape(point.text)}", highlight=False, soft_wrap=True)
        if point.advice:
            echo(f"        {point.advice}")
    if report.leaks or report.broken:
        echo(_format_remedy(report, written))
    for table in _tables(report):
        console.print(table)
    counts = count_suffixes(report.contents)
    suffixes = ", ".join(f"{count:,} {suffix or 'without suffix'}" for suffix, count in counts)
    echo(f"images by suffix: {suffixes}")


def _format_remedy(report: CheckReport, written: WrittenReport) -> str:
    if report.refused:  # until then no command trains on it
        return (
            "Once training accepts the data set, exclude them with "
            f"data.quarantine={written.quarantine}"
        )
    if report.leaks and not written.without_leaks:
        return (
            "Run the check again with --leave-out leak,near-leak to list the images to "
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
    return f"{total}; {text} are neither unreadable nor in quarantine"


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


def _print_conclusion(
    report: CheckReport, written: WrittenReport, spec: DataSpec, code: int
) -> None:
    """Print the files that were written, the worst problem once more, and the exit code."""
    from resnets.data.check.classes import make_class_table
    from resnets.data.check.verdict import list_warnings, make_verdict

    echo(f"report: {written.page}\nfindings: {written.table}")
    echo(f"quarantine: {written.quarantine} ({written.listed:,} listed)")
    worst = make_verdict(report)[0]
    if worst.weight == "leak":
        echo(f"LEAK: {worst.text}.\n{_format_remedy(report, written)}")
    elif worst.weight in ("refused", "broken"):
        echo(f"{MARKS[worst.weight]}: {worst.text}")
    found = list_warnings(report)
    for warning in found:
        echo(f"WARNING: {warning}")
    if code:
        echo(f"exit code {code}")
    elif found:
        echo(f"exit code 0, with {len(found):,} warning{'s' * (len(found) > 1)}: see above")
    else:
        echo("no problems found")
    plain = (spec.labels_from, spec.ground_truth, spec.quarantine) == ("auto", None, None)
    classes = make_class_table(report.contents)
    if not code and plain and classes is not None and written.recipe == "scratch":
        source = shlex.quote(spec.source)
        echo(f"next:   resnets train finetune --data {source}    (from pretrained weights)")
        echo(f"        resnets train scratch --data {source}     (from random weights)")
