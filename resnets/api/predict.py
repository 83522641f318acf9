"""`resnets.predict`: classify images, or detect objects in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING

from resnets.api.inputs import (
    AnyWeights,
    expand_folders,
    list_inputs,
    path_or_any_model,
    task_of,
)
from resnets.config.ranges import check_range
from resnets.data.transforms.preprocess import ImageInput
from resnets.evaluate.predict import Prediction
from resnets.evaluate.predict import predict as predict_images
from resnets.evaluate.prepare import with_progress
from resnets.export.select_backend import open_backend
from resnets.models import ImageClassifier
from resnets.runtime.artifact import require_torch
from resnets.runtime.base import Backend, Runtime, describe_backend
from resnets.runtime.torch import TorchBackend
from resnets.sequence.load import SequenceModel
from resnets.sequence.predict import predict_sequences
from resnets.utils.api_function import api_function
from resnets.utils.errors import refuse_options
from resnets.utils.machine.cpu_count import cores
from resnets.utils.printable import echo
from resnets.weights.given import LOADED
from resnets.weights.load import LoadOptions

if TYPE_CHECKING:
    from resnets.detect.models.predictor import Prediction as DetectionPrediction
    from resnets.sequence.predict import SignalPrediction

USE_PATH = "give its path to use another backend"  # for a loaded model


@api_function
def predict(
    weights: AnyWeights,
    images: ImageInput | Sequence[ImageInput],
    *,
    top_k: int = 5,
    threshold: float = 0.5,
    model: str | None = None,
    classes: str | Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    backend: Runtime = "auto",
    calibrate: str | PathLike[str] | None = None,
    length: int = 300,
    quiet: bool = True,
) -> list[Prediction] | list[DetectionPrediction] | list[SignalPrediction | str]:
    """Return one prediction per image, in order; for an unreadable image its `error` is set.

    A model of signals returns the `name` of the class and its `probability` per signal; a model of
    text returns each text with `length` further characters.

        for each in resnets.predict(run, ["cat.jpg", "photos/"]):
            print(each.path, each.classes[0], each.probabilities[0])

    Args:
        weights: A run, checkpoint, artifact, published weights, or a loaded model. A loaded model
            is copied: its own device and mode do not change.
        images: A path (of a folder: all images in it), PIL image, array or tensor, or a sequence of
            these. Arrays and tensors are uint8, or floating point from 0 to 1, of shape (H, W),
            (H, W, C) or (C, H, W) with 1 or 3 channels, or a batch (N, ...) of these. A shape that
            can be either, such as (3, 32, 3), is refused. Gray ones may be uint16. Images in memory
            are named "image 0", "image 1", .... For a model of signals: .csv, .npy or .npz files,
            or arrays (N, L) or (N, C, L). For a model of text: strings.
        top_k: Number of classes per image, most probable first.
        threshold: Detectors: minimum score of a detection.
        model: Network of weights that do not specify it (a state dict): a name that `resnets info`
            lists.
        classes: Names of the outputs if the weights have none: a sequence, a file with one name per
            line, "a,b,c", "imagenet" or "numbers".
        device: auto, cpu, cuda, cuda:1, mps.
        precision: auto, float32, tf32, float16, bfloat16, int8.
        backend: auto, torch, onnx, openvino; see docs/predict.md.
        calibrate: Data set for the calibration of precision "int8".
        length: Models of text: number of characters to generate after each text.
        quiet: Print nothing.

    Raises ConfigError, DataError, CheckpointError and WeightsError.
    """
    source = path_or_any_model(weights)
    task = task_of(source)
    if task in ("text", "signals"):
        assert isinstance(source, str | SequenceModel)
        return _predict_sequences(
            source,
            images,
            task,
            length,
            device,
            top_k=top_k != 5,
            threshold=threshold != 0.5,
            model=model,
            classes=classes,
            precision=precision != "auto",
            backend=backend != "auto",
            calibrate=calibrate,
        )
    assert not isinstance(source, SequenceModel)
    refuse_options("only for models of text; omit it", length=length != 300)
    inputs = expand_folders(images, quiet)
    if task != "classify" and not isinstance(source, ImageClassifier):
        from resnets.api.tasks.detect import predict_objects  # takes a second to import
        from resnets.runtime.vision import check_runtime

        refuse_options(
            "only for classifiers; omit it for a detector",
            top_k=top_k != 5,
            model=model,
            classes=classes,
            calibrate=calibrate,
        )
        if task in ("localize", "segment"):
            refuse_options("only for detectors; omit it", threshold=threshold != 0.5)
        if isinstance(source, str):
            check_runtime(source, backend, precision)
        else:
            require_torch("a loaded model", backend, precision, USE_PATH)
        _, objects = predict_objects(
            source,
            inputs,
            threshold=threshold,
            device=device,
            precision=precision,
            quiet=quiet,
        )
        return list(objects)
    assert isinstance(source, str | ImageClassifier)
    refuse_options("only for detectors; omit it for a classifier", threshold=threshold != 0.5)
    classifier = open_classifier(
        source,
        len(inputs),
        options=LoadOptions(model, classes),
        device=device,
        precision=precision,
        backend=backend,
        calibrate=None if calibrate is None else fspath(calibrate),
        quiet=quiet,
    )
    return list(classify(classifier, inputs, top_k=top_k, hidden=quiet))


def _predict_sequences(
    weights: str | SequenceModel,
    inputs: ImageInput | Sequence[ImageInput],
    task: str,
    length: int,
    device: str,
    **unread: object,
) -> list[SignalPrediction | str]:
    """Predict text or classes of signals; `unread` are the arguments for other models."""
    refuse_options(f"not for models of task {task!r}; omit it", **unread)
    if task == "signals":
        refuse_options("only for models of text; omit it", length=length != 300)
    return list(predict_sequences(weights, list_inputs(inputs), length=length, device=device))


def open_classifier(
    weights: str | ImageClassifier,
    images: int,
    *,
    options: LoadOptions,
    device: str,
    precision: str,
    backend: Runtime,
    calibrate: str | None = None,
    quiet: bool,
) -> Backend:
    """Open the backend that classifies images; its selection depends on their number `images`."""

    def log(text: str) -> None:
        if not quiet:
            echo(text, error=True)

    if isinstance(weights, ImageClassifier):
        refuse_options(LOADED, model=options.model, classes=options.classes, calibrate=calibrate)
        require_torch("a loaded model", backend, precision, USE_PATH)
        classifier: Backend = TorchBackend(weights, device, precision)
    else:
        classifier = open_backend(
            weights,
            backend=backend,
            device=device,
            precision=precision,
            images=images,
            calibrate=calibrate,
            loading=options,
            log=log,
        )
    log(f"predicting with {describe_backend(classifier)}")
    return classifier


def classify(
    classifier: Backend, images: Sequence[ImageInput], *, top_k: int, hidden: bool
) -> Iterator[Prediction]:
    """Yield predictions as they are computed, with a progress bar unless `hidden`."""
    check_range("--top-k", top_k, "[1, inf)")
    predictions = predict_images(classifier, images, top_k=top_k, workers=cores())
    return with_progress(predictions, len(images), hidden=hidden)
