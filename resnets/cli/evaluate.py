"""`resnets evaluate`: metrics of models on a data set, with the protocol they were measured by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnets.cli.options import Flag
from resnets.cli.process import log_to_stderr
from resnets.config import ConfigError
from resnets.config.recipe import Precision
from resnets.utils.machine.processes import environment_int
from resnets.utils.printable import (
    Table,
    echo,
    escape,
    format_count,
    join_names,
    terminal_console,
)

if TYPE_CHECKING:
    from resnets.api.tasks.detect import DetectionEvaluation
    from resnets.detect.metrics.meters import DetectionMetrics
    from resnets.evaluate.evaluation import AnyEvaluation, Evaluation
    from resnets.evaluate.measure import Measurement, UnknownMetrics
    from resnets.evaluate.metrics.multilabel import MultilabelEvaluation
    from resnets.sequence.evaluate import SequenceEvaluation

MAX_CLASSES = 20  # of which the table lists all, of more only the worst
WORST_CLASSES = 10
CONFUSED_PAIRS = 5
ClassRow = tuple[str, float | None, list[str]]  # name, value to rank by, cells


def command(
    weights: tyro.conf.Positional[tuple[str, ...]],
    /,
    data: str | None = None,
    split: Literal["test", "val", "train"] = "test",
    image_set: str = "",
    model: str | None = None,
    classes: str | None = None,
    labels: Path | None = None,
    views: Literal["center", "ten-crop", "dense"] = "center",
    scales: str | None = None,
    flip: Flag = False,
    refine: Flag = False,
    classes_from: tuple[str, ...] = (),
    average: Literal["probabilities", "logits"] = "probabilities",
    unknown: str | None = None,
    as_json: Annotated[Flag, tyro.conf.arg(name="json")] = False,
    out: Path | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> int:
    """Evaluate a model, or several as an ensemble. Exits with 1 if any image cannot be read.

    Args:
        weights: Run folders, checkpoints, files in a known format, published weights; several form
            an ensemble, matched by class names. Or one artifact of `resnets export`.
        data: Data set (name, hub:ORG/NAME, or a path, as for train); default: what the run was
            trained on.
        split: Split of the data; val and train are those of the run.
        image_set: Detectors only: name of an image set of the data, such as test-dev2017. Without
            ground truth, results are written to --out in the format of test servers.
        model: Architecture of weights that do not specify it (a state dict), including those of
            --classes-from; a name listed by `resnets info`.
        classes: Class names in output order, if the weights contain none or the data uses others: a
            file with one per line, a,b,c, imagenet, or numbers for 0, 1, ...
        labels: True classes in place of the data's own: real.json, .csv of path,label, .txt.
        views: Test views: the center crop; four corner crops and the center crop, with their mirror
            images; or the whole image, fully convolutionally.
        scales: Shorter sides in px such as 224,256,384,480,640 (default of dense).
        flip: Add the mirror image of each view.
        refine: Detectors only: pool each region again at its regressed box, and let boxes vote.
        classes_from: Localizers only: classification networks whose class probabilities (with
            --views, --flip and --average) replace the localizer's own; several form an ensemble.
        average: What is averaged over views and models.
        unknown: Classifiers only: folder of out-of-distribution images, which show none of the
            classes. Reports the AUROC, and the fraction of them that is accepted at 95% recall of
            images of the classes.
        as_json: Print one JSON object and nothing else.
        out: Folder for evaluation.json, confusion.png and errors.png (the most confident errors);
            for detectors precision.png, misses.png and detections.json (COCO's results).
        device: auto, cpu, cuda, cuda:1, mps.
        precision: auto is bfloat16 where the device computes it natively, float16 on GPUs with
            tensor cores but without it, else float32. tf32: GPUs from Ampere on.
    """
    from resnets.api.evaluate import evaluate
    from resnets.evaluate.measure import Measurement
    from resnets.sequence.evaluate import SequenceEvaluation

    log_to_stderr()
    result = evaluate(
        weights,
        data,
        split,
        model=model,
        classes=classes,
        labels=labels,
        views=views,
        scales=_parse_scales(scales),
        flip=flip,
        average=average,
        image_set=image_set,
        refine=refine,
        classes_from=classes_from,
        unknown=unknown,
        out=out,
        device=device,
        precision=precision,
    )
    if environment_int("RANK", 0) > 0:
        return 1 if result.errors else 0
    if isinstance(result, Measurement):
        _print_classifier(result, as_json=as_json, drawn=out is not None)
    elif isinstance(result, SequenceEvaluation):
        _print_sequences(result, as_json=as_json)
    else:
        _print_detector(result, as_json=as_json)
    return 1 if result.errors else 0


def _parse_scales(scales: str | None) -> tuple[int, ...]:
    parts = [] if scales is None else scales.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise ConfigError(
            f"--scales {scales}: must be shorter sides in pixels, such as 224,256,384"
        )
    return tuple(map(int, parts))


def _print_classifier(result: Measurement, *, as_json: bool, drawn: bool) -> None:
    if as_json:
        print(json.dumps(result.to_json()))  # noqa: T201
    else:
        print_evaluation(result.evaluation)
        if result.unknown is not None:
            _print_metrics(_format_unknown(result.unknown))
        if not drawn:
            echo("\nfor figures of confusions, calibration and errors add --out FOLDER")
    if result.errors:
        count = len(result.errors)
        echo(f"resnets evaluate: skipped {count:,} unreadable images", error=True)


def _print_sequences(result: SequenceEvaluation, *, as_json: bool) -> None:
    from resnets.report.run import METRICS, format_metric

    if as_json:
        print(json.dumps(result.to_json()))  # noqa: T201
        return
    metrics = [
        (METRICS[name], format_metric(name, value)) for name, value in result.metrics.items()
    ]
    examples = (result.unit, f"{result.examples:,}")
    _print_metrics([*metrics, examples, ("protocol", escape(result.protocol))])


def _print_detector(result: DetectionEvaluation, *, as_json: bool) -> None:
    """Print the metrics, or where results without ground truth were saved."""
    if as_json:
        print(json.dumps(result.to_json()))  # noqa: T201
    if result.evaluation is None:
        found = f"{result.split.description}: {result.to_json()['objects']:,} objects found"
        echo(f"{found}; no ground truth, so no metrics", error=as_json)
    elif not as_json:
        _print_detection_metrics(result.evaluation)
    if result.written:
        echo(f"wrote {join_names(map(str, result.written))}", error=True)


def print_evaluation(evaluation: AnyEvaluation) -> None:
    """Print overall metrics, the table of classes (the worst ten of many) and top confusions."""
    from resnets.evaluate.metrics.multilabel import MultilabelEvaluation

    if isinstance(evaluation, MultilabelEvaluation):
        _print_multilabel(evaluation)
    else:
        _print_multiclass(evaluation)


def _print_multiclass(evaluation: Evaluation) -> None:
    from resnets.evaluate.metrics.multiclass import most_confused

    sums = evaluation.sums
    low, high = sums.top1_interval
    interval = f"(95% interval {low:.1f} to {high:.1f}%, Wilson)"
    metrics = [
        ("top-1 error", f"{evaluation.top1_error:.2f}% {interval}"),
        ("balanced error", f"{sums.balanced_error:.2f}%"),
    ]
    if evaluation.top5_error is not None:
        metrics.append(("top-5 error", f"{evaluation.top5_error:.2f}%"))
    metrics += [
        ("macro F1", f"{sums.macro_f1:.2f}%"),
        (
            "majority baseline",
            f"{sums.majority_error:.2f}% (always {escape(evaluation.majority_class)})",
        ),
        ("loss", f"{evaluation.loss:.4f} nats"),
    ]
    _print_metrics([*metrics, *_format_protocol(evaluation)])
    console = terminal_console()  # piped lines are not wrapped
    for text in evaluation.warnings:
        console.print(f"warning: {text}", markup=False, highlight=False)
    rows: list[ClassRow] = []
    for row in evaluation.per_class:
        percents = map(_format_percent, (row.precision, row.recall, row.f1))
        rows.append((row.name, row.f1, [f"{row.examples:,}", *percents]))
    _print_classes("class", ("images", "precision", "recall", "F1"), rows, "F1")
    pairs = most_confused(evaluation.confusion, evaluation.classes, CONFUSED_PAIRS)
    if pairs:
        console.print("Most confused:")
    for true, predicted, count in pairs:
        console.print(
            f"  {true} predicted as {predicted}: {format_count(count, 'image')}",
            markup=False,
            highlight=False,
        )


def _print_multilabel(evaluation: MultilabelEvaluation) -> None:
    metrics = [
        ("mAP", f"{evaluation.mAP:.2f}%"),
        ("macro F1", f"{evaluation.macro_f1:.2f}%"),
        ("micro F1", f"{evaluation.micro_f1:.2f}%"),
        ("loss", f"{evaluation.loss:.4f} nats per label"),
    ]
    _print_metrics([*metrics, *_format_protocol(evaluation)])
    rows: list[ClassRow] = []
    for row in evaluation.per_class:
        average = _format_percent(row.average_precision)
        percents = map(_format_percent, (row.precision, row.recall, row.f1))
        cells = [f"{row.examples:,}", average, f"{row.threshold:.3f}", *percents]
        rows.append((row.name, row.average_precision, cells))
    columns = ("images", "AP", "threshold", "precision", "recall", "F1")
    _print_classes("label", columns, rows, "AP")


def _print_detection_metrics(metrics: DetectionMetrics) -> None:
    examples, protocol = ("images", f"{metrics.examples:,}"), ("protocol", escape(metrics.protocol))
    _print_metrics([*_format_detection(metrics), examples, protocol])
    columns = _class_columns(metrics)
    if columns:
        values = zip(metrics.classes, *columns.values(), strict=True)
        rows = [(str(name), each[0], list(map(_format_share, each))) for name, *each in values]
        _print_classes("class", tuple(columns), rows, next(iter(columns)))


def _print_metrics(metrics: Iterable[tuple[str, str]]) -> None:
    """Print names and values without borders."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in metrics:
        table.add_row(name, value)
    terminal_console().print(table)


def _print_classes(
    heading: str, columns: Sequence[str], rows: Sequence[ClassRow], metric: str
) -> None:
    """Print a row for each class; of many, those with the lowest `metric`, which ranks them."""
    title = None
    if len(rows) > MAX_CLASSES:
        ranked = sorted(
            (value, index) for index, (_, value, _) in enumerate(rows) if value is not None
        )
        worst = [rows[index] for _, index in ranked[:WORST_CLASSES]]
        noun = {"class": "classes", "label": "labels"}[heading]
        title = f"The {len(worst)} of {len(rows)} {noun} with the lowest {metric}"
        rows = worst
    table = Table(title=title)
    table.add_column(heading, overflow="fold")
    for name in columns:
        table.add_column(name, justify="right")
    for name, _, cells in rows:
        table.add_row(escape(name), *cells)
    terminal_console().print(table)


def _format_protocol(evaluation: AnyEvaluation) -> list[tuple[str, str]]:
    calibration = (
        f"{evaluation.calibration_error:.4f} (ECE, 15 bins of equal width),"
        f" {evaluation.calibration_error_equal_mass:.4f} (15 of equal size)"
    )
    return [
        ("calibration error", calibration),
        ("images", f"{evaluation.examples:,}"),
        ("protocol", escape(evaluation.protocol)),
    ]


def _format_unknown(metrics: UnknownMetrics) -> Iterator[tuple[str, str]]:
    """Describe how well unknown images are separated from images of the classes."""
    yield "unknown images", f"{metrics.unknown:,} ({escape(metrics.source)})"
    yield "AUROC", f"{metrics.auroc:.4f} (known against unknown, by the energy score)"
    yield "false accepts", f"{metrics.false_accepts:.2f}% of them at 95% recall of the known"
    if metrics.accepted_known is not None:
        yield (
            "accepted",
            f"{metrics.accepted_unknown:.2f}% of them, {metrics.accepted_known:.2f}% of the known,"
            " at the threshold of the weights",
        )
    if metrics.errors:
        yield "unreadable", f"{len(metrics.errors):,} of them skipped"


def _format_detection(metrics: DetectionMetrics) -> Iterator[tuple[str, str]]:
    for title, coco in (("box", metrics.boxes), ("mask", metrics.masks)):
        if coco is not None:
            numbers = {name: _format_share(value) for name, value in coco.numbers.items()}
            names = list(numbers)
            yield f"{title} mAP@[.5,.95]", numbers["AP"]
            yield f"{title} mAP@.5, @.75", f"{numbers['AP50']}, {numbers['AP75']}"
            yield f"{title} mAP small, medium, large", ", ".join(numbers[k] for k in names[3:6])
            yield f"{title} recall of 1, 10, 100", ", ".join(numbers[k] for k in names[6:9])
            yield f"{title} recall small, medium, large", ", ".join(numbers[k] for k in names[9:])
    if metrics.voc is not None:
        yield (
            "VOC mAP (area, 11-point)",
            f"{_format_share(metrics.voc.map)}, {_format_share(metrics.voc.map11)}",
        )
    if metrics.semantic is not None:
        yield "mean IoU", _format_share(metrics.semantic.mean_iou)
        yield "pixel accuracy", _format_share(metrics.semantic.pixel_accuracy)
    if metrics.located is not None:
        located = metrics.located
        yield _format_errors("localization error", located.top1_error, located.top5_error)
        yield "localization error, class given", f"{located.given_error:.2f}%"
        yield _format_errors("class error", located.class_top1_error, located.class_top5_error)


def _format_errors(title: str, top1: float, top5: float | None) -> tuple[str, str]:
    """Format one or two errors; there is no top-5 for few classes."""
    if top5 is None:
        return f"{title} top-1", f"{top1:.2f}%"
    return f"{title} top-1, top-5", f"{top1:.2f}%, {top5:.2f}%"


def _class_columns(metrics: DetectionMetrics) -> dict[str, Sequence[Any]]:
    """Return the metrics of each class, by title."""
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


def _format_share(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"


def _format_percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}%"
