"""`resnets evaluate`: errors of a run or checkpoint on a data set, with their protocol."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resnets.config import ConfigError, dump_json

if TYPE_CHECKING:
    from resnets.evaluate import Evaluation
    from resnets.models import Net

ALL_CLASSES, WORST = 20, 10  # classes up to which the table has all; else so many of the worst
PAIRS = 5


def command(
    weights: tyro.conf.Positional[str],
    /,
    data: str | None = None,
    split: Literal["test", "val", "train"] = "test",
    classes: str | None = None,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    out: Path | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
) -> int:
    """Measure a net: errors, loss, calibration, per-class figures and confusions.

    Args:
        weights: Run folder or checkpoint.
        data: Data set (name, folder of class folders, tar, ...); default: what the run trained on.
        split: Which part of it; val and train are split as the run split them.
        classes: Names of the net's outputs in order, where the data has others than the checkpoint:
            a file with one a line, or a,b,c.
        json: Print one JSON object and nothing else.
        out: Folder for evaluation.json and confusion.png.
        batch_size: Pictures at once; default: the recipe's.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: auto is bfloat16 where the device computes it natively, else float32.
    """
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"--batch-size {batch_size}: must be at least 1")
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; name a folder")
    from resnets.weights.load import load

    net = load(weights)
    if classes is not None:
        _rename_outputs(net, classes)
    evaluation = _measure(net, data, split, batch_size, device, precision, quiet=json)
    if not math.isfinite(evaluation.loss):
        raise ValueError(
            f"{weights}: the net's outputs are not finite on this data (loss {evaluation.loss}); "
            "the run diverged, or try --precision float32"
        )
    if json:
        _print_json(evaluation)
    else:
        show(evaluation)
    if out is not None:
        _write(evaluation, out)
    return 0


def _rename_outputs(net: Net, text: str) -> None:
    from resnets.evaluate.match import read_classes

    names = read_classes(text)
    if len(names) != net.spec.num_classes:
        raise ConfigError(
            f"--classes {text}: names {len(names)} classes, the net has {net.spec.num_classes}"
        )
    if len(set(names)) != len(names):
        raise ConfigError(f"--classes {text}: names a class twice")
    net.classes = names


def _measure(
    net: Net,
    data: str | None,
    split_name: Literal["test", "val", "train"],
    batch_size: int | None,
    device: str,
    precision: str,
    *,
    quiet: bool,
) -> Evaluation:
    from resnets import host
    from resnets.data.loader import eval_batches
    from resnets.evaluate import describe_protocol, evaluate_model
    from resnets.evaluate.match import match_classes, open_split, relabel
    from resnets.evaluate.prepare import place, with_progress

    split = open_split(net, data, split_name)
    outputs = match_classes(split.classes, net.classes, split.description)
    chosen, precise = place(net, device, precision)
    if not quiet:
        print(f"evaluating in {precise} on {host.device_name(chosen)}", file=sys.stderr)
    size = batch_size or (net.recipe.eval.batch_size if net.recipe is not None else 64)
    batches = relabel(eval_batches(split, net.preprocess, size, chosen), outputs)
    return evaluate_model(
        net,
        with_progress(batches, len(split), len),
        net.classes,
        protocol=describe_protocol(
            size=net.preprocess.spec.size,
            precision=precise,
            weights=net.origin,
            data=split.description,
        ),
        precision=precise,
        device=chosen,
    )


def _print_json(evaluation: Evaluation) -> None:
    print(json.dumps(evaluation.to_json()))


def show(evaluation: Evaluation) -> None:
    """Print overall figures, the table of classes (the worst ten of many) and top confusions."""
    from resnets.evaluate.metrics import most_confused

    console = Console(width=None if sys.stdout.isatty() else 1000)  # piped lines do not fold
    overall = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    overall.add_row("top-1 error", f"{evaluation.top1_error:.2f}%")
    if len(evaluation.classes) > 5:
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


def _write(evaluation: Evaluation, out: Path) -> None:
    from resnets.evaluate.figures import save_figure

    out.mkdir(parents=True, exist_ok=True)
    figures, picture = out / "evaluation.json", out / "confusion.png"
    dump_json(evaluation.to_json(), figures)
    save_figure(evaluation, picture)
    print(f"wrote {figures} and {picture}", file=sys.stderr)
