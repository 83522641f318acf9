"""`resnets predict`: classify images, or detect objects in them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.table import Table

from resnets.cli.predict.bulk import Bulk
from resnets.cli.process import load_options
from resnets.config import ConfigError
from resnets.config.recipe import Precision
from resnets.utils.csv_files import CsvWriter
from resnets.utils.printable import console as terminal_console
from resnets.utils.printable import echo, escape

if TYPE_CHECKING:
    from resnets.cli.predict.inputs import Inputs
    from resnets.config import Postprocess
    from resnets.evaluate.predict import Prediction
    from resnets.models import ImageClassifier
    from resnets.weights.load import LoadOptions

BULK = Bulk()
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def command(
    weights: tyro.conf.Positional[str],
    images: tyro.conf.Positional[tuple[str, ...]],
    /,
    model: str | None = None,
    classes: str | None = None,
    top_k: Annotated[int, tyro.conf.arg(aliases=["--top"])] = 5,
    as_json: Annotated[Flag, tyro.conf.arg(name="json")] = False,
    csv: Flag = False,
    explain: Path | None = None,
    draw: Path | None = None,
    threshold: float = 0.5,
    device: str = "auto",
    precision: Literal[Precision, "int8"] = "auto",
    backend: Literal["auto", "torch", "onnx", "openvino"] = "auto",
    calibrate: str | None = None,
    length: int = 300,
    bulk: Annotated[Bulk, tyro.conf.OmitArgPrefixes] = BULK,
) -> int:
    """Classify images, detect objects in them, classify signals, or continue texts.

    Exits with 1 if any image is unreadable.

    With --data and --out, predict a whole data set into shards, with a row per image.

    Args:
        weights: Run folder, checkpoint, weights file, published weights (see docs/weights.md), or
            artifact of `resnets export`.
        images: Image files, folders whose images are taken in sorted order, URLs (http, https), and
            - for an image from standard input; for a model of signals .csv, .npy or .npz files, for
            one of text the texts themselves.
        model: Network of weights that do not state it (a state dict): a name that `resnets info`
            lists.
        classes: Names of the outputs in order, if the weights do not name them: a file with one per
            line, a,b,c, imagenet, or numbers for 0, 1, ...
        top_k: Number of classes per image, the most probable first.
        as_json: Print a JSON list and nothing else.
        csv: Print CSV: path,class1,probability1,..., and labels and unknown where the weights tell
            them; cells of unreadable images are empty.
        explain: Folder for a PNG of each image with the evidence for its class (Grad-CAM).
        draw: Detectors and segmenters only: folder for a PNG of each image with its predictions,
            and for detections.json (in COCO's format, as printed by --json).
        threshold: Detectors only: lowest score of an object.
        device: auto, cpu, cuda, cuda:1, mps.
        precision: auto is bfloat16 where the device computes it natively, float16 on GPUs with
            tensor cores but without it, else float32; and int8 if an artifact in the run folder has
            a small measured rise of the error. tf32: GPUs from Ampere on.
        backend: Runtime for a checkpoint on the CPU. auto is the fastest that is installed and
            verified, if there are enough images to prepare it for.
        length: Models of text only: characters to write after each text given in place of images.
        calibrate: Data set that --precision int8 is calibrated on; the top-1 error may rise by half
            a point on it.
    """
    options = load_options(model, classes)
    if bulk != BULK:
        if images or as_json or csv or explain is not None or draw is not None:
            raise ConfigError("--data does not go with IMAGES, --json, --csv, --explain or --draw")
        from resnets.cli.predict.bulk import Computing
        from resnets.cli.predict.bulk import predict as predict_set

        computing = Computing(device, precision, backend, calibrate)
        return predict_set(weights, bulk, top_k=top_k, computing=computing, loading=options)
    if as_json and csv:
        raise ConfigError("--json and --csv exclude each other")
    if not images:
        raise ConfigError("give at least one image, folder or URL")
    from resnets.cli.predict.inputs import local_files
    from resnets.weights.checkpoint.find import read_task
    from resnets.weights.load import NOTHING_SAID

    task = read_task(weights)
    if task in ("text", "signals"):
        others = (explain, draw, as_json, options != NOTHING_SAID, backend not in ("auto", "torch"))
        if any(others) or (csv and task == "text"):
            raise ConfigError(f"a model of task {task!r} takes only --device, --length or --csv")
        return _sequences(weights, images, length, as_csv=csv, device=device)
    if task == "classify":
        if draw is not None:
            raise ConfigError("--draw is for detectors; use --explain for classifiers")
        if top_k < 1:
            raise ConfigError(f"--top-k {top_k}: must be at least 1")
        shown = _Shown(top_k, as_json, csv, explain)
        runtime = {"device": device, "precision": precision, "backend": backend}
        with local_files(images) as inputs:
            return _classify(weights, inputs, shown, options, {**runtime, "calibrate": calibrate})
    if options != NOTHING_SAID:
        raise ConfigError("--model and --classes are for classifiers; detectors store both")
    if explain is not None:
        raise ConfigError("--explain is for classifiers; use --draw for detectors")
    from resnets.cli.predict.detect import predict as predict_objects
    from resnets.runtime.vision import check_runtime

    check_runtime(weights, backend, precision)
    with local_files(images) as inputs:
        return predict_objects(
            weights,
            inputs,
            threshold=threshold,
            as_json=as_json,
            as_csv=csv,
            draw=draw,
            device=device,
            precision=precision,
        )


@dataclass(frozen=True)
class _Shown:
    """What is printed of the predictions of a classifier."""

    top_k: int
    as_json: bool
    csv: bool
    explain: Path | None


def _classify(
    weights: str, inputs: Inputs, shown: _Shown, options: LoadOptions, computing: dict[str, Any]
) -> int:
    from resnets.api.predict import classify, open_engine
    from resnets.data.dataset.summary import announce_folders
    from resnets.data.files.walk import LeftOut
    from resnets.evaluate.predict import find_images
    from resnets.runtime.artifact import is_artifact

    explain = shown.explain
    if explain is not None:
        if is_artifact(weights):
            raise ConfigError("--explain: artifacts have no gradients; use the checkpoint")
        if explain.exists() and not explain.is_dir():
            raise ConfigError(f"--explain {explain}: is a file, not a folder")
        explain.mkdir(parents=True, exist_ok=True)
    paths = find_images(inputs.paths, left_out := LeftOut())
    announce_folders(inputs.paths, len(paths), left_out)
    engine = open_engine(weights, len(paths), options=options, quiet=shown.as_json, **computing)
    failures = _Failures(inputs)
    # Rows on a terminal show the progress; a bar would interrupt them.
    streaming = shown.csv and sys.stdout.isatty()
    predictions = failures.watch(classify(engine, paths, top_k=shown.top_k, hidden=streaming))
    if explain is not None:
        predictions = _explained(_net(weights, computing["device"], options), predictions, explain)
    if shown.as_json:
        _print_json(predictions, inputs)
    elif shown.csv:
        columns = min(shown.top_k, len(engine.classes))
        _print_csv(predictions, columns, engine.postprocess, inputs)
    else:
        _print_table(predictions, engine.postprocess, inputs)
    return 1 if failures.count else 0


def _sequences(
    weights: str, inputs: Sequence[str], length: int, *, as_csv: bool, device: str
) -> int:
    """Print each text with `length` further characters, or the class of each signal of files."""
    from resnets.models.transformer.network import Transformer
    from resnets.sequence.load import load
    from resnets.sequence.predict import generate, predict_signals
    from resnets.utils.environment import pick_device

    model = load(weights).to(pick_device(device))
    if isinstance(model, Transformer):
        for each in inputs:
            echo(generate(model, each, length))
        return 0
    found = [each for path in inputs for each in predict_signals(model, Path(path))]
    rows = [(str(each.path), str(each.row), each.name, each.probability) for each in found]
    if as_csv:
        writer = CsvWriter(sys.stdout)
        writer.writerow(["path", "row", "class", "probability"])
        writer.writerows((*row, f"{share:.6g}") for *row, share in rows)
        return 0
    table = Table("file", "row", "class", "probability")
    for *row, share in rows:
        table.add_row(*map(escape, row), f"{share:.1%}")
    terminal_console().print(table)
    return 0


def _net(weights: str, device: str, options: LoadOptions) -> ImageClassifier:
    from resnets.evaluate.prepare import to_device
    from resnets.weights.load import load_model

    net = load_model(weights, options)
    to_device(net, device, "float32")
    return net


class _Failures:
    """Reports unreadable images on stderr, and counts them."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.count = inputs, inputs.failed

    def watch(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """Hand on `predictions`."""
        for prediction in predictions:
            if prediction.error is not None:
                self.count += 1
                said = prediction.error.replace(
                    str(prediction.path), self.inputs.name(prediction.path)
                )
                echo(f"resnets predict: {said}", error=True)
            yield prediction


def _explained(
    net: ImageClassifier, predictions: Iterable[Prediction], folder: Path
) -> Iterator[Prediction]:
    """Save a map of each prediction as <image name>.cam.png in `folder`, and yield it."""
    from resnets.evaluate.figures.grad_cam import explain

    written: Counter[str] = Counter()
    for prediction in predictions:
        if prediction.error is None:
            stem = prediction.path.name
            written[stem] += 1
            again = f".{written[stem]}" if written[stem] > 1 else ""
            out = folder / f"{stem}{again}.cam.png"
            explain(net, prediction.path, prediction.classes[0], prediction.probabilities[0], out)
        yield prediction
    echo(f"wrote {written.total():,} maps to {folder}", error=True)


def _print_json(predictions: Iterable[Prediction], inputs: Inputs) -> None:
    print(json.dumps([_entry(each, inputs) for each in predictions], indent=1))  # noqa: T201


def _entry(prediction: Prediction, inputs: Inputs) -> dict[str, Any]:
    named = [
        {"class": name, "probability": probability} for name, probability in _named(prediction)
    ]
    entry: dict[str, Any] = {"path": inputs.name(prediction.path), "predictions": named}
    if prediction.labels is not None:
        entry["labels"] = prediction.labels
    if prediction.unknown is not None:
        entry["unknown"] = prediction.unknown
    return entry if prediction.error is None else {**entry, "error": prediction.error}


def _print_csv(
    predictions: Iterable[Prediction], columns: int, spec: Postprocess, inputs: Inputs
) -> None:
    writer = CsvWriter(sys.stdout)
    heads = [f"{what}{k}" for k in range(1, columns + 1) for what in ("class", "probability")]
    decided = ["labels"] if spec.multilabel else []
    decided += ["unknown"] if spec.min_score is not None else []
    writer.writerow(["path", *heads, *decided])
    for prediction in predictions:
        cells = [cell for name, share in _named(prediction) for cell in (name, f"{share:.6g}")]
        entry = _entry(prediction, inputs)
        said = [
            json.dumps(entry[name], ensure_ascii=False) if name in entry else "" for name in decided
        ]
        writer.writerow([entry["path"], *(cells or [""] * len(heads)), *said])


def _print_table(predictions: Iterable[Prediction], spec: Postprocess, inputs: Inputs) -> None:
    table = Table()
    table.add_column("image", overflow="fold")
    if spec.multilabel:
        table.add_column("labels", overflow="fold")
    table.add_column("highest" if spec.multilabel else "class", overflow="fold")
    table.add_column("probability", justify="right")
    table.add_column("next", overflow="fold")
    for prediction in predictions:
        if prediction.error is not None:
            continue
        (best, probability), *others = _named(prediction)
        then = ", ".join(f"{name} {share:.1%}" for name, share in others)
        cells = [inputs.name(prediction.path), best, f"{probability:.1%}", then]
        if prediction.labels is not None:
            cells.insert(1, ", ".join(prediction.labels) or "none")
        if prediction.unknown:
            cells[1] = f"unknown ({cells[1]})"
        table.add_row(*map(escape, cells))
    if table.row_count:
        # piped lines do not wrap
        terminal_console().print(table)


def _named(prediction: Prediction) -> Iterator[tuple[str, float]]:
    return zip(prediction.classes, prediction.probabilities, strict=True)
