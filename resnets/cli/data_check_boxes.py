"""`resnets data check` for sets with boxes, outlines or class maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnets.config.terminal import say

if TYPE_CHECKING:
    from resnets.detect.records import Problem
    from resnets.detect.sources import Task

MOST_LINES = 200  # problems printed; all of them are in annotations.csv


def check_annotated(
    source: str,
    tasks: Sequence[Task],
    out: Path,
    repair: Path | None,
    workers: int = 0,
    class_map: str = "",
) -> int:
    """Print a line for each bad annotation and a summary; returns how many there are.

    `tasks`: what the set has annotations for (`detect.check.annotation_tasks`). The same goes into
    annotations.csv in `out`. With `repair` corrected ones are written into that new folder.
    """
    from resnets.data.errors import DataError
    from resnets.detect.check import check_annotations, write_problems
    from resnets.detect.repair import LIST, repair_annotations

    found: list[Problem] = []
    for task in tasks:
        try:
            report = check_annotations(
                source, task, workers=workers, watch=_watch, class_map=class_map
            )
        except DataError as error:
            if task != "segment" or len(tasks) == 1:
                raise
            say(f"note: class maps are not checked: {error}")
            continue
        for problem in report.problems[:MOST_LINES]:
            say(problem)
        if len(report.problems) > MOST_LINES:
            say(f"... and {len(report.problems) - MOST_LINES:,} more, in annotations.csv")
        for note in report.notes:
            say(f"note: {note}")
        say(f"annotations of {report.summary()}")
        found += report.problems
    write_problems(found, out / "annotations.csv")
    say(f"bad annotations: {out / 'annotations.csv'}")
    if repair is not None:
        done = repair_annotations(source, tasks[0], repair)
        say(f"wrote {repair}: {done.summary()}")
        say(f"what was changed or left out: {repair / LIST}; train on it with --data {repair}")
    elif found:
        say("correct them with --repair NEW_FOLDER, or train with --set detect.skip_bad=true")
    return len(found)


def _watch(sizes: Iterable[object], total: int) -> Iterable[object]:
    from resnets.evaluate.prepare import with_progress

    return with_progress(sizes, total)
