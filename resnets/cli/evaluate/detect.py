"""`resnets evaluate` for detectors, segmenters and localizers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from resnets.utils.printable import console as terminal_console
from resnets.utils.printable import echo, escape

if TYPE_CHECKING:
    from resnets.api.detect import DetectionEvaluation
    from resnets.detect.metrics.meters import DetectionMetrics

MAX_CLASSES, WORST = 20, 10  # classes up to which the table has all, otherwise the worst


def report(found: DetectionEvaluation, *, as_json: bool) -> None:
    """Print the metrics, or where results without ground truth were saved."""
    if found.metrics is None:
        count = sum(len(each["scores"]) for each in found.found)
        echo(f"{found.split.description}: {count:,} objects found; no ground truth, so no metrics")
    elif as_json:
        print(json.dumps(found.metrics.to_json()))  # noqa: T201
    else:
        print_evaluation(found.metrics)
    if found.written:
        more = " ..." if len(found.written) > 3 else ""
        echo(f"wrote {', '.join(map(str, found.written[:3]))}{more}", error=True)
    for error in found.errors:
        echo(f"resnets evaluate: {error}", error=True)


def print_evaluation(metrics: DetectionMetrics) -> None:
    """Print overall metrics and the table of classes (the worst ten of many)."""
    console = terminal_console()  # piped lines are not wrapped
    overall = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in _overall(metrics):
        overall.add_row(name, value)
    overall.add_row("images", f"{metrics.examples:,}")
    overall.add_row("protocol", escape(metrics.protocol))
    console.print(overall)
    columns = _columns(metrics)
    if not columns:
        return
    rows = list(zip(metrics.classes, *columns.values(), strict=True))
    title = None
    if len(rows) > MAX_CLASSES:
        known = [row for row in rows if row[1] is not None]
        rows = sorted(known, key=lambda row: row[1])[:WORST]
        lowest = next(iter(columns))
        title = f"The {len(rows)} of {len(metrics.classes)} classes with the lowest {lowest}"
    table = Table(title=title, title_justify="left")
    table.add_column("class", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right")
    for name, *values in rows:
        table.add_row(escape(str(name)), *map(_format, values))
    console.print(table)


def _overall(metrics: DetectionMetrics) -> Iterator[tuple[str, str]]:
    for title, coco in (("box", metrics.boxes), ("mask", metrics.masks)):
        if coco is not None:
            numbers = {name: _format(value) for name, value in coco.numbers.items()}
            names = list(numbers)
            yield f"{title} mAP@[.5,.95]", numbers["AP"]
            yield f"{title} mAP@.5, @.75", f"{numbers['AP50']}, {numbers['AP75']}"
            yield f"{title} mAP small, medium, large", ", ".join(numbers[k] for k in names[3:6])
            yield f"{title} recall of 1, 10, 100", ", ".join(numbers[k] for k in names[6:9])
            yield f"{title} recall small, medium, large", ", ".join(numbers[k] for k in names[9:])
    if metrics.voc is not None:
        yield (
            "VOC mAP (area, 11-point)",
            f"{_format(metrics.voc.map)}, {_format(metrics.voc.map11)}",
        )
    if metrics.semantic is not None:
        yield "mean IoU", _format(metrics.semantic.mean_iou)
        yield "pixel accuracy", _format(metrics.semantic.pixel_accuracy)
    if metrics.located is not None:
        found = metrics.located
        yield _top_errors("localization error", found.top1_error, found.top5_error)
        yield "localization error, class given", f"{found.given_error:.2f}%"
        yield _top_errors("class error", found.class_top1_error, found.class_top5_error)


def _top_errors(title: str, top1: float, top5: float | None) -> tuple[str, str]:
    """A row of one or two errors; there is no top-5 for few classes."""
    if top5 is None:
        return f"{title} top-1", f"{top1:.2f}%"
    return f"{title} top-1, top-5", f"{top1:.2f}%, {top5:.2f}%"


def _columns(metrics: DetectionMetrics) -> dict[str, Sequence[Any]]:
    """Metrics of each class, by title."""
    columns: dict[str, Sequence[Any]] = {}
    if metrics.boxes is not None:
        columns |= {"AP": metrics.boxes.class_ap, "AP@.5": metrics.boxes.class_ap50}
    if metrics.masks is not None:
        columns |= {"mask AP": metrics.masks.class_ap, "mask AP@.5": metrics.masks.class_ap50}
    if metrics.voc is not None:
        columns |= {"VOC AP": metrics.voc.area, "11-point": metrics.voc.ap11}
    if metrics.semantic is not None:
        columns |= {"IoU": metrics.semantic.class_iou}
    return columns


def _format(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"
