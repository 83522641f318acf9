"""Run a model over a split: detections in each image, and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from resnets.data.decode.bad_samples import BadSamples
from resnets.data.errors import DataError
from resnets.detect.data.types import Detections, DetectionSplit
from resnets.detect.metrics.meters import DetectionMetrics
from resnets.detect.models.predictor import InferenceInput, Predictor
from resnets.utils.machine.distributed import ProcessGroup

Progress = Callable[[Iterator[InferenceInput], int], Iterator[InferenceInput]]


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Metrics, the detections from which they were computed, and skipped images.

    split: the readable images. found: the objects detected in each image; empty for segmenters and
    localizers. errors: one message per unreadable image.
    """

    metrics: DetectionMetrics
    split: DetectionSplit
    found: list[Detections]
    errors: list[str]


def detect_all(
    predictor: Predictor, split: DetectionSplit, progress: Progress = lambda inputs, _: inputs
) -> tuple[list[Detections], list[str]]:
    """Return the objects in every image of `split` (none if unreadable), and the error messages."""
    for model in predictor.models:
        model.eval()
    unreadable = BadSamples(split.description, len(split))
    empty = np.zeros(0, np.float32)
    nothing = Detections(boxes=empty.reshape(0, 4), scores=empty, labels=np.zeros(0, np.int64))
    detections = [nothing] * len(split)
    inputs = progress(predictor.inputs(split.files, unreadable), len(split))
    for each, output in predictor.outputs(inputs):
        assert output.objects is not None
        detections[each.row] = output.objects
    return detections, unreadable.messages


def measure(
    predictor: Predictor,
    split: DetectionSplit,
    weights: str,
    progress: Progress = lambda inputs, _: inputs,
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
) -> EvaluationResult:
    """Return the metrics of `predictor` on `split`; `progress(inputs, total)` can show progress.

    Each process runs on its share of the images, and computes the metrics of all. Unreadable images
    are skipped, and the protocol states their number. Raises DataError if none is readable.
    """
    modes = {module: module.training for model in predictor.models for module in model.modules()}
    for model in predictor.models:
        model.eval()
    try:
        return _measure(predictor, split, weights, progress, group)
    finally:
        for module, training in modes.items():
            module.training = training


def _measure(
    predictor: Predictor,
    split: DetectionSplit,
    weights: str,
    progress: Progress,
    group: ProcessGroup,
) -> EvaluationResult:
    rows = group.shard(list(range(len(split))))
    share = split if group.world_size == 1 else split.take(np.array(rows, np.int64))
    unreadable = BadSamples(split.description, len(split))
    meter = predictor.meter(split)
    rows_read: list[int] = []
    inputs = progress(predictor.inputs(share.files, unreadable), len(share))
    for each, output in predictor.outputs(inputs):
        rows_read.append(rows[each.row])
        meter.add(rows_read[-1], output)
    meter.gather(group)
    rows_read, errors = sorted(group.all_gather(rows_read)), group.all_gather(unreadable.messages)
    if not rows_read:
        raise DataError(f"{split.description}: no image that can be read")
    if errors:
        split = split.take(np.array(rows_read))
    metrics = meter.metrics(split, rows_read, _protocol(predictor, split, weights, len(errors)))
    return EvaluationResult(
        metrics, split, [meter.found[row] for row in rows_read if meter.found], errors
    )


def _protocol(
    predictor: Predictor, split: DetectionSplit, weights: str, num_unreadable: int
) -> str:
    options = predictor.options
    parts = [f"shorter side {predictor.shorter} px, longer at most {predictor.longer}"]
    scales, first = ", ".join(map(str, options.scales)), predictor.models[0]
    if scales and first.kind == "localizer":
        parts = [f"dense at shorter sides {scales} px"]
    elif scales:
        parts = [f"shorter sides {scales} px, two for each region"]
    elif first.spec.train_crop is not None:
        parts = [f"center crop of {first.spec.train_crop} px", *parts]
    parts += ["boxes refined"] if options.refine else []
    parts += [predictor.precision, weights, split.description]
    parts += [f"{num_unreadable} unreadable skipped"] if num_unreadable else []
    return ", ".join(parts)
