"""`resnets evaluate` for nets that find objects or label pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from resnets.utils.terminal import console as terminal_console
from resnets.utils.terminal import escape, say

if TYPE_CHECKING:
    from resnets.api.detect import DetectionEvaluation
    from resnets.detect.metrics.meters import DetectionMetrics

ALL_CLASSES, WORST = 20, 10  # classes up to which the table has all; else so many of the worst


def report(found: DetectionEvaluation, *, as_json: bool) -> None:
    """Print what `resnets.evaluate` measured, or where results without ground truth were saved."""
    if found.metrics is None:
        count = sum(len(each["scores"]) for each in found.found)
        say(f"{found.split.description}: {count:,} objects found; nothing is measured")
    elif as_json:
        print(json.dumps(found.metrics.to_json()))  # noqa: T201
    else:
        show(found.metrics)
    if found.written:
        more = " ..." if len(found.written) > 3 else ""
        say(f"wrote {', '.join(map(str, found.written[:3]))}{more}", error=True)
    for error in found.errors:
        say(f"resnets evaluate: {error}", error=True)


def show(judged: DetectionMetrics) -> None:
    """Print overall figures and the table of classes (the worst ten of many)."""
    console = terminal_console()  # piped lines do not fold
    overall = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in _overall(judged):
        overall.add_row(name, value)
    overall.add_row("pictures", f"{judged.examples:,}")
    overall.add_row("protocol", escape(judged.protocol))
    console.print(overall)
    columns = _columns(judged)
    if not columns:
        return
    rows = list(zip(judged.classes, *columns.values(), strict=True))
    title = None
    if len(rows) > ALL_CLASSES:
        known = [row for row in rows if row[1] is not None]
        rows = sorted(known, key=lambda row: row[1])[:WORST]
        lowest = next(iter(columns))
        title = f"The {len(rows)} of {len(judged.classes)} classes with the lowest {lowest}"
    table = Table(title=title, title_justify="left")
    table.add_column("class", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right")
    for name, *values in rows:
        table.add_row(escape(str(name)), *map(_shown, values))
    console.print(table)


def _overall(judged: DetectionMetrics) -> Iterator[tuple[str, str]]:
    for title, coco in (("box", judged.boxes), ("mask", judged.masks)):
        if coco is not None:
            numbers = {name: _shown(value) for name, value in coco.numbers.items()}
            names = list(numbers)
            yield f"{title} mAP@[.5,.95]", numbers["AP"]
            yield f"{title} mAP@.5, @.75", f"{numbers['AP50']}, {numbers['AP75']}"
            yield f"{title} mAP small, medium, large", ", ".join(numbers[k] for k in names[3:6])
            yield f"{title} recall of 1, 10, 100", ", ".join(numbers[k] for k in names[6:9])
            yield f"{title} recall small, medium, large", ", ".join(numbers[k] for k in names[9:])
    if judged.voc is not None:
        yield "VOC mAP (area, 11-point)", f"{_shown(judged.voc.map)}, {_shown(judged.voc.map11)}"
    if judged.semantic is not None:
        yield "mean IoU", _shown(judged.semantic.mean_iou)
        yield "pixel accuracy", _shown(judged.semantic.pixel_accuracy)
    if judged.located is not None:
        found = judged.located
        yield _tops("localization error", found.top1_error, found.top5_error)
        yield "localization error, class given", f"{found.given_error:.2f}%"
        yield _tops("class error", found.class_top1_error, found.class_top5_error)


def _tops(title: str, top1: float, top5: float | None) -> tuple[str, str]:
    """A row of one or two errors; of few classes there is no top-5."""
    if top5 is None:
        return f"{title} top-1", f"{top1:.2f}%"
    return f"{title} top-1, top-5", f"{top1:.2f}%, {top5:.2f}%"


def _columns(judged: DetectionMetrics) -> dict[str, Sequence[Any]]:
    """Figures of each class, by title."""
    columns: dict[str, Sequence[Any]] = {}
    if judged.boxes is not None:
        columns |= {"AP": judged.boxes.class_ap, "AP@.5": judged.boxes.class_ap50}
    if judged.masks is not None:
        columns |= {"mask AP": judged.masks.class_ap, "mask AP@.5": judged.masks.class_ap50}
    if judged.voc is not None:
        columns |= {"VOC AP": judged.voc.area, "11-point": judged.voc.ap11}
    if judged.semantic is not None:
        columns |= {"IoU": judged.semantic.class_iou}
    return columns


def _shown(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"
