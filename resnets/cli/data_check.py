"""`resnets data check`: which pictures of a set cannot be read, are odd, or come twice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.table import Table

from resnets.config import ConfigError, DataSpec
from resnets.config.terminal import console as terminal_console
from resnets.config.terminal import escape, say

if TYPE_CHECKING:
    from resnets.data.check import CheckReport


@dataclass(frozen=True)
class Check:
    """Read every picture of a set whole; write files.csv, report.html and quarantine.txt.

    Finds unreadable, truncated, wrongly named, duplicate (within and across parts), tiny, rotated,
    CMYK, 16-bit, palette and animated pictures, decompression bombs, other files and empty classes.
    Where there are boxes, outlines or class maps (COCO JSON, VOC XML), a line for each bad one.
    Exits with 1 if any picture cannot be read, or any annotation is bad.

    Args:
        source: Data set: a folder of class folders, a tar of one, ..., or any folder of pictures.
        out: Folder for the report; default NAME-check in this folder.
        quarantine: Findings to put in quarantine besides what cannot be read, such as leak or
            leak,near-leak,duplicate: of two alike, the one that is further from the test set.
        tiny: Shorter side in px below which a picture is called tiny.
        truth: Labels of a flat validation folder (ImageNet's ground truth).
        workers: Threads, 0 = one per core.
        repair: New folder for corrected annotations of a set with boxes, as COCO JSON; boxes that
            pass the edge are cut there, what cannot be mended is left out.
    """

    source: tyro.conf.Positional[str]
    out: Path | None = None
    quarantine: str = ""
    tiny: int = 16
    truth: str | None = None
    workers: int = 0
    repair: Path | None = None

    def run(self) -> int:
        """Check and write the report; returns the exit code."""
        from resnets.cli.data_check_boxes import check_annotated
        from resnets.data.check import check_data
        from resnets.data.check_findings import kinds_called
        from resnets.data.check_report import write_check
        from resnets.detect.check import annotation_tasks

        kinds = kinds_called(filter(None, self.quarantine.split(",")))
        out = self.out or Path(f"{Path(self.source).resolve().name.split('.')[0]}-check")
        if out.exists() and not out.is_dir():
            raise ConfigError(f"--out {out}: is a file; name a folder")
        spec = DataSpec(source=self.source, truth=self.truth, workers=self.workers)
        tasks = annotation_tasks(self.source)
        if self.repair is not None and not tasks:
            raise ConfigError(f"--repair: {self.source} has no annotations; expected COCO or VOC")
        report = check_data(spec, tiny=self.tiny, watch=_watch)
        report = report.without_layout() if tasks else report
        table, page, quarantine = write_check(report, out, kinds)
        _show(report)
        say(f"report: {page}\nfindings: {table}\nquarantine: {quarantine}")
        if report.broken:
            say(f"leave them out: resnets train ... --set data.quarantine={quarantine}")
        bad = check_annotated(self.source, tasks, out, self.repair, self.workers) if tasks else 0
        return 1 if report.broken or bad else 0


def _watch(counts: Iterable[int], total: int, doing: str) -> Iterable[int]:
    from resnets.evaluate.prepare import with_progress

    return with_progress(counts, total, doing=doing)


def _show(report: CheckReport) -> None:
    from resnets.data.check_findings import KINDS

    console = terminal_console()
    parts = ", ".join(f"{count:,} {part}" for part, count in report.pictures.items() if part)
    total = f"{len(report.contents):,} pictures" + (f": {parts}" if parts else "")
    if not report.findings:
        console.print(f"{total}; nothing was found", highlight=False)
        return
    console.print(total, highlight=False)
    table = Table("finding", "", "files", "such as")
    table.columns[2].justify = "right"
    table.columns[3].overflow = "fold"
    counts = report.counts
    for kind in dict.fromkeys((*KINDS, *counts)):
        if kind in counts:
            first = next(each for each in report.findings if each.kind == kind)
            such = " ".join(filter(None, (first.path, f"({first.detail})")))
            table.add_row(kind.name, kind.weight, f"{counts[kind]:,}", escape(such))
    console.print(table)
