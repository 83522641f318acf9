"""`resnets.evaluate` and `resnets.predict` for detectors, localizers and segmenters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnets.config import ConfigError
from resnets.data.dataset.summary import announce
from resnets.data.decode.bad_samples import BadSamples
from resnets.detect.data.types import Detections, DetectionSplit
from resnets.detect.evaluate.measure import find_all, measure
from resnets.detect.evaluate.splits import SplitName, choose_set, choose_split
from resnets.detect.evaluate.unlabeled import Unlabeled, save_results
from resnets.detect.evaluate.write import save_evaluation
from resnets.detect.metrics.meters import DetectionMetrics
from resnets.detect.models.build import load
from resnets.detect.models.predictor import InferenceInput, Prediction, Predictor, predict_files
from resnets.evaluate.prepare import to_device, with_progress
from resnets.utils import environment
from resnets.utils.terminal import echo


@dataclass(frozen=True, eq=False)
class DetectionEvaluation:
    """Metrics of detectors on `split`, and what was found in each image that could be read.

    metrics: None for images without ground truth. found: empty for segmenters and localizers.
    errors: one message per unreadable image. written: files in `out`.
    """

    metrics: DetectionMetrics | None
    split: DetectionSplit
    found: list[Detections]
    errors: list[str]
    written: list[Path]


def evaluate_detectors(
    weights: Sequence[str],
    data: str | None,
    split: SplitName,
    *,
    image_set: str,
    scales: tuple[int, ...] | None,
    refine: bool,
    out: Path | None,
    device: str,
    precision: str,
    quiet: bool,
) -> DetectionEvaluation:
    """See `resnets.evaluate`."""
    models = tuple(load(each) for each in weights)
    first = models[0]
    assert first.recipe is not None
    images: DetectionSplit | Unlabeled
    if image_set:
        images = choose_set(first.recipe, first.classes, data, image_set, first.fingerprint)
    else:
        images = choose_split(first.recipe, first.classes, data, split, first.fingerprint)
    for model in models:
        chosen, precise = to_device(model, device, precision)
    predictor = Predictor.of(models, first.preprocess, chosen, precise, refine or None, scales)
    if not quiet:
        announce(images)
        echo(f"evaluating in {precise} on {environment.device_name(chosen)}", error=True)

    def watch(inputs: Iterator[InferenceInput], total: int) -> Iterator[InferenceInput]:
        return with_progress(inputs, total, hidden=quiet)

    if isinstance(images, Unlabeled):
        if out is None:
            raise ConfigError("--out: name a folder for the results; there is no ground truth")
        found, errors = find_all(predictor, images.split, watch)
        written = save_results(images, found, out)
        return DetectionEvaluation(None, images.split, found, errors, list(written))
    measured = measure(predictor, images, ", ".join(model.origin for model in models), watch)
    written = []
    if out is not None:
        written = list(save_evaluation(measured.metrics, measured.split, measured.found, out))
    return DetectionEvaluation(
        measured.metrics, measured.split, measured.found, measured.errors, written
    )


def predict_objects(
    weights: str,
    paths: Sequence[Path],
    *,
    threshold: float,
    device: str,
    precision: str,
    quiet: bool,
) -> tuple[tuple[str, ...], Iterator[Prediction], BadSamples]:
    """Class names, a prediction for each readable image, and the unreadable ones as they come."""
    if not 0 <= threshold <= 1:
        raise ConfigError(f"--threshold {threshold}: a score is in 0..1")
    model = load(weights)
    chosen, precise = to_device(model, device, precision)
    predictor = Predictor.of((model,), model.preprocess, chosen, precise)
    if not quiet:
        echo(f"predicting in {precise} on {environment.device_name(chosen)}", error=True)
    unreadable = BadSamples()
    found = with_progress(
        predict_files(predictor, paths, threshold, unreadable), len(paths), hidden=quiet
    )
    return model.classes, found, unreadable
