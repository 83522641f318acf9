"""Running a model over a split: what it finds in each picture, and how good that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from resnets.config import ConfigError
from resnets.data.decode.bad_samples import BadSamples
from resnets.data.errors import DataError
from resnets.data.transforms.preprocess import Preprocessor
from resnets.detect.data.types import Detections, DetectionSplit, Pixels
from resnets.detect.metrics.evaluator import (
    DetectionMetrics,
    judge_located,
    judge_maps,
    judge_objects,
)
from resnets.detect.metrics.localization import Located
from resnets.detect.metrics.segmentation import PixelMeter
from resnets.detect.models.build import check_test
from resnets.detect.models.detector import Detector
from resnets.detect.models.inference import DetectionInference
from resnets.detect.models.inference_input import InferenceInput, class_map, in_stored, show
from resnets.detect.models.localizer import Localizer, Refiner
from resnets.detect.models.segmenter import Segmenter
from resnets.utils.distributed import ProcessGroup

Watch = Callable[[Iterator[InferenceInput], int], Iterator[InferenceInput]]


@dataclass(frozen=True)
class Evaluator:
    """One or several models, and how they are shown pictures.

    shorter, longer: sides in px, as `shown.show` takes them.
    """

    models: tuple[nn.Module, ...]
    preprocessor: Preprocessor
    shorter: int
    longer: int
    device: torch.device
    precision: str
    refine: bool = False
    scales: tuple[int, ...] = ()

    def pictures(self, split: DetectionSplit, unreadable: BadSamples) -> Iterator[InferenceInput]:
        """The split's pictures as the models see them; those that cannot be read are left out."""
        return show(
            split.files, self.preprocessor, self.shorter, self.longer, self.device, unreadable
        )

    def objects(self, shown: Iterator[InferenceInput]) -> Iterator[Detections]:
        """What the detectors find, in pixels of each stored picture."""
        detectors = [model for model in self.models if isinstance(model, Detector)]
        finder = DetectionInference(detectors, self.refine, self.scales)
        for each in shown:
            with self._context():
                (found,) = finder([each.image])
            yield in_stored(found, each)

    def maps(self, shown: Iterator[InferenceInput]) -> Iterator[Pixels]:
        """The class map of each stored picture; several segmenters' probabilities are averaged."""
        for each in shown:
            with torch.no_grad(), self._context():
                shares = [model(each.image[None])[0].softmax(0) for model in self.models]
            yield class_map(torch.stack(shares).mean(0), each.stored)

    def located(self, shown: Iterator[InferenceInput]) -> Iterator[Located]:
        """Each class's share and box in every stored picture; several models are averaged."""
        for each in shown:
            with torch.no_grad(), self._context():
                answers = [model([each.image]) for model in self.models]
            scores, boxes = (torch.stack(some).mean(0)[0] for some in zip(*answers, strict=True))
            (height, width), (high, wide) = each.stored, each.image.shape[-2:]
            scale = boxes.new_tensor([width / wide, height / high] * 2)
            yield Located(scores=scores.cpu().numpy(), boxes=(boxes * scale).cpu().numpy())

    def _context(self) -> AbstractContextManager[object]:
        if self.precision != "bfloat16":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def make_test(
    models: tuple[nn.Module, ...],
    preprocessor: Preprocessor,
    device: torch.device,
    precision: str,
    refine: bool | None = None,
    scales: tuple[int, ...] | None = None,
) -> Evaluator:
    """How the recipe of the first of `models` tests, with `refine` and `scales` where given.

    ConfigError where models of different kinds, or additions that their kind lacks, are asked for.
    """
    first = models[0]
    assert isinstance(first, Detector | Segmenter | Localizer | Refiner)
    if any(type(each) is not type(first) for each in models):
        raise ConfigError("an ensemble needs models of one task")
    spec = first.spec
    refine = spec.refine if refine is None else refine
    scales = tuple(sorted(spec.test_sizes if scales is None else scales))
    check_test("detect" if isinstance(first, Detector) else "segment", refine, scales)
    home = spec.train_sizes[-1]
    shorter = max(scales, default=home)
    longer = round(spec.max_size * max(1.0, shorter / home))
    return Evaluator(models, preprocessor, shorter, longer, device, precision, refine, scales)


@dataclass(frozen=True, eq=False)
class Measured:
    """Figures, what they came from, and what was left out.

    split: the pictures that could be read. found: the objects found in each; empty for segmenters
    and localisers.
    errors: what is wrong with each of the others.
    """

    judgement: DetectionMetrics
    split: DetectionSplit
    found: list[Detections]
    errors: list[str]


def find_all(
    test: Evaluator, split: DetectionSplit, watch: Watch = lambda shown, _: shown
) -> tuple[list[Detections], list[str]]:
    """What is found in every image of `split`, and what is wrong with those that cannot be read.

    Nothing is found in those.
    """
    for model in test.models:
        model.eval()
    unreadable = BadSamples(split.description, len(split))
    rows: list[int] = []

    def noted() -> Iterator[InferenceInput]:
        for each in watch(test.pictures(split, unreadable), len(split)):
            rows.append(each.row)
            yield each

    none = np.zeros(0, np.float32)
    nothing = Detections(boxes=none.reshape(0, 4), scores=none, labels=np.zeros(0, np.int64))
    found = [nothing] * len(split)
    for each in test.objects(noted()):
        found[rows[-1]] = each
    return found, unreadable.messages


def measure(
    test: Evaluator,
    split: DetectionSplit,
    weights: str,
    watch: Watch = lambda shown, _: shown,
    rank: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
) -> Measured:
    """Figures of `test` on `split`; `watch(pictures, total)` may show progress.

    Each process finds what is in its share of the pictures, and judges what all have found.
    Unreadable pictures are left out and the protocol says how many. DataError where none is left.
    """
    modes = {module: module.training for model in test.models for module in model.modules()}
    for model in test.models:
        model.eval()
    try:
        return _measure(test, split, weights, watch, rank)
    finally:
        for module, training in modes.items():
            module.training = training


def _measure(
    test: Evaluator, split: DetectionSplit, weights: str, watch: Watch, rank: ProcessGroup
) -> Measured:
    rows = rank.shard(list(range(len(split))))
    part = split if rank.world_size == 1 else split.take(np.array(rows, np.int64))
    unreadable = BadSamples(split.description, len(split))
    seen: list[int] = []

    def noted() -> Iterator[InferenceInput]:
        for each in watch(test.pictures(part, unreadable), len(part)):
            seen.append(rows[each.row])
            yield each

    first = test.models[0]
    found = list(test.objects(noted())) if isinstance(first, Detector) else []
    meter = PixelMeter(len(split.classes), split.present)
    if isinstance(first, Segmenter):
        for classes in test.maps(noted()):  # a map is as large as its image: none is kept
            semantic = split.targets[seen[-1]].semantic
            assert semantic is not None
            meter.add(classes, semantic.read())
    localizes = isinstance(first, Localizer | Refiner)
    located = list(test.located(noted())) if localizes else []
    found, located = (_joined(rank, seen, each) for each in (found, located))
    meter.confusion = np.sum(rank.gather([meter.confusion]), axis=0)
    seen, errors = sorted(rank.gather(seen)), rank.gather(unreadable.messages)
    if not seen:
        raise DataError(f"{split.description}: no picture that can be read")
    if errors:
        split = split.take(np.array(seen))
    protocol = _protocol(test, split, weights, len(errors))
    if isinstance(first, Detector):
        masks = any(isinstance(model, Detector) and model.masks for model in test.models)
        judged = judge_objects(split, found, protocol, masks=masks)
    elif isinstance(first, Segmenter):
        judged = judge_maps(split, meter, protocol)
    else:
        judged = judge_located(split, located, protocol)
    return Measured(judged, split, found, errors)


def _joined(rank: ProcessGroup, rows: list[int], found: list[Any]) -> list[Any]:
    """What all processes found, in the order of its rows."""
    pairs = rank.gather(list(zip(rows, found, strict=False)))
    return [each for _, each in sorted(pairs, key=lambda pair: pair[0])]


def _protocol(test: Evaluator, split: DetectionSplit, weights: str, left_out: int) -> str:
    parts = [f"shorter side {test.shorter} px, longer at most {test.longer}"]
    if test.scales:
        parts = [f"shorter sides {', '.join(map(str, test.scales))} px, two for each region"]
    parts += ["boxes refined"] if test.refine else []
    parts += [test.precision, weights, split.description]
    parts += [f"{left_out} unreadable left out"] if left_out else []
    return ", ".join(parts)
