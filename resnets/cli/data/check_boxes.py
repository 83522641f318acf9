"""`resnets data check` for sets with boxes, outlines or class maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resnets.utils.printable import echo

if TYPE_CHECKING:
    from resnets.config import DetectSpec
    from resnets.detect.check.run import AnnotationReport
    from resnets.detect.formats.records import Task

ANNOTATIONS = "annotations.csv"
MAX_CLASSES = 20  # that are named
MAX_PROBLEMS = 200  # that are printed; all of them are in annotations.csv


@dataclass(frozen=True)
class AnnotationCheck:
    """The problems of the annotations of a data set, with a report for each task.

    refusals: why training refuses them. notes: what was not checked.
    """

    reports: Sequence[AnnotationReport]
    refusals: Sequence[str]
    notes: Sequence[str]

    @property
    def bad(self) -> int:
        """Number of problems; those that both train and trainval have are counted once."""
        return len({problem for each in self.reports for problem in each.problems})

    @property
    def warnings(self) -> list[str]:
        """Warnings about all annotations, without repetitions."""
        return list(dict.fromkeys(text for each in self.reports for text in each.warnings))


def check_all_annotations(
    source: str, tasks: Sequence[Task], detect: DetectSpec, workers: int = 0
) -> AnnotationCheck:
    """Check the annotations of a data set for each of `tasks`."""
    from resnets.data.errors import DataError
    from resnets.detect.check.run import check_annotations
    from resnets.evaluate.prepare import with_progress

    reports, refusals, notes = [], [], []
    for task in tasks:
        try:
            reports.append(
                check_annotations(source, task, workers=workers, watch=with_progress, detect=detect)
            )
        except DataError as error:
            if task == "segment" and len(tasks) > 1:
                notes.append(f"class maps are not checked: {error}")
            else:
                refusals.append(str(error))
    return AnnotationCheck(reports, refusals, notes)


def print_annotation_check(check: AnnotationCheck, out: Path) -> None:
    """Print a line for each bad annotation and a summary; write annotations.csv into `out`."""
    from resnets.detect.check.run import write_problems

    reports = check.reports
    for note in check.notes:
        echo(f"note: {note}")
    for report in reports:
        for problem in report.problems[:MAX_PROBLEMS]:
            echo(problem)
        if len(report.problems) > MAX_PROBLEMS:
            echo(f"... and {len(report.problems) - MAX_PROBLEMS:,} more, in annotations.csv")
        for note in report.notes:
            echo(f"note: {note}")
        classes = report.source.classes
        more = f" and {len(classes) - MAX_CLASSES:,} more" if len(classes) > MAX_CLASSES else ""
        echo(f"classes: {', '.join(classes[:MAX_CLASSES])}{more}")
        echo(f"annotations of {report.summary()}")
    write_problems((each for report in reports for each in report.problems), out / ANNOTATIONS)
    echo(f"bad annotations: {out / ANNOTATIONS}")


def repair(source: str, task: Task, out: Path, detect: DetectSpec) -> None:
    """Write corrected annotations into the new folder `out` and print a summary."""
    from resnets.detect.check.repair import REPORT_FILE, repair_annotations

    result = repair_annotations(source, task, out, detect)
    echo(f"wrote {out}: {result.summary()}")
    echo(f"changes and omissions: {out / REPORT_FILE}; train on it with --data {out}")
