"""`resnets.evaluate` and `resnets.predict` for detectors, localizers and segmenters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnets.config import ConfigError
from resnets.config.ranges import check_range
from resnets.data import FileSplit
from resnets.data.dataset.summary import announce
from resnets.data.transforms.preprocess import ImageInput
from resnets.detect.data.types import Detections, DetectionSplit
from resnets.detect.evaluate.measure import detect_all, measure
from resnets.detect.evaluate.server_submission import Unlabeled, save_results
from resnets.detect.evaluate.splits import SplitName, choose_set, choose_split
from resnets.detect.evaluate.write import save_evaluation
from resnets.detect.metrics.meters import DetectionMetrics
from resnets.detect.models.base import DetectionModel
from resnets.detect.models.predictor import InferenceInput, Prediction, predict_images
from resnets.evaluate.data.match_classes import match_classes
from resnets.evaluate.ensemble import Ensemble
from resnets.evaluate.evaluation import describe_metrics
from resnets.evaluate.prepare import to_device, with_progress
from resnets.evaluate.views import Average, Views
from resnets.runtime.vision import open_predictor
from resnets.utils.machine import environment
from resnets.utils.printable import echo
from resnets.weights.load import LoadOptions, load_classifier


@dataclass(frozen=True, eq=False)
class DetectionEvaluation:
    """Metrics of detectors on `split`, and the detections in each readable image.

    Attributes:
        evaluation: All metrics; None for images without ground truth.
        found: Detections by image; empty for segmenters and localizers.
        errors: One message per unreadable image.
        written: Files that were written to `out`.
    """

    evaluation: DetectionMetrics | None
    split: DetectionSplit
    found: list[Detections]
    errors: list[str]
    written: list[Path]

    @property
    def metrics(self) -> dict[str, float]:
        """Main metrics by name, in percent, as in a run's result; empty without ground truth."""
        percentages = {} if self.evaluation is None else self.evaluation.percentages
        return {name: value for name, value in percentages.items() if name != "error"}

    @property
    def examples(self) -> int:
        """Number of evaluated images."""
        return len(self.split) if self.evaluation is None else self.evaluation.examples

    @property
    def protocol(self) -> str:
        """Measurement protocol: image sizes, precision, weights and data."""
        return self.split.description if self.evaluation is None else self.evaluation.protocol

    def __str__(self) -> str:
        return describe_metrics(self.metrics, self.protocol)

    def to_json(self) -> dict[str, Any]:
        """Return the metrics (or the number of objects) and the errors as values for JSON."""
        if self.evaluation is None:
            objects = sum(len(each["scores"]) for each in self.found)
            values: dict[str, Any] = {"images": len(self.found), "objects": objects}
        else:
            values = self.evaluation.to_json()
        return {**values, "unreadable": self.errors}


def evaluate_detectors(
    weights: Sequence[str | DetectionModel],
    data: str | None,
    split: SplitName,
    *,
    image_set: str,
    scales: tuple[int, ...] | None,
    refine: bool,
    classes_from: Sequence[str],
    loading: LoadOptions,
    views: Views,
    average: Average,
    out: Path | None,
    device: str,
    precision: str,
    quiet: bool,
) -> DetectionEvaluation:
    """Evaluate detectors, localizers or segmenters; see `resnets.evaluate`."""
    predictor = open_predictor(weights, device, precision, refine or None, scales)
    first = predictor.models[0]
    assert first.recipe is not None
    images: DetectionSplit | Unlabeled
    if image_set:
        images = choose_set(first.recipe, first.classes, data, image_set, first.fingerprint)
    else:
        images = choose_split(first.recipe, first.classes, data, split, first.fingerprint)
    if not quiet:
        announce(images)
        where = environment.device_name(predictor.device)
        echo(f"evaluating in {predictor.precision} on {where}", error=True)

    def progress(inputs: Iterator[InferenceInput], total: int) -> Iterator[InferenceInput]:
        return with_progress(inputs, total, hidden=quiet)

    names = ", ".join(model.origin for model in predictor.models)
    if classes_from:
        if first.kind != "localizer" or isinstance(images, Unlabeled):
            raise ConfigError("--classes-from: only for localizers, on images with ground truth")
        scores, classes = _class_scores(
            classes_from,
            loading,
            images,
            views,
            average,
            predictor.device,
            predictor.precision,
            quiet=quiet,
        )
        predictor = replace(predictor, class_scores=scores)
        names += f", classes of {classes}"
    if isinstance(images, Unlabeled):
        if out is None:
            raise ConfigError(
                "--out: give a folder for the results; the images have no ground truth"
            )
        detections, errors = detect_all(predictor, images.split, progress)
        written = save_results(images, detections, out)
        return DetectionEvaluation(None, images.split, detections, errors, list(written))
    measured = measure(predictor, images, names, progress)
    written = []
    if out is not None:
        written = list(save_evaluation(measured.metrics, measured.split, measured.found, out))
    return DetectionEvaluation(
        measured.metrics, measured.split, measured.found, measured.errors, written
    )


def _class_scores(
    weights: Sequence[str],
    loading: LoadOptions,
    split: DetectionSplit,
    views: Views,
    average: Average,
    device: torch.device,
    precision: str,
    *,
    quiet: bool,
) -> tuple[dict[int, Tensor], str]:
    """Return the class probabilities (K,) of each image by other networks, and their protocol.

    The classes are those of the split; the keys are the rows of the images. Raises DataError if the
    networks lack a class of the split.
    """
    nets = [load_classifier(each, loading) for each in weights]
    for net in nets:
        to_device(net, str(device), precision)
    outputs = match_classes(split.classes, nets[0].classes, split.description)
    ensemble = Ensemble(nets, views, average, device, precision)
    labels = torch.zeros(len(split), dtype=torch.int64)
    images = FileSplit(split.files, labels, split.classes, split.description)
    scores: dict[int, Tensor] = {}
    scored = ensemble.scores(images, range(len(split)))
    for batch in with_progress(scored, len(split), len, description="classes", hidden=quiet):
        probabilities = batch.logits.softmax(1)[:, outputs]
        scores |= dict(zip(batch.rows.tolist(), probabilities, strict=True))
    protocol = ensemble.protocol([net.origin for net in nets])
    return scores, f"[{protocol}, not compared with their training images]"


def predict_objects(
    weights: str | DetectionModel,
    images: Sequence[ImageInput],
    *,
    threshold: float,
    device: str,
    precision: str,
    quiet: bool,
) -> tuple[tuple[str, ...], Iterator[Prediction]]:
    """Return the class names, and an iterator over the predictions for `images`, in order."""
    check_range("--threshold", threshold, "[0, 1]")
    predictor = open_predictor([weights], device, precision)
    if not quiet:
        where = environment.device_name(predictor.device)
        echo(f"predicting in {predictor.precision} on {where}", error=True)
    found = predict_images(predictor, images, threshold)
    return predictor.models[0].classes, with_progress(found, len(images), hidden=quiet)
