"""Running a model over a split: what it finds in each image, and its metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from resnets.data.decode.bad_samples import BadSamples
from resnets.data.errors import DataError
from resnets.detect.data.types import Detections, DetectionSplit
from resnets.detect.metrics.meters import DetectionMetrics
from resnets.detect.models.predictor import InferenceInput, Predictor
from resnets.utils.distributed import ProcessGroup

Watch = Callable[[Iterator[InferenceInput], int], Iterator[InferenceInput]]


@dataclass(frozen=True, eq=False)
class Measured:
    """Metrics, what they came from, and what was left out.

    split: the images that could be read. found: the objects found in each; empty for segmenters and
    localizers. errors: what is wrong with each of the other images.
    """

    metrics: DetectionMetrics
    split: DetectionSplit
    found: list[Detections]
    errors: list[str]


def find_all(
    predictor: Predictor, split: DetectionSplit, watch: Watch = lambda inputs, _: inputs
) -> tuple[list[Detections], list[str]]:
    """The objects in every image of `split`, and what is wrong with those that cannot be read.

    Nothing is found in those.
    """
    for model in predictor.models:
        model.eval()
    unreadable = BadSamples(split.description, len(split))
    none = np.zeros(0, np.float32)
    nothing = Detections(boxes=none.reshape(0, 4), scores=none, labels=np.zeros(0, np.int64))
    found = [nothing] * len(split)
    for inputs in watch(predictor.inputs(split.files, unreadable), len(split)):
        objects = predictor.infer(inputs).objects
        assert objects is not None
        found[inputs.row] = objects
    return found, unreadable.messages


def measure(
    predictor: Predictor,
    split: DetectionSplit,
    weights: str,
    watch: Watch = lambda inputs, _: inputs,
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
) -> Measured:
    """Metrics of `predictor` on `split`; `watch(inputs, total)` may show progress.

    Each process runs on its share of the images, and computes the metrics of all. Images that
    cannot be read are left out, and the protocol counts them. DataError where none is left.
    """
    modes = {module: module.training for model in predictor.models for module in model.modules()}
    for model in predictor.models:
        model.eval()
    try:
        return _measure(predictor, split, weights, watch, group)
    finally:
        for module, training in modes.items():
            module.training = training


def _measure(
    predictor: Predictor, split: DetectionSplit, weights: str, watch: Watch, group: ProcessGroup
) -> Measured:
    rows = group.shard(list(range(len(split))))
    part = split if group.world_size == 1 else split.take(np.array(rows, np.int64))
    unreadable = BadSamples(split.description, len(split))
    meter = predictor.meter(split)
    read: list[int] = []
    for inputs in watch(predictor.inputs(part.files, unreadable), len(part)):
        read.append(rows[inputs.row])
        meter.add(read[-1], predictor.infer(inputs))
    meter.gather(group)
    read, errors = sorted(group.all_gather(read)), group.all_gather(unreadable.messages)
    if not read:
        raise DataError(f"{split.description}: no image that can be read")
    if errors:
        split = split.take(np.array(read))
    metrics = meter.metrics(split, read, _protocol(predictor, split, weights, len(errors)))
    return Measured(metrics, split, [meter.found[row] for row in read if meter.found], errors)


def _protocol(predictor: Predictor, split: DetectionSplit, weights: str, left_out: int) -> str:
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
    parts += [f"{left_out} unreadable left out"] if left_out else []
    return ", ".join(parts)
