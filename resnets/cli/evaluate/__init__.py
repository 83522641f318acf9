"""`resnets evaluate`: errors of nets on a data set, with the protocol they were measured under."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.table import Table

from resnets.cli.loading import load_options
from resnets.cli.runs import results_folder
from resnets.config import ConfigError, dump_json
from resnets.utils.terminal import console as terminal_console
from resnets.utils.terminal import escape, say

if TYPE_CHECKING:
    from resnets.data import Split
    from resnets.evaluate import Evaluation
    from resnets.evaluate.ensemble import Scored
    from resnets.evaluate.measure import Measurement
    from resnets.evaluate.truth import Truth
    from resnets.evaluate.views.views import Views
    from resnets.models import Net
    from resnets.utils.distributed import ProcessGroup

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
ALL_CLASSES, WORST = 20, 10  # classes up to which the table has all; else so many of the worst
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
    views: Literal["centre", "ten-crop", "dense"] = "centre",
    scales: str | None = None,
    flip: Flag = False,
    refine: Flag = False,
    average: Literal["probabilities", "logits"] = "probabilities",
    json: Flag = False,
    out: Path | None = None,
    device: str = "auto",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
) -> int:
    """Measure a net, or several as an ensemble. Exits with 1 if any picture cannot be read.

    Args:
        weights: Run folders, checkpoints, files in a known format, published weights; several vote
            together, matched by class names. Or one artifact of `resnets export`.
        data: Data set (name, hub:ORG/NAME, or a path, as train takes it); default: what the run
            trained on.
        split: Which part of it; val and train are split as the run split them.
        image_set: Detectors only: the images of one set of the data, such as test-dev2017. Where
            there is no ground truth, --out gets results in the form that test servers take.
        model: Network of weights that do not say it themselves (a state dict), as `resnets info`
            names it.
        classes: Names of the outputs in order, where the weights have none or the data has others:
            a file with one a line, a,b,c, imagenet, or numbers for 0, 1, ...
        labels: What is right, in place of the data's folders: real.json, .csv of path,label, .txt.
        views: One crop; corners and centre and all flipped; the whole picture, convolutionally.
        scales: Shorter sides in px such as 224,256,384,480,640 (dense's default), or the net's own.
        flip: Show each view flipped too.
        refine: Detectors only: read each region again at its regressed box, and let boxes vote.
        average: What is averaged over views and nets: after the softmax or before it.
        json: Print one JSON object and nothing else.
        out: Folder for evaluation.json, confusion.png and errors.png (the most confident errors);
            of detectors precision.png, misses.png and detections.json (COCO's results).
        device: auto, cpu, cuda, cuda:1, mps.
        precision: auto is bfloat16 where the device computes it natively, else float32.
    """
    if not weights:
        raise ConfigError("name at least one run or checkpoint")
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; name a folder")
    with results_folder(out):
        from resnets.weights.checkpoint.format import task_of

        if any(task_of(each) != "classify" for each in weights):
            own: dict[str, object] = {
                "model": model,
                "classes": classes,
                "labels": labels,
                "flip": flip,
            }
            own |= {"views": views != "centre", "average": average != "probabilities"}
            _only_for_classifiers(own)
            from resnets.cli.evaluate.detect import evaluate

            return evaluate(
                weights,
                data=data,
                split=split,
                image_set=image_set,
                scales=_numbers(scales) or None,
                refine=refine,
                as_json=json,
                out=out,
                device=device,
                precision=precision,
            )
        if refine:
            raise ConfigError("--refine is for detectors; a classifier has no boxes")
        if image_set:
            raise ConfigError("--image-set is for detectors; name a part with --split")
        from resnets.runtime.artifact import is_artifact

        if any(map(is_artifact, weights)):
            from resnets.cli.evaluate import artifact

            own = {
                "model": model,
                "classes": classes,
                "views": views != "centre",
                "scales": scales,
                "flip": flip,
            }
            found, pictures = artifact.evaluate(
                weights,
                data=data,
                split=split,
                labels=labels,
                views=own,
                device=device,
                precision=precision,
                quiet=json,
            )
            _report(found, pictures, out, as_json=json)
            return 1 if found.errors else 0
        from resnets.data.dataset.summary import announce
        from resnets.evaluate.match import open_pictures
        from resnets.evaluate.views.views import Views
        from resnets.utils.distributed import init_distributed
        from resnets.weights.load import load_model

        options = load_options(model, classes)
        shown = Views(views, _numbers(scales), flip)
        nets = [load_model(each, replace(options, rename=False)) for each in weights]
        if classes is not None:
            _rename_outputs(nets, classes)
        pictures, truth = open_pictures(nets[0], data, split, labels, nets[1:])
        with init_distributed(device) as rank:
            if rank.index == 0:
                announce(pictures)
            means = device, precision, average
            found = _measure(nets, weights, pictures, truth, shown, means, rank, quiet=json)
            if rank.index == 0:
                _report(found, pictures, out, as_json=json)
        return 1 if found.errors else 0


def _only_for_classifiers(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value:
            raise ConfigError(f"--{name} is for classifiers; leave it out for a detector")


def _numbers(scales: str | None) -> tuple[int, ...]:
    parts = [] if scales is None else scales.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise ConfigError(f"--scales {scales}: shorter sides in pixels, such as 224,256,384")
    return tuple(map(int, parts))


def _rename_outputs(nets: list[Net], text: str) -> None:
    from resnets.weights.heads import read_classes, same_classes
    from resnets.weights.load import warn_of_names

    for net in nets:
        if net.classes != nets[0].classes:
            raise ConfigError(f"--classes {text}: {net.origin} has its outputs in another order")
    names = read_classes(text, nets[0].spec.num_classes, nets[0].origin)
    theirs = nets[0].classes
    moved = names != theirs and same_classes(theirs, names) is not None
    if moved and text == "numbers":
        raise ConfigError(
            f"--classes numbers: {nets[0].origin} has the same names in another order"
            f" ({', '.join(theirs[:3])}, ...); leave --classes out"
        )
    if moved:  # names that are others are those of the data, which are matched later
        warn_of_names(nets[0].origin, theirs, names)
    for net in nets:
        net.classes = names


def _measure(
    nets: list[Net],
    weights: tuple[str, ...],
    pictures: Split,
    truth: Truth,
    views: Views,
    means: tuple[str, str, Literal["probabilities", "logits"]],
    rank: ProcessGroup,
    *,
    quiet: bool,
) -> Measurement:
    from resnets.evaluate.ensemble import Ensemble
    from resnets.evaluate.measure import measure
    from resnets.evaluate.prepare import to_device, with_progress
    from resnets.utils import environment

    device, precision, average = means
    for net in nets:
        chosen, precise = to_device(net, device, precision)
    ensemble = Ensemble(nets, views, average, chosen, precise)
    if not quiet and rank.index == 0:
        say(f"evaluating in {precise} on {environment.device_name(chosen)}", error=True)

    def watch(scored: Iterable[Scored]) -> Iterator[Scored]:
        total = len(rank.shard(truth.rows))
        for each in with_progress(scored, total, len, hidden=rank.index > 0):
            for _, error in each.errors:
                say(f"resnets evaluate: {error}", error=True)
            yield each

    found = measure(
        ensemble,
        pictures,
        truth,
        weights=_called(nets, weights),
        watch=watch,
        rank=rank,
    )
    if not math.isfinite(found.evaluation.loss):
        raise ValueError(
            f"{', '.join(weights)}: the net's outputs are not finite on this data (loss "
            f"{found.evaluation.loss}); the run diverged, or try --precision float32"
        )
    return found


def _called(nets: list[Net], weights: tuple[str, ...]) -> list[str]:
    """What the protocol calls each net; the files of several may be called alike."""
    if len(nets) == 1:
        return [nets[0].origin]
    return [
        f"{net.spec.name} {where}: {net.origin}" for net, where in zip(nets, weights, strict=True)
    ]


def _report(found: Measurement, pictures: Split, out: Path | None, *, as_json: bool) -> None:
    if out is not None:  # first: whoever reads what is printed may stop reading
        _write(found, pictures, out)
    if as_json:
        print(json.dumps(found.to_json()))  # noqa: T201
    else:
        show(found.evaluation)
    if found.errors:
        count = len(found.errors)
        say(f"resnets evaluate: {count:,} unreadable pictures left out", error=True)


def show(evaluation: Evaluation) -> None:
    """Print overall figures, the table of classes (the worst ten of many) and top confusions."""
    from resnets.evaluate.metrics import most_confused

    console = terminal_console()  # piped lines do not fold
    overall = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    overall.add_row("top-1 error", f"{evaluation.top1_error:.2f}%")
    if evaluation.top5_error is not None:
        overall.add_row("top-5 error", f"{evaluation.top5_error:.2f}%")
    overall.add_row("loss", f"{evaluation.loss:.4f} nats")
    overall.add_row("calibration error", f"{evaluation.calibration_error:.4f} (L1, 15 bins)")
    overall.add_row("pictures", f"{evaluation.examples:,}")
    overall.add_row("protocol", escape(evaluation.protocol))
    console.print(overall)
    rows = evaluation.per_class
    title = None
    if len(rows) > ALL_CLASSES:
        rows = tuple(sorted(rows, key=lambda row: 2.0 if row.f1 is None else row.f1)[:WORST])
        title = f"The {WORST} of {len(evaluation.classes)} classes with the lowest F1"
    table = Table(title=title, title_justify="left")
    table.add_column("class", overflow="fold")
    for name in ("pictures", "precision", "recall", "F1"):
        table.add_column(name, justify="right")
    for row in rows:
        shares = (_share(value) for value in (row.precision, row.recall, row.f1))
        table.add_row(escape(row.name), f"{row.examples:,}", *shares)
    console.print(table)
    pairs = most_confused(evaluation.confusion, evaluation.classes, PAIRS)
    if pairs:
        console.print("Most confused:")
    for true, predicted, count in pairs:
        console.print(f"  {count:,} x {true} taken for {predicted}", markup=False, highlight=False)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _write(found: Measurement, pictures: Split, out: Path) -> None:
    from resnets.evaluate.figures.confusion import save_figure
    from resnets.evaluate.figures.error_grid import save_sheet

    out.mkdir(parents=True, exist_ok=True)
    figures, picture, sheet = out / "evaluation.json", out / "confusion.png", out / "errors.png"
    dump_json(found.to_json(), figures)
    save_figure(found.evaluation, picture)
    save_sheet(pictures, found.mistakes, found.evaluation.protocol, sheet)
    say(f"wrote {figures}, {picture} and {sheet}", error=True)
