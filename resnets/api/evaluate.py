"""`resnets.evaluate`: measure a model, or an ensemble of models, on a data set."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from resnets.api.inputs import AnyWeights, path_or_any_model, task_of
from resnets.api.tasks.classify import evaluate_classifiers
from resnets.config import ConfigError
from resnets.data.sources.objects import open_objects
from resnets.evaluate.data.match_classes import SplitName
from resnets.evaluate.measure import Measurement
from resnets.evaluate.views import Average, ViewKind, Views
from resnets.models import ImageClassifier
from resnets.sequence.evaluate import SequenceEvaluation, evaluate_sequences
from resnets.sequence.load import SequenceModel
from resnets.utils.api_function import api_function
from resnets.utils.errors import refuse_options
from resnets.utils.files.local_paths import output_path
from resnets.utils.files.locks import results_folder
from resnets.weights.load import LoadOptions

if TYPE_CHECKING:
    from resnets.api.tasks.detect import DetectionEvaluation


@api_function
def evaluate(
    weights: AnyWeights | Sequence[AnyWeights],
    data: str | PathLike[str] | Any = None,
    split: SplitName = "test",
    *,
    model: str | None = None,
    classes: str | Sequence[str] | None = None,
    labels: str | PathLike[str] | None = None,
    views: ViewKind = "center",
    scales: Sequence[int] = (),
    flip: bool = False,
    average: Average = "probabilities",
    image_set: str = "",
    refine: bool = False,
    unknown: str | PathLike[str] | None = None,
    classes_from: str | PathLike[str] | Sequence[str | PathLike[str]] = (),
    out: str | PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    quiet: bool = False,
) -> Measurement | DetectionEvaluation | SequenceEvaluation:
    """Measure a model, or an ensemble of models, and return its metrics with their protocol.

        measured = resnets.evaluate(run, views="ten-crop")
        print(measured)  # the main metrics and the protocol in one line
        measured.metrics["top1_error"], measured.evaluation.confusion  # percent, (K, K)

    Args:
        weights: A run, checkpoint, file in a known format, published weights, a loaded model, or a
            sequence of these, which form an ensemble; or one artifact of `resnets.export`. A loaded
            model is copied: its own device and mode do not change.
        data: Data set as for `resnets.train`. A Python object with one part is the "test" split.
            Default: the data set that the run was trained on.
        split: "test", "val" or "train". For the run's own data set, its validation or training
            images.
        model: Network of weights that do not specify it (a state dict), also for `classes_from`: a
            name that `resnets info` lists.
        classes: Names of the outputs, also for `classes_from`: a sequence, a file with one name per
            line, "a,b,c", "imagenet" or "numbers".
        labels: True classes that replace the data set's: a .json, .csv or .txt file.
        views: "center" (one crop), "ten-crop", or "dense" (fully convolutional).
        scales: Shorter sides in px; empty = the model's own ("dense": 224, 256, 384, 480, 640).
        flip: Also evaluate the horizontal flip of each view.
        average: Quantity that is averaged over views and models.
        image_set: Detectors: name of the image set to evaluate, such as test-dev2017.
        refine: Detectors: box refinement with box voting: pool each region again at its regressed
            box.
        classes_from: Localizers: classification networks whose class probabilities, averaged over
            `views`, replace the localizer's own; several networks form an ensemble.
        unknown: Folder or archive of out-of-distribution images, which belong to none of the
            classes. Measures how well the network separates them from the images of the split
            (`Measurement.unknown`). Requires a single classifier with one view.
        out: Folder for evaluation.json, confusion.png and errors.png (for detectors precision.png,
            misses.png and detections.json).
        device: auto, cpu, cuda, cuda:1, mps.
        precision: auto, float32, tf32, float16, bfloat16.
        quiet: Print nothing.

    The result of every task has `metrics` (by name), `examples`, `protocol`, `errors` and
    `to_json()`; results on images have further details in `evaluation`. Unreadable images are
    skipped and listed in `errors`. Raises ConfigError, DataError, CheckpointError and WeightsError.
    """
    several = [weights] if isinstance(weights, str | PathLike | nn.Module) else weights
    models = [path_or_any_model(each, named=classes is None) for each in several]
    if not models:
        raise ConfigError("give at least one run or checkpoint")
    if isinstance(classes_from, str | PathLike):
        classes_from = [classes_from]
    folder = None if out is None else output_path(out)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {out}: is a file; give a folder")
    path = fspath(data) if isinstance(data, str | PathLike) else None
    source = open_objects(data) if path is None and data is not None else None
    loading = LoadOptions(model, classes, rename=False)
    with results_folder(folder):
        tasks = {task_of(each) for each in models}
        if len(tasks) > 1 and not all(isinstance(each, str) for each in models):
            raise ConfigError("ensemble: all models must be for the same task")
        if tasks & {"text", "signals"}:
            refuse_options(
                "only for images, not for text or signals",
                model=model,
                classes=classes,
                labels=labels,
                unknown=unknown,
                flip=flip,
                scales=scales,
                image_set=image_set,
                refine=refine,
                views=views != "center",
                average=average != "probabilities",
                classes_from=classes_from,
                data=source,
            )
            return evaluate_sequences(
                [each for each in models if isinstance(each, str | SequenceModel)],
                path,
                split,
                out=folder,
                device=device,
                precision=precision,
                quiet=quiet,
            )
        if tasks != {"classify"}:
            from resnets.api.tasks.detect import evaluate_detectors  # takes a second to import

            refuse_options(
                "only for classifiers; omit it for a detector",
                labels=labels,
                unknown=unknown,
                data=source,
            )
            if image_set:
                refuse_options(
                    "cannot be combined with --image-set, which selects the images; omit it",
                    split=split != "test",
                )
            if not classes_from:
                refuse_options(
                    "only for classifiers (here those of --classes-from); omit it for a detector",
                    model=model,
                    classes=classes,
                    flip=flip,
                    views=views != "center",
                    average=average != "probabilities",
                )
            return evaluate_detectors(
                [each for each in models if not isinstance(each, ImageClassifier | SequenceModel)],
                path,
                split,
                image_set=image_set,
                scales=tuple(scales) or None,
                refine=refine,
                classes_from=[fspath(each) for each in classes_from],
                loading=loading,
                views=Views(views, (), flip),
                average=average,
                out=folder,
                device=device,
                precision=precision,
                quiet=quiet,
            )
        refuse_options(
            "only for detectors; omit it for a classifier",
            refine=refine,
            image_set=image_set,
            classes_from=classes_from,
        )
        return evaluate_classifiers(
            [each for each in models if isinstance(each, str | ImageClassifier)],
            path if source is None else source,
            split,
            labels=None if labels is None else Path(labels),
            unknown=None if unknown is None else fspath(unknown),
            loading=loading,
            views=Views(views, tuple(scales), flip),
            average=average,
            out=folder,
            device=device,
            precision=precision,
            quiet=quiet,
        )
