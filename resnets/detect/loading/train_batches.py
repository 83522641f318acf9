"""`DetectStream`: training batches with boxes, masks or class maps, prefetched by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnets.config import ConfigError, DataSpec, DetectSpec
from resnets.data import order
from resnets.data.batch import Batch
from resnets.data.decode.bad_samples import BadSamples
from resnets.data.decode.open_image import BUDGET
from resnets.data.errors import DataError
from resnets.data.timings import Timings
from resnets.data.transforms.preprocess import Preprocessor
from resnets.detect.data.class_maps import UnknownValueError
from resnets.detect.data.transforms import (
    ResizeFlip,
    crop_object,
    crop_square,
    fit_size,
    transform_boxes,
    transform_class_map,
    transform_image,
    transform_masks,
)
from resnets.detect.data.types import DetectionSplit, Floats, Ints, Pixels, Target
from resnets.detect.formats.records import Task
from resnets.detect.loading.sampling import Draws, Sampler, repeat_factors
from resnets.utils.machine.cpu_count import cores
from resnets.utils.machine.environment import copy_to_device, single_threaded_pool

BATCHES_AHEAD = 3  # prefetched, fewer if they exceed BYTES_AHEAD
BYTES_AHEAD = 1 << 30
STREAM_SIZE, STREAM_SCALE, STREAM_FLIP_VERTICAL = 66, 67, 68
STREAM_CUT = 69  # and 70
STREAM_OBJECT, CROP_TRIES = 1024, 10  # the first of two for each try
COPY_STRIDE = 1 << 32  # separates the random draws of repeats of one image


@dataclass(frozen=True, eq=False)
class Sample:
    """A model input: image `row` with pixels (H, W, 3) uint8, and its objects or class map."""

    row: int
    pixels: Pixels
    boxes: Floats
    labels: Ints
    masks: Pixels | None
    classes: Pixels | None


class DetectStream:
    """An endless stream of full training batches; batch k is the same whenever it is requested.

    For detection, `images` is a list of (3, H, W) float32 tensors of various sizes, normalized and
    on the device, and `targets` a list of dicts: boxes (M, 4) float32 in px of that image, labels
    (M,) int64 from 1 (0 is torchvision's background), area (M,), iscrowd (M,) int64, all 0,
    image_id () int64 (the row), and masks (M, H, W) uint8 for task "instances". For task "segment",
    images are (B, 3, S, S) and targets (B, S, S) int64 with 255 = ignored.

    Crowds, and difficult objects unless `detect.keep_difficult`, are not used for training. `ids`
    are rows of `split`. The number of threads (`data.workers`) never changes a result. An
    unreadable image is replaced by another, chosen by (seed, epoch, row); if more than the fraction
    `data.max_unreadable` is unreadable, a DataError is raised when the batch is due. Of each batch
    of `batch_size` images, those at `batch_indices` are returned; None = all.
    """

    def __init__(
        self,
        split: DetectionSplit,
        data: DataSpec,
        detect: DetectSpec,
        preprocessor: Preprocessor,
        batch_size: int,
        seed: int,
        device: torch.device,
        task: Task = "detect",
        batch_indices: Ints | None = None,
    ) -> None:
        self.split, self.detect, self.seed, self.device = split, detect, seed, device
        self.batch_indices = np.arange(batch_size) if batch_indices is None else batch_indices
        self.task, self.workers = task, data.workers or cores()
        self.preprocessor = preprocessor
        self.timings = Timings(device)
        self.timings.decoding.threads = self.workers
        self.ledger = BadSamples(split.description, len(split), data.max_unreadable)
        trainable = [trainable_objects(target, detect) for target in split.targets]
        keep_empty = task == "segment" or (detect.keep_empty and task != "localize")
        self.rows = np.array([row for row, each in enumerate(trainable) if keep_empty or len(each)])
        if not len(self.rows):
            raise DataError(f"{split.description}: {_explain_no_objects(split.targets)}")
        self.targets = {row: trainable[row] for row in self.rows.tolist()}
        targets = list(self.targets.values())
        if detect.repeat_threshold and not any(map(len, targets)):
            raise ConfigError(
                "detect.repeat_threshold: only for tasks with objects, not for class maps"
            )
        tall = np.array([each.height > each.width for each in targets])
        grouped = detect.group_aspect and task != "segment"
        self.sampler = Sampler(
            repeat_factors(targets, len(split.classes), detect.repeat_threshold),
            tall if grouped else np.zeros_like(tall),
            batch_size,
            seed,
        )

    @property
    def examples(self) -> int:
        """Number of images in one epoch, with repeats of rare classes."""
        return self.sampler.examples

    @property
    def unreadable(self) -> Collection[int]:
        """Rows of unreadable images found so far, which other images replace."""
        return self.ledger.errors

    def batches(self, start_step: int = 0, total: int | None = None) -> Iterator[Batch]:
        """Yield batches start_step, start_step + 1, ... without end, regardless of `total`."""
        pool = single_threaded_pool(self.workers, "detect")
        queue: deque[tuple[list[Future[Sample]], int]] = deque()
        step = start_step
        try:
            while True:
                while len(queue) < BATCHES_AHEAD:
                    draws = self.sampler.draw(step)
                    indices = self.batch_indices.tolist()
                    size = sum(self._estimate_bytes(int(draws.rows[each])) for each in indices)
                    if queue and size + sum(queued for _, queued in queue) > BYTES_AHEAD:
                        break
                    tasks = [pool.submit(self._load_sample, draws, each) for each in indices]
                    queue.append((tasks, size))
                    step += 1
                tasks, _ = queue.popleft()
                samples = [each.result() for each in tasks]
                with self.timings.to_device:
                    batch = self._make_batch(samples)
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _estimate_bytes(self, index: int) -> int:
        """Return the approximate maximum size in bytes of a sample of image `index`, with masks."""
        target = self.targets[int(self.rows[index])]
        max_scale = self.detect.scale[1]
        shorter = max(self.detect.train_sizes) * max_scale
        longer = self.detect.max_size * max_scale
        height, width = fit_size(target.width, target.height, shorter, longer)
        if self.task == "segment":
            return 4 * self.detect.crop**2
        return height * width * (3 + (len(target) if self.task == "instances" else 0))

    def _load_sample(self, draws: Draws, batch_index: int) -> Sample:
        first_index, epoch = int(draws.rows[batch_index]), int(draws.epochs[batch_index])
        for index in order.rows_to_try(len(self.rows), self.seed, epoch, first_index):
            row = int(self.rows[index])
            if row in self.ledger:
                continue
            try:
                with self.timings.decoding.working():
                    return self._read_transformed(
                        row, epoch, row + COPY_STRIDE * int(draws.copies[batch_index])
                    )
            except DataError as error:
                if isinstance(error, UnknownValueError) and not self.detect.skip_invalid:
                    raise
                self.ledger.add(row, error)
        raise self.ledger.exhausted_error()

    def _read_transformed(self, row: int, epoch: int, key: int) -> Sample:
        """Read image `row`, randomly transformed by (seed, epoch, key)."""

        def uniform(stream: int) -> float:
            return float(order.uniform(self.seed, epoch, key, stream))

        target = self.targets[row]
        sizes, (min_scale, max_scale) = self.detect.train_sizes, self.detect.scale
        factor = min_scale + (max_scale - min_scale) * uniform(STREAM_SCALE)
        shorter = sizes[int(uniform(STREAM_SIZE) * len(sizes))] * factor
        transform = ResizeFlip(
            fit_size(target.width, target.height, shorter, self.detect.max_size * factor),
            flip=self.detect.flip and uniform(order.STREAM_FLIP) < 0.5,
            flip_vertical=self.detect.flip_vertical and uniform(STREAM_FLIP_VERTICAL) < 0.5,
        )
        image = transform_image(self.split.read_at(row, transform.size), transform)
        boxes = transform_boxes(target.boxes, (target.height, target.width), transform)
        if self.task == "localize" and self.detect.train_crop is not None:
            draws = [uniform(STREAM_OBJECT + number) for number in range(2 * CROP_TRIES)]
            positions = list(zip(draws[::2], draws[1::2], strict=True))
            square, boxes, rows = crop_object(
                boxes, transform.size, self.detect.train_crop, positions
            )
            return Sample(row, image[square], boxes, target.labels[rows], None, None)
        if self.task != "segment":
            masks = transform_masks(target, transform) if self.task == "instances" else None
            return Sample(row, image, boxes, target.labels, masks, None)
        assert target.semantic is not None
        with BUDGET.reserve(target.height * target.width):
            classes = transform_class_map(target.semantic.read(), transform)
        fill = [round(255 * mean) for mean in self.preprocessor.spec.mean]
        fill = fill[::-1] if self.preprocessor.spec.channel_order == "bgr" else fill
        position = uniform(STREAM_CUT), uniform(STREAM_CUT + 1)
        image, classes = crop_square(image, classes, self.detect.crop, position, fill)
        return Sample(row, image, boxes, target.labels, None, classes)

    def _make_batch(self, samples: list[Sample]) -> Batch:
        images = [self._prepare_image(sample.pixels) for sample in samples]
        ids = torch.tensor([sample.row for sample in samples])
        if self.task == "segment":
            maps = np.stack([sample.classes for sample in samples if sample.classes is not None])
            return Batch(torch.stack(images), self._to_device(maps).long(), ids)
        return Batch(images, [self._make_target(sample) for sample in samples], ids)

    def _prepare_image(self, pixels: Pixels) -> Tensor:
        return self.preprocessor.normalize(self._to_device(pixels).permute(2, 0, 1)[None])[0]

    def _make_target(self, sample: Sample) -> dict[str, Any]:
        sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
        target = {
            "boxes": self._to_device(sample.boxes),
            "labels": self._to_device(sample.labels + 1),
            "area": self._to_device(sides[:, 0] * sides[:, 1]),
            "iscrowd": torch.zeros(len(sample.labels), dtype=torch.int64, device=self.device),
            "image_id": self._to_device(np.array(sample.row)),
        }
        if sample.masks is not None:
            target["masks"] = self._to_device(sample.masks)
        return target

    def _to_device(self, values: np.ndarray[Any, Any]) -> Tensor:
        return copy_to_device(values, self.device)


def trainable_objects(target: Target, detect: DetectSpec) -> Target:
    """Return the target with the objects that are used for training."""
    excluded = target.crowd if detect.keep_difficult else target.crowd | target.difficult
    return target.take(~excluded)


def _explain_no_objects(targets: Sequence[Target]) -> str:
    """Return why no image has an object for training."""
    crowds, objects = (
        int(sum(each.crowd.sum() for each in targets)),
        sum(len(each) for each in targets),
    )
    if not crowds:
        return "no image with an object to train on"
    return (
        f"no image with an object to train on: {crowds:,} of {objects:,} objects are crowds"
        " (iscrowd 1), which are not trained on"
    )
