"""`resnets data check` for sets with boxes, segmentations or label maps (class maps)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from resnets.utils.printable import echo, join_names

if TYPE_CHECKING:
    from resnets.detect.check.repair import RepairReport
    from resnets.detect.check.run import AnnotationCheck

MAX_CLASSES = 20  # that are named
MAX_PROBLEMS = 200  # that are printed; all of them are in annotations.csv


def print_annotations(check: AnnotationCheck, folder: Path) -> None:
    """Print a line for each bad annotation and a summary."""
    from resnets.data.check.report import ANNOTATIONS

    for note in check.notes:
        echo(f"note: {note}")
    for report in check.reports:
        for problem in report.problems[:MAX_PROBLEMS]:
            echo(problem)
        if len(report.problems) > MAX_PROBLEMS:
            echo(f"... and {len(report.problems) - MAX_PROBLEMS:,} more, in annotations.csv")
        for note in report.notes:
            echo(f"note: {note}")
        echo(f"classes: {join_names(report.source.classes, MAX_CLASSES)}")
        echo(f"annotations of {report.summary()}")
    echo(f"bad annotations: {folder / ANNOTATIONS}")


def print_repair(repaired: RepairReport, out: Path) -> None:
    """Print a summary of the corrected annotations in `out`."""
    from resnets.detect.check.repair import REPORT_FILE

    echo(f"wrote {out}: {repaired.summary()}")
    echo(f"changes and omissions: {out / REPORT_FILE}; train on it with --data {out}")
