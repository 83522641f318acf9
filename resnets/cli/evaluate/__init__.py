"""`resnets evaluate`: metrics of models on a data set, with the protocol they were measured by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.table import Table

from resnets.cli.options import Flag
from resnets.cli.process import log_to_stderr
from resnets.config import ConfigError
from resnets.config.recipe import Precision
from resnets.utils.printable import console as terminal_console
from resnets.utils.printable import echo, escape
from resnets.utils.processes import environment_int

if TYPE_CHECKING:
    from resnets.evaluate.evaluation import AnyEvaluation
    from resnets.evaluate.measure import Measurement
    from resnets.evaluate.metrics.multilabel import MultilabelEvaluation
    from resnets.evaluate.unknown import UnknownMetrics
    from resnets.sequence.evaluate import SequenceEvaluation

MAX_CLASSES, WORST = 20, 10  # classes up to which the table has all, otherwise the worst
PAIRS = 5


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
    json: Flag = False,
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
        model: Architecture of weights that do not state it (a state dict), as `resnets info`
            names it.
        classes: Names of the outputs in order, if the weights have none or the data has others: a
            file with one per line, a,b,c, imagenet, or numbers for 0, 1, ...
        labels: True classes in place of the data's own: real.json, .csv of path,label, .txt.
        views: One crop; corners and center with mirror images; the whole image, convolutionally.
        scales: Shorter sides in px such as 224,256,384,480,640 (default of dense).
        flip: Add the mirror image of each view.
        refine: Detectors only: pool each region again at its regressed box, and let boxes vote.
        classes_from: Localizers only: classification networks whose class probabilities (with
            --views, --flip and --average) replace the localizer's own; several form an ensemble.
        average: What is averaged over views and models.
        unknown: Classifiers only: folder of images that show none of the classes. Gives the AUROC,
            and the share of them that is accepted at 95% recall of known images.
        json: Print one JSON object and nothing else.
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
    found = evaluate(
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
        return 1 if found.errors else 0
    if isinstance(found, Measurement):
        _print_measurement(found, as_json=json)
    elif isinstance(found, SequenceEvaluation):
        _print_sequences(found, as_json=json)
    else:
        from resnets.cli.evaluate.detect import report

        report(found, as_json=json)
    return 1 if found.errors else 0


def _parse_scales(scales: str | None) -> tuple[int, ...]:
    parts = [] if scales is None else scales.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise ConfigError(f"--scales {scales}: shorter sides in pixels, such as 224,256,384")
    return tuple(map(int, parts))


def _print_measurement(found: Measurement, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.to_json()))  # noqa: T201
    else:
        print_evaluation(found.evaluation)
        if found.unknown is not None:
            _print_unknown(found.unknown)
    if found.errors:
        count = len(found.errors)
        echo(f"resnets evaluate: {count:,} unreadable images left out", error=True)


def _print_sequences(found: SequenceEvaluation, *, as_json: bool) -> None:
    from resnets.report.run import METRICS, format_metric

    if as_json:
        print(json.dumps(found.to_json()))  # noqa: T201
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in found.metrics.items():
        table.add_row(METRICS[name], format_metric(name, value))
    table.add_row(found.unit, f"{found.examples:,}")
    table.add_row("protocol", escape(found.protocol))
    terminal_console().print(table)


def print_evaluation(evaluation: AnyEvaluation) -> None:
    """Print overall metrics, the table of classes (the worst ten of many) and top confusions."""
    from resnets.evaluate.metrics.multilabel import MultilabelEvaluation

    if isinstance(evaluation, MultilabelEvaluation):
        _print_multilabel(evaluation)
        return
    from resnets.evaluate.metrics.multiclass import most_confused

    console = terminal_console()  # piped lines are not wrapped
    overall = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    low, high = evaluation.sums.top1_interval
    interval = f"(95% interval {low:.2f} to {high:.2f}%, Wilson)"
    overall.add_row("top-1 error", f"{evaluation.top1_error:.2f}% {interval}")
    overall.add_row("balanced error", f"{evaluation.sums.balanced_error:.2f}%")
    if evaluation.top5_error is not None:
        overall.add_row("top-5 error", f"{evaluation.top5_error:.2f}%")
    overall.add_row("macro F1", f"{evaluation.sums.macro_f1:.2f}%")
    majority = f"{evaluation.sums.majority_error:.2f}% (always {escape(evaluation.majority_class)})"
    overall.add_row("majority baseline", majority)
    overall.add_row("loss", f"{evaluation.loss:.4f} nats")
    overall.add_row("calibration error", _format_calibration(evaluation))
    overall.add_row("images", f"{evaluation.examples:,}")
    overall.add_row("protocol", escape(evaluation.protocol))
    console.print(overall)
    for text in evaluation.warnings:
        console.print(f"warning: {text}", markup=False, highlight=False)
    rows = evaluation.per_class
    title = None
    if len(rows) > MAX_CLASSES:
        rows = tuple(sorted(rows, key=lambda row: 2.0 if row.f1 is None else row.f1)[:WORST])
        title = f"The {WORST} of {len(evaluation.classes)} classes with the lowest F1"
    table = Table(title=title, title_justify="left")
    table.add_column("class", overflow="fold")
    for name in ("images", "precision", "recall", "F1"):
        table.add_column(name, justify="right")
    for row in rows:
        percents = (_format_percent(value) for value in (row.precision, row.recall, row.f1))
        table.add_row(escape(row.name), f"{row.examples:,}", *percents)
    console.print(table)
    pairs = most_confused(evaluation.confusion, evaluation.classes, PAIRS)
    if pairs:
        console.print("Most confused:")
    for true, predicted, count in pairs:
        console.print(
            f"  {count:,} x {true} predicted as {predicted}", markup=False, highlight=False
        )


def _print_unknown(found: UnknownMetrics) -> None:
    """Print how well unknown images are separated from images of the classes."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("unknown images", f"{found.unknown:,} ({escape(found.source)})")
    table.add_row("AUROC", f"{found.auroc:.4f} (known against unknown, by energy)")
    table.add_row("false accepts", f"{found.false_accepts:.2f}% of them at 95% recall of the known")
    if found.accepted_known is not None:
        stored = f"{found.accepted_unknown:.2f}% of them, {found.accepted_known:.2f}% of the known"
        table.add_row("accepted", f"{stored}, at the threshold of the weights")
    if found.errors:
        table.add_row("unreadable", f"{len(found.errors):,} of them left out")
    terminal_console().print(table)


def _print_multilabel(evaluation: MultilabelEvaluation) -> None:
    """Print the metrics of a multi-label classifier."""
    console = terminal_console()
    overall = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    overall.add_row("mAP", f"{evaluation.mAP:.2f}%")
    overall.add_row("macro F1", f"{evaluation.macro_f1:.2f}%")
    overall.add_row("micro F1", f"{evaluation.micro_f1:.2f}%")
    overall.add_row("loss", f"{evaluation.loss:.4f} nats per label")
    overall.add_row("calibration error", _format_calibration(evaluation))
    overall.add_row("images", f"{evaluation.examples:,}")
    overall.add_row("protocol", escape(evaluation.protocol))
    console.print(overall)
    rows = evaluation.per_class
    title = None
    if len(rows) > MAX_CLASSES:
        rows = tuple(sorted(rows, key=lambda row: row.average_precision or 0.0)[:WORST])
        title = f"The {WORST} of {len(evaluation.classes)} labels with the lowest AP"
    table = Table(title=title, title_justify="left")
    table.add_column("label", overflow="fold")
    for name in ("images", "AP", "threshold", "precision", "recall", "F1"):
        table.add_column(name, justify="right")
    for row in rows:
        percents = (_format_percent(value) for value in (row.precision, row.recall, row.f1))
        table.add_row(
            escape(row.name),
            f"{row.examples:,}",
            _format_percent(row.average_precision),
            f"{row.threshold:.3f}",
            *percents,
        )
    console.print(table)


def _format_calibration(evaluation: AnyEvaluation) -> str:
    return (
        f"{evaluation.calibration_error:.4f} (L1, 15 equal bins),"
        f" {evaluation.calibration_error_equal_mass:.4f} (15 bins of equally many)"
    )


def _format_percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"
