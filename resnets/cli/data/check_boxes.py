"""`resnets data check` for sets with boxes, outlines or class maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resnets.utils.printable import echo

if TYPE_CHECKING:
    from resnets.config import DetectSpec
    from resnets.detect.check.run import AnnotationReport
    from resnets.detect.formats.records import Task

ANNOTATIONS = "annotations.csv"
MOST_CLASSES = 20  # that are named
MOST_LINES = 200  # problems printed; all of them are in annotations.csv


@dataclass(frozen=True)
class Annotated:
    """What is wrong with the annotations of a set: a report for each task it has some for.

    refusals: why training refuses them. notes: what was not checked.
    """

    reports: Sequence[AnnotationReport]
    refusals: Sequence[str]
    notes: Sequence[str]

    @property
    def bad(self) -> int:
        """How many annotations or images are bad; trainval says again what train said."""
        return len({problem for each in self.reports for problem in each.problems})

    @property
    def warnings(self) -> list[str]:
        """What may be wrong with all annotations, once each."""
        return list(dict.fromkeys(said for each in self.reports for said in each.warnings))


def check_annotated(
    source: str, tasks: Sequence[Task], detect: DetectSpec, workers: int = 0
) -> Annotated:
    """Check the annotations of a set for each of `tasks`."""
    from resnets.data.errors import DataError
    from resnets.detect.check.run import check_annotations

    reports, refusals, notes = [], [], []
    for task in tasks:
        try:
            reports.append(
                check_annotations(source, task, workers=workers, watch=_watch, detect=detect)
            )
        except DataError as error:
            if task == "segment" and len(tasks) > 1:
                notes.append(f"class maps are not checked: {error}")
            else:
                refusals.append(str(error))
    return Annotated(reports, refusals, notes)


def show_annotated(annotated: Annotated, out: Path) -> None:
    """Print a line for each bad annotation and a summary; write annotations.csv into `out`."""
    from resnets.detect.check.run import write_problems

    reports = annotated.reports
    for note in annotated.notes:
        echo(f"note: {note}")
    for report in reports:
        for problem in report.problems[:MOST_LINES]:
            echo(problem)
        if len(report.problems) > MOST_LINES:
            echo(f"... and {len(report.problems) - MOST_LINES:,} more, in annotations.csv")
        for note in report.notes:
            echo(f"note: {note}")
        classes = report.source.classes
        more = f" and {len(classes) - MOST_CLASSES:,} more" if len(classes) > MOST_CLASSES else ""
        echo(f"classes: {', '.join(classes[:MOST_CLASSES])}{more}")
        echo(f"annotations of {report.summary()}")
    write_problems((each for report in reports for each in report.problems), out / ANNOTATIONS)
    echo(f"bad annotations: {out / ANNOTATIONS}")


def repair(source: str, task: Task, out: Path, detect: DetectSpec) -> None:
    """Write corrected annotations into the new folder `out` and say what was done."""
    from resnets.detect.check.repair import LIST, repair_annotations

    done = repair_annotations(source, task, out, detect)
    echo(f"wrote {out}: {done.summary()}")
    echo(f"what was changed or left out: {out / LIST}; train on it with --data {out}")


def _watch(sizes: Iterable[object], total: int) -> Iterable[object]:
    from resnets.evaluate.prepare import with_progress

    return with_progress(sizes, total)
