"""`resnets predict`: classify images, or detect objects in them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnets.cli.options import Flag, load_options, refuse_unread
from resnets.cli.predict.bulk import Bulk
from resnets.cli.predict.inputs import Inputs, local_files, make_folder, unique_path
from resnets.config import ConfigError
from resnets.config.ranges import check_range
from resnets.config.recipe import Precision
from resnets.utils.files.csv import CsvWriter
from resnets.utils.printable import Table, echo, escape, terminal_console

if TYPE_CHECKING:
    from resnets.config import Postprocess
    from resnets.evaluate.predict import Prediction
    from resnets.models import ImageClassifier
    from resnets.weights.load import LoadOptions

BULK = Bulk()
# Options that models of each task read, besides WEIGHTS, IMAGES and --device; and those of them
# that --data reads.
BOXES = "as_json csv draw precision backend"
READ = {
    "classify": "model classes top_k as_json csv explain precision backend calibrate",
    "detect": f"{BOXES} threshold",
    "instances": f"{BOXES} threshold",
    "localize": BOXES,
    "segment": BOXES,
    "signals": "csv",
    "text": "length",
}
READ_IN_BULK = "model classes top_k threshold precision backend calibrate"


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

    With --data and --out, write predictions for a whole data set into shards, one row per image.

    Args:
        weights: Run folder, checkpoint, weights file, published weights (see docs/weights.md), or
            artifact of `resnets export`.
        images: Image files, folders whose images are taken in sorted order, URLs (http, https), and
            - for an image from standard input; for a model of signals .csv, .npy or .npz files, for
            one of text the texts themselves.
        model: Architecture of weights that do not specify it (a state dict); a name listed by
            `resnets info`.
        classes: Class names in output order, if the weights do not contain them: a file with one
            per line, a,b,c, imagenet, or numbers for 0, 1, ...
        top_k: Number of classes per image, the most probable first.
        as_json: Print a JSON list and nothing else.
        csv: Print CSV: path,class1,probability1,..., and columns labels and unknown if the model
            predicts them; cells of unreadable images are empty.
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
    given = dict(locals())
    options = load_options(model, classes)
    runtime = {
        "device": device,
        "precision": precision,
        "backend": backend,
        "calibrate": calibrate,
    }
    if bulk != BULK:
        read = f"weights bulk device {READ_IN_BULK}"
        refuse_unread(command, given, read, "cannot be combined with --data and --out")
        from resnets.cli.predict.bulk import predict as predict_dataset

        return predict_dataset(
            weights,
            bulk,
            top_k=top_k,
            threshold=threshold,
            runtime=runtime,
            loading=options,
            check=lambda: _refuse_unread(weights, given),
        )
    if as_json and csv:
        raise ConfigError("--json and --csv cannot be combined; give one of them")
    if not images:
        raise ConfigError("give at least one image, folder or URL")
    task = _refuse_unread(weights, given)
    if task in ("text", "signals"):
        return _predict_sequences(weights, task, images, length, as_csv=csv, device=device)
    if task == "classify":
        check_range("--top-k", top_k, "[1, inf)")
        output = _OutputOptions(top_k, as_json, csv, explain)
        with local_files(images) as inputs:
            return _classify(weights, inputs, output, options, runtime)
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


def _refuse_unread(weights: str, given: Mapping[str, Any]) -> str:
    """Return the task of a model; ConfigError for an option that models of the task do not read."""
    from resnets.weights.checkpoint.find import read_task

    task = read_task(weights)
    if given["draw"] is not None and task == "classify":
        raise ConfigError("--draw is for detectors; use --explain for classifiers")
    if given["explain"] is not None and task in ("detect", "instances", "localize", "segment"):
        raise ConfigError("--explain is for classifiers; use --draw for detectors")
    read = f"weights images bulk device {READ[task]}"
    refuse_unread(command, given, read, f"has no effect for a model of task {task!r}")
    return task


@dataclass(frozen=True)
class _OutputOptions:
    """How the predictions of a classifier are printed."""

    top_k: int
    as_json: bool
    csv: bool
    explain: Path | None


def _classify(
    weights: str,
    inputs: Inputs,
    output: _OutputOptions,
    options: LoadOptions,
    runtime: dict[str, Any],
) -> int:
    from resnets.api.predict import classify, open_classifier
    from resnets.evaluate.prepare import to_device
    from resnets.runtime.artifact import is_artifact
    from resnets.weights.load import load_classifier

    explain = output.explain
    if explain is not None:
        if is_artifact(weights):
            raise ConfigError("--explain: artifacts have no gradients; use the checkpoint")
        explain = make_folder(explain, "--explain")
    paths = inputs.list_images()
    classifier = open_classifier(
        weights, len(paths), options=options, quiet=output.as_json, **runtime
    )
    # Rows on a terminal show the progress; a bar would interrupt them.
    streaming = output.csv and sys.stdout.isatty()
    predictions = classify(classifier, paths, top_k=output.top_k, hidden=streaming)
    predictions = _report_unreadable(predictions, inputs)
    if explain is not None:
        network = load_classifier(weights, options)
        to_device(network, runtime["device"], "float32")
        predictions = _save_explanations(network, predictions, explain)
    if output.as_json:
        _print_json(predictions, inputs)
    elif output.csv:
        columns = min(output.top_k, len(classifier.classes))
        _print_csv(predictions, columns, classifier.postprocess, inputs)
    else:
        _print_table(predictions, classifier.postprocess, inputs)
    return 1 if inputs.failed else 0


def _predict_sequences(
    weights: str, task: str, inputs: Sequence[str], length: int, *, as_csv: bool, device: str
) -> int:
    """Print each text with `length` further characters, or the class of each signal of files."""
    from resnets.sequence.predict import predict_sequences

    rows = []
    for each in predict_sequences(weights, inputs, length=length, device=device):
        if isinstance(each, str):
            echo(each)
        else:
            rows.append((str(each.path), str(each.row), each.name, each.probability))
    if task == "text":
        return 0
    if as_csv:
        writer = CsvWriter(sys.stdout)
        writer.writerow(["path", "row", "class", "probability"])
        writer.writerows((*row, f"{probability:.6g}") for *row, probability in rows)
        return 0
    table = Table("file", "row", "class", "probability")
    for *row, probability in rows:
        table.add_row(*map(escape, row), f"{probability:.1%}")
    terminal_console().print(table)
    return 0


def _report_unreadable(predictions: Iterable[Prediction], inputs: Inputs) -> Iterator[Prediction]:
    """Yield `predictions`, and report those of unreadable images."""
    for prediction in predictions:
        if prediction.error is not None:
            inputs.report(prediction.error)
        yield prediction


def _save_explanations(
    classifier: ImageClassifier, predictions: Iterable[Prediction], folder: Path
) -> Iterator[Prediction]:
    """Save a map of each prediction as <image name>.cam.png in `folder`, and yield it."""
    from resnets.evaluate.figures.grad_cam import explain

    written: Counter[str] = Counter()
    for prediction in predictions:
        if prediction.error is None:
            out = unique_path(folder, prediction.path.name, ".cam.png", written)
            explain(
                classifier, prediction.path, prediction.classes[0], prediction.probabilities[0], out
            )
        yield prediction
    echo(f"wrote {written.total():,} maps to {folder}", error=True)


def _print_json(predictions: Iterable[Prediction], inputs: Inputs) -> None:
    print(json.dumps([_to_json(each, inputs) for each in predictions], indent=1))  # noqa: T201


def _to_json(prediction: Prediction, inputs: Inputs) -> dict[str, Any]:
    classes = [
        {"class": name, "probability": probability}
        for name, probability in _class_probabilities(prediction)
    ]
    entry: dict[str, Any] = {"path": inputs.name(prediction.path), "predictions": classes}
    if prediction.labels is not None:
        entry["labels"] = prediction.labels
    if prediction.unknown is not None:
        entry["unknown"] = prediction.unknown
    return entry if prediction.error is None else {**entry, "error": prediction.error}


def _print_csv(
    predictions: Iterable[Prediction], columns: int, spec: Postprocess, inputs: Inputs
) -> None:
    writer = CsvWriter(sys.stdout)
    header = [f"{what}{k}" for k in range(1, columns + 1) for what in ("class", "probability")]
    decision_columns = ["labels"] if spec.multilabel else []
    decision_columns += ["unknown"] if spec.min_score is not None else []
    writer.writerow(["path", *header, *decision_columns])
    for prediction in predictions:
        cells: list[str] = []
        for name, probability in _class_probabilities(prediction):
            cells += [name, f"{probability:.6g}"]
        entry = _to_json(prediction, inputs)
        decisions = [
            json.dumps(entry[name], ensure_ascii=False) if name in entry else ""
            for name in decision_columns
        ]
        writer.writerow([entry["path"], *(cells or [""] * len(header)), *decisions])


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
        (best, probability), *others = _class_probabilities(prediction)
        following = ", ".join(f"{name} {share:.1%}" for name, share in others)
        cells = [inputs.name(prediction.path), best, f"{probability:.1%}", following]
        if prediction.labels is not None:
            cells.insert(1, ", ".join(prediction.labels) or "none")
        if prediction.unknown:
            cells[1] = f"unknown ({cells[1]})"
        table.add_row(*map(escape, cells))
    if table.row_count:
        # piped lines do not wrap
        terminal_console().print(table)


def _class_probabilities(prediction: Prediction) -> Iterator[tuple[str, float]]:
    return zip(prediction.classes, prediction.probabilities, strict=True)
