"""`resnets.evaluate`: measure a model, or an ensemble of models, on a data set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from resnets.api.inputs import AnyWeights, path_or_any_model, task_of
from resnets.config import ConfigError, dump_json
from resnets.data import Split
from resnets.data.dataset.source import Source
from resnets.data.dataset.summary import announce
from resnets.data.sources.objects import open_objects
from resnets.evaluate.data.ground_truth import GroundTruth
from resnets.evaluate.data.match_classes import SplitName, open_labeled
from resnets.evaluate.ensemble import Ensemble, ScoredBatch
from resnets.evaluate.evaluation import Evaluation
from resnets.evaluate.figures.confusion import save_confusion_figure
from resnets.evaluate.figures.image_grid import save_error_grid
from resnets.evaluate.measure import (
    KnownScores,
    Measurement,
    measure,
    measure_unknown,
    open_unknown,
)
from resnets.evaluate.prepare import to_device, with_progress
from resnets.evaluate.views import Average, ViewKind, Views
from resnets.models import ImageClassifier
from resnets.runtime.artifact import is_artifact
from resnets.runtime.evaluate_backend import BackendScorer, evaluate_backend
from resnets.runtime.open import open_artifact
from resnets.sequence.evaluate import SequenceEvaluation, evaluate_sequences
from resnets.sequence.load import SequenceModel
from resnets.utils.api_function import api_function
from resnets.utils.errors import refuse_options
from resnets.utils.files.locks import results_folder
from resnets.utils.machine import environment
from resnets.utils.machine.distributed import ProcessGroup, init_distributed
from resnets.utils.printable import echo
from resnets.weights.given import LOADED, copy_for_inference
from resnets.weights.heads import match_class_names, parse_classes
from resnets.weights.load import LoadOptions, load_classifier, warn_about_names

if TYPE_CHECKING:
    from resnets.api.detect import DetectionEvaluation


@dataclass(frozen=True)
class _Options:
    """Arguments of `evaluate` that describe data and computation."""

    data: str | Source | None
    split: SplitName
    labels: Path | None
    views: Views
    average: Average
    device: str
    precision: str
    quiet: bool
    unknown: str | None = None


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
    folder = None if out is None else Path(out)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {out}: is a file; give a folder")
    paths = [each for each in models if isinstance(each, str)]
    sizes = tuple(scales)
    path = fspath(data) if isinstance(data, str | PathLike) else None
    source = open_objects(data) if path is None and data is not None else None
    with results_folder(folder):
        tasks = {task_of(each) for each in models}
        if len(tasks) > 1 and len(paths) < len(models):
            raise ConfigError("ensemble: all models must be for the same task")
        if tasks & {"text", "signals"}:
            refuse_options(
                "only for images, not for text or signals",
                model=model,
                classes=classes,
                labels=labels,
                unknown=unknown,
                flip=flip,
                scales=sizes,
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
        if tasks - {"classify"}:
            from resnets.api.detect import evaluate_detectors  # takes a second to import

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
                scales=sizes or None,
                refine=refine,
                classes_from=[fspath(each) for each in classes_from],
                loading=LoadOptions(model, classes, rename=False),
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
        options = _Options(
            path if source is None else source,
            split,
            None if labels is None else Path(labels),
            Views(views, sizes, flip),
            average,
            device,
            precision,
            quiet,
            None if unknown is None else fspath(unknown),
        )
        if any(map(is_artifact, paths)):
            refuse_options(
                "cannot be combined with an artifact, which has a fixed model and evaluates the "
                "center crop",
                model=model,
                classes=classes,
                views=views != "center",
                scales=scales,
                flip=flip,
                average=average != "probabilities",
            )
            if len(models) > 1:
                raise ConfigError("an artifact cannot be part of an ensemble; evaluate it alone")
            return _evaluate_artifact(Path(paths[0]), options, folder)
        if not paths:
            refuse_options(LOADED, model=model)
        rename = LoadOptions(model, classes, rename=False)
        classifiers = [each for each in models if isinstance(each, str | ImageClassifier)]
        nets = [
            copy_for_inference(each)
            if isinstance(each, ImageClassifier)
            else load_classifier(each, rename)
            for each in classifiers
        ]
        if classes is not None:
            _rename_outputs(nets, classes)
        names = [each.origin if isinstance(each, ImageClassifier) else each for each in classifiers]
        return _evaluate_models(nets, names, options, folder)


def _evaluate_models(
    nets: Sequence[ImageClassifier], names: Sequence[str], options: _Options, out: Path | None
) -> Measurement:
    split, truth = open_labeled(nets[0], options.data, options.split, options.labels, nets[1:])
    with init_distributed(options.device) as group:
        quiet = options.quiet or not group.is_main
        keep_bits = any(net.preprocess.spec.keep_bits for net in nets)
        for net in nets:
            device, precision = to_device(
                net, options.device, options.precision, keep_bits=keep_bits
            )
        ensemble = Ensemble(nets, options.views, options.average, device, precision)
        if not quiet:
            announce(split)
            echo(f"evaluating in {precision} on {environment.device_name(device)}", error=True)
        if options.unknown is not None and (
            len(nets) > 1 or options.views != Views() or group.world_size > 1
        ):
            raise ConfigError(
                "--unknown: only for a single classifier with one view, in one process"
            )
        others = None if options.unknown is None else open_unknown(options.unknown)
        known = KnownScores()

        def watch(scored: Iterable[ScoredBatch]) -> Iterable[ScoredBatch]:
            scored = _progress(scored, truth, group, quiet)
            return scored if others is None else known.watch(scored)

        measurement = measure(
            ensemble,
            split,
            truth,
            weights=_protocol_names(nets, names),
            watch=watch,
            group=group,
        )
        if others is not None:
            measurement = replace(measurement, unknown=measure_unknown(ensemble, known, others))
        if not math.isfinite(measurement.evaluation.loss):
            raise ValueError(
                f"{', '.join(names)}: the outputs are not finite on this data (loss"
                f" {measurement.evaluation.loss}); the run diverged, or try precision float32"
            )
        if group.is_main and out is not None:
            _write_results(measurement, split, out, quiet)
    return measurement


def _evaluate_artifact(path: Path, options: _Options, out: Path | None) -> Measurement:
    """Evaluate an artifact of `resnets export` in its own runtime."""
    backend = open_artifact(path, device=options.device, precision=options.precision)
    split, truth = open_labeled(backend, options.data, options.split, options.labels)
    if not options.quiet:
        announce(split)
        echo(f"evaluating with {backend.name}", error=True)
    others = None if options.unknown is None else open_unknown(options.unknown)
    group, known = ProcessGroup(), KnownScores()
    measurement = evaluate_backend(
        backend,
        split,
        truth,
        lambda scored: known.watch(_progress(scored, truth, group, options.quiet)),
    )
    if others is not None:
        measurement = replace(
            measurement, unknown=measure_unknown(BackendScorer(backend), known, others)
        )
    if out is not None:
        _write_results(measurement, split, out, options.quiet)
    return measurement


def _progress(
    scored: Iterable[ScoredBatch], truth: GroundTruth, group: ProcessGroup, quiet: bool
) -> Iterator[ScoredBatch]:
    """Yield from `scored` with a progress bar; print errors of unreadable images as they occur."""
    total = len(group.shard(truth.rows))
    for each in with_progress(scored, total, len, hidden=quiet):
        for _, error in each.errors:
            if not quiet:
                echo(f"resnets evaluate: {error}", error=True)
        yield each


def _rename_outputs(nets: Sequence[ImageClassifier], classes: str | Sequence[str]) -> None:
    for net in nets:
        if net.classes != nets[0].classes:
            option = f"--classes {classes}" if isinstance(classes, str) else "--classes"
            raise ConfigError(
                f"{option}: {net.origin} lists the same classes in another order; evaluate "
                "the models without --classes"
            )
    names = parse_classes(classes, nets[0].spec.num_classes, nets[0].origin)
    own_names = nets[0].classes
    is_reordered = names != own_names and match_class_names(own_names, names) is not None
    if is_reordered and classes == "numbers":
        raise ConfigError(
            f"--classes numbers: {nets[0].origin} has the same names in another order "
            f"({', '.join(own_names[:3])}, ...); omit --classes"
        )
    if is_reordered:  # other names are matched to the data's later
        warn_about_names(nets[0].origin, own_names, names)
    for net in nets:
        net.classes = names


def _protocol_names(nets: Sequence[ImageClassifier], names: Sequence[str]) -> list[str]:
    """Return the name of each model in the protocol; members of an ensemble have their path."""
    if len(nets) == 1:
        return [nets[0].origin]
    return [
        f"{net.spec.name} {where}: {net.origin}" for net, where in zip(nets, names, strict=True)
    ]


def _write_results(measurement: Measurement, split: Split, out: Path, quiet: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    figures, confusion, errors = (
        out / name for name in ("evaluation.json", "confusion.png", "errors.png")
    )
    dump_json(measurement.to_json(), figures)
    written = [figures, confusion, errors]
    if isinstance(measurement.evaluation, Evaluation):
        save_confusion_figure(measurement.evaluation, confusion)
    else:  # multi-label evaluations have no confusion matrix
        written.remove(confusion)
    save_error_grid(split, measurement.mistakes, measurement.evaluation.protocol, errors)
    if not quiet:
        *others, last = map(str, written)
        echo(f"wrote {', '.join(others)} and {last}", error=True)
