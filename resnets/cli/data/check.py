"""`resnets data check`: whether a set can be trained and measured on, and what to do if not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.table import Table

from resnets.config import ConfigError, DataSpec, DetectSpec
from resnets.config.detect import AnnotationFormat, ClassMapScheme
from resnets.utils.files import results_folder
from resnets.utils.printable import console as terminal_console
from resnets.utils.printable import echo, escape

if TYPE_CHECKING:
    from resnets.data.check.report import Written
    from resnets.data.check.run import CheckReport
    from resnets.data.finding_kinds import Kind

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
    """Read every image of a set whole and say what is wrong with it, worst first.

    Leaks between parts (training images that are copies or near-copies of test images), unreadable
    images, uneven classes, duplicates, odd formats, files that training does not see. Where there
    are boxes, outlines or class maps (COCO, VOC, YOLO, labelme, CVAT), a line for each bad one.
    Writes report.html, files.csv and quarantine.txt, a list that training leaves out.

    Exit code: 0 nothing that spoils a result, 3 leaks between parts, 1 images that cannot be read
    or are there under two labels, bad annotations, or a set that training refuses; 2 bad usage.
    What the quarantine lists already does not count.

    Args:
        source: Data set: a folder of class folders, a tar of one, ..., or any folder of images.
        out: Folder for the report; default NAME-check in this folder.
        leave_out: Findings to list in quarantine.txt, besides what cannot be read: leak, near-leak,
            duplicate, ..., or none. Of two alike, the one further from the test set.
        quarantine: List of images that are left out already, as data.quarantine of training;
            default quarantine.txt in the set's folder, where there is one.
        tiny: Shorter side in px below which an image is called tiny.
        ground_truth: Labels of a flat validation folder (ImageNet's ground truth).
        labels_from: What says an image's class (data.labels_from): auto, folder (each top folder is
            a class) or name (cat of cat.0.jpg).
        workers: Threads, 0 = one per core.
        repair: New folder for corrected annotations of a set with boxes, as COCO JSON; boxes that
            pass the edge are cut there, what cannot be repaired is left out.
        class_map: What the values of class maps mean, as `detect.class_map` says it: ids, binary,
            voc, cityscapes, cityscapes-trainids.
        class_map_folder: Folder that holds the class maps, as `detect.class_map_folder` says it.
        format: Annotation format to read, as `detect.format` says it.
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
        from resnets.cli.data.check_boxes import check_annotated, repair, show_annotated
        from resnets.data.check.held_out_parts import with_shares
        from resnets.data.check.parts import open_contents
        from resnets.data.check.report import write_check
        from resnets.data.check.run import check_data
        from resnets.data.check.verdict import exit_code
        from resnets.data.dataset.summary import announce
        from resnets.detect.check.images import annotated_contents
        from resnets.detect.check.run import annotation_tasks, why_none

        listed, leave_out = self._options()
        out = self.out or Path(f"{Path(self.source).resolve().name.split('.')[0]}-check")
        if out.exists() and not out.is_dir():
            raise ConfigError(f"--out {out}: is a file; name a folder")
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
        if self.repair is not None and not tasks:
            raise ConfigError(f"--repair: {self.source}: {why_none(self.source)}")
        contents = (
            annotated_contents(spec, tasks[0], detect)
            if tasks
            else with_shares(open_contents(spec), spec)
        )
        announce(contents)
        # Held from here on: a new folder inside the set must not be taken for one of its own.
        with results_folder(out), results_folder(self.repair):
            annotated = check_annotated(self.source, tasks, detect, self.workers)
            report = check_data(spec, tiny=self.tiny, contents=contents, watch=_watch)
            if tasks:
                report = report.annotated(annotated.bad, annotated.refusals, annotated.warnings)
            recipe = RECIPES.get(tasks[0], "detect") if tasks else "scratch"
            written = write_check(report, out, spec, leave_out, recipe)
            _remember(report, spec, written, annotated=bool(tasks))
            _show(report, written)
            if tasks:
                show_annotated(annotated, out)
            if self.repair is not None:
                repair(self.source, tasks[0], self.repair, detect)
            code = exit_code(report)
            _conclude(report, written, code)
            return code

    def _options(self) -> tuple[str | None, frozenset[Kind]]:
        """The quarantine list and the kinds to put into a new one."""
        from resnets.data.finding_kinds import KINDS, kinds_by_name

        known = {kind.name for kind in KINDS}
        kinds = {name for name in self.leave_out.split(",") if name and name != "none"}
        names = set((self.quarantine or "").split(","))
        if names <= known and not Path(self.quarantine or "").exists():
            echo(
                "resnets data check: --quarantine names a list, as for training; findings to list"
                f" are named with --leave-out {self.quarantine}, which is taken here",
                error=True,
            )
            return None, kinds_by_name(sorted(kinds | names))
        return self.quarantine, kinds_by_name(sorted(kinds))


def _remember(report: CheckReport, spec: DataSpec, written: Written, *, annotated: bool) -> None:
    """Keep what was found where training of the same set finds it."""
    from resnets.data.errors import DataError
    from resnets.data.sources.open import find_source
    from resnets.data.splits.check_record import save_record, source_listing
    from resnets.detect.check.images import annotated_listing

    try:
        if annotated:
            listing = annotated_listing(spec.source)
        else:
            listing = source_listing(find_source(spec), spec.source)
    except DataError:  # nothing trains on it
        return
    if save_record(spec.source, report.findings, listing, written.quarantine) is None:
        echo("note: the cache cannot be written; training will not repeat what was found here")


def _watch(counts: Iterable[int], total: int, doing: str) -> Iterable[int]:
    from resnets.evaluate.prepare import with_progress

    return with_progress(counts, total, description=doing)


def _show(report: CheckReport, written: Written) -> None:
    from resnets.data.check.classes import suffix_counts
    from resnets.data.check.verdict import verdict

    console = terminal_console()
    echo(_counted(report))
    for point in verdict(report):
        mark = f"[{STYLES[point.weight]}]{MARKS[point.weight]:<8}[/]"
        console.print(f"{mark}{escape(point.text)}", highlight=False, soft_wrap=True)
        if point.advice:
            echo(f"        {point.advice}")
    if report.leaks or report.broken:
        echo(_remedy(report, written))
    for table in _tables(report):
        console.print(table)
    counts = suffix_counts(report.contents)
    suffixes = ", ".join(f"{count:,} {suffix or 'without suffix'}" for suffix, count in counts)
    echo(f"images by suffix: {suffixes}")


def _remedy(report: CheckReport, written: Written) -> str:
    if report.leaks and not written.without_leaks:
        return "Check again with --leave-out leak,near-leak for a list to train without them."
    return f"Train without them:\n  {written.command}"


def _counted(report: CheckReport) -> str:
    """How many images there are, by part, and what of them training can take."""
    from resnets.data.check.verdict import usable

    parts = ", ".join(f"{count:,} {part}" for part, count in report.images.items() if part)
    total = f"{len(report.contents):,} images" + (f": {parts}" if parts else "")
    left = usable(report)
    if left == report.images:
        return total
    kept = ", ".join(f"{count:,} {part}".rstrip() for part, count in left.items())
    return f"{total}; without what cannot be read or is in quarantine {kept}"


def _tables(report: CheckReport) -> Iterator[Table]:
    from resnets.data.check.classes import class_table, shown_classes
    from resnets.data.finding_kinds import KINDS

    counts = report.counts
    if counts:
        table = Table("finding", "", "files", "such as")
        table.columns[2].justify = "right"
        table.columns[3].overflow = "fold"
        for kind in dict.fromkeys((*KINDS, *counts)):
            if kind in counts:
                first = next(each for each in report.findings if each.kind == kind)
                such = " ".join(filter(None, (first.path, f"({first.detail})")))
                table.add_row(kind.name, kind.weight, f"{counts[kind]:,}", escape(such))
        yield table
    classes = class_table(report.contents)
    if classes is not None:
        table = Table("class, fewest images first")
        table.columns[0].overflow = "fold"
        for part in classes.parts:
            table.add_column(part or "images", justify="right")
        for row in shown_classes(classes):
            cells = ["..."] if row is None else [escape(row.name), *map("{:,}".format, row.counts)]
            table.add_row(*cells)
        yield table


def _conclude(report: CheckReport, written: Written, code: int) -> None:
    """The last lines: where everything is, and once more the worst."""
    from resnets.data.check.verdict import verdict, warnings

    echo(f"report: {written.page}\nfindings: {written.table}")
    echo(f"quarantine: {written.quarantine} ({written.listed:,} listed)")
    worst = verdict(report)[0]
    if worst.weight == "leak":
        echo(f"LEAK: {worst.text}.\n{_remedy(report, written)}")
    elif worst.weight in ("refused", "broken"):
        echo(f"{MARKS[worst.weight]}: {worst.text}")
    found = warnings(report)
    for warning in found:
        echo(f"WARNING: {warning}")
    if code:
        echo(f"exit code {code}")
    elif found:
        echo(f"exit code 0, with {len(found):,} warning{'s' * (len(found) > 1)}: see above")
    else:
        echo("nothing that spoils a result was found")
