"""`resnets.evaluate` for classifiers, ensembles of classifiers and artifacts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from resnets.config import ConfigError, dump_json
from resnets.data import Split
from resnets.data.dataset.source import Source
from resnets.data.dataset.summary import announce
from resnets.evaluate.data.ground_truth import GroundTruth
from resnets.evaluate.data.match_classes import SplitName, open_labeled
from resnets.evaluate.ensemble import Ensemble, ScoredBatch
from resnets.evaluate.evaluation import Evaluation
from resnets.evaluate.figures.confusion import save_confusion_figure
from resnets.evaluate.figures.image_grid import save_error_grid
from resnets.evaluate.measure import (
    KnownScores,
    Measurement,
    Scorer,
    measure,
    measure_unknown,
    open_unknown,
)
from resnets.evaluate.prepare import to_device, with_progress
from resnets.evaluate.views import Average, Views
from resnets.models import ImageClassifier
from resnets.runtime.artifact import is_artifact
from resnets.runtime.open import open_artifact
from resnets.runtime.scorer import BackendScorer
from resnets.utils.errors import refuse_options
from resnets.utils.machine import environment
from resnets.utils.machine.distributed import ProcessGroup, init_distributed
from resnets.utils.printable import echo
from resnets.weights.given import LOADED, copy_for_inference
from resnets.weights.heads import match_class_names, parse_classes
from resnets.weights.load import LoadOptions, load_classifier, warn_about_names


def evaluate_classifiers(
    weights: Sequence[str | ImageClassifier],
    data: str | Source | None,
    split: SplitName,
    *,
    labels: Path | None,
    unknown: str | None,
    loading: LoadOptions,
    views: Views,
    average: Average,
    out: Path | None,
    device: str,
    precision: str,
    quiet: bool,
) -> Measurement:
    """Evaluate classifiers, which form an ensemble, or one artifact; see `resnets.evaluate`."""
    if any(isinstance(each, str) and is_artifact(each) for each in weights):
        refuse_options(
            "cannot be combined with an artifact, which has a fixed model and evaluates the center "
            "crop",
            model=loading.model,
            classes=loading.classes,
            views=views.kind != "center",
            scales=views.scales,
            flip=views.flip,
            average=average != "probabilities",
        )
        if len(weights) > 1:
            raise ConfigError("an artifact cannot be part of an ensemble; evaluate it alone")
        backend = open_artifact(Path(str(weights[0])), device=device, precision=precision)
        images, truth = open_labeled(backend, data, split, labels)
        if not quiet:
            announce(images)
            echo(f"evaluating with {backend.name}", error=True)
        scorer: Scorer = BackendScorer(backend)
        measurement = _measure(scorer, images, truth, [backend.origin], unknown, quiet)
        if out is not None:
            _write_results(measurement, images, out, quiet)
        return measurement
    nets = _open_models(weights, loading)
    images, truth = open_labeled(nets[0], data, split, labels, nets[1:])
    with init_distributed(device) as group:
        if unknown is not None and (len(nets) > 1 or views != Views() or group.world_size > 1):
            raise ConfigError(
                "--unknown: only for a single classifier with one view, in one process"
            )
        quiet = quiet or not group.is_main
        keep_bits = any(net.preprocess.spec.keep_bits for net in nets)
        for net in nets:
            used, resolved = to_device(net, device, precision, keep_bits=keep_bits)
        scorer = Ensemble(nets, views, average, used, resolved)
        if not quiet:
            announce(images)
            echo(f"evaluating in {resolved} on {environment.device_name(used)}", error=True)
        names = _protocol_names(nets, weights)
        measurement = _measure(scorer, images, truth, names, unknown, quiet, group)
        if group.is_main and out is not None:
            _write_results(measurement, images, out, quiet)
    return measurement


def _open_models(
    weights: Sequence[str | ImageClassifier], loading: LoadOptions
) -> list[ImageClassifier]:
    """Load weights and copy loaded models; `loading.classes` replaces the names of all outputs."""
    if not any(isinstance(each, str) for each in weights):
        refuse_options(LOADED, model=loading.model)
    nets = [
        load_classifier(each, loading) if isinstance(each, str) else copy_for_inference(each)
        for each in weights
    ]
    if loading.classes is not None:
        _rename_outputs(nets, loading.classes)
    return nets


def _measure(
    scorer: Scorer,
    images: Split,
    truth: GroundTruth,
    names: list[str],
    unknown: str | None,
    quiet: bool,
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
) -> Measurement:
    """Measure with a progress bar, also how well images of no class (`unknown`) are told apart.

    Raises ValueError for outputs that are not finite.
    """
    others = None if unknown is None else open_unknown(unknown)
    known = KnownScores()

    def progress(scored: Iterable[ScoredBatch]) -> Iterable[ScoredBatch]:
        scored = _progress(scored, truth, group, quiet)
        return scored if others is None else known.collect(scored)

    measurement = measure(scorer, images, truth, weights=names, progress=progress, group=group)
    if not math.isfinite(measurement.evaluation.loss):
        raise ValueError(
            f"{', '.join(names)}: the outputs are not finite on this data (loss"
            f" {measurement.evaluation.loss}); the run diverged, or try precision float32"
        )
    if others is None:
        return measurement
    return replace(measurement, unknown=measure_unknown(scorer, known, others))


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


def _protocol_names(
    nets: Sequence[ImageClassifier], weights: Sequence[str | ImageClassifier]
) -> list[str]:
    """Return the name of each model in the protocol; members of an ensemble have their path."""
    if len(nets) == 1:
        return [nets[0].origin]
    paths = [each if isinstance(each, str) else each.origin for each in weights]
    return [f"{net.spec.name} {path}: {net.origin}" for net, path in zip(nets, paths, strict=True)]


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
