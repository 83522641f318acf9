"""Batches for training and evaluation, on the device."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.config import ConfigError, DataSpec
from resnets.data import order
from resnets.data.batch import Batch
from resnets.data.dataset.in_memory import has_random_scaling
from resnets.data.dataset.labeled_images import FileSplit, Split, TensorSplit
from resnets.data.dataset.pack import PackFiles
from resnets.data.dataset.read_ahead import BatchPlan, read_ahead
from resnets.data.dataset.stream import StreamSplit
from resnets.data.timings import Timings
from resnets.data.transforms.augment import BatchAugment, Ints, train_views
from resnets.data.transforms.mix import mix, mix_unit
from resnets.data.transforms.preprocess import (
    Preprocessor,
    check_growth,
    prepare,
    resize_images,
    resize_preprocessor,
    size_at,
)
from resnets.utils.machine.distributed import ProcessGroup
from resnets.utils.machine.environment import copy_to_device

BALANCE = {"classes": 0.0, "sqrt": 0.5}  # powers of `order.BalancedDraw`

MAX_DEVICE_BYTES = 1 << 30  # of an evaluation split that is kept on the device


class TrainStream:
    """An endless stream of full training batches; batch k is the same whenever it is requested.

    A data set in memory is padded once, on the device, and batches are gathered from it without
    threads. Files, and images cropped at random scales, are read ahead by `data_spec.workers`
    threads, whose number never changes a result. `batch_size` is the global batch size; each
    process of `group` gets its shard of each batch. Images that belong together stay in one shard:
    `norm_batch` images of a ghost batch, and partners of mixup.
    """

    def __init__(
        self,
        split: Split,
        data_spec: DataSpec,
        preprocessor: Preprocessor,
        batch_size: int,
        seed: int,
        device: torch.device,
        channels_last: bool = True,
        group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
        norm_batch: int = 0,
    ) -> None:
        # `preprocessor` is the one of testing, at `test_size` px.
        self.size = data_spec.size or preprocessor.spec.size
        self.spec, self.preprocessor = data_spec, resize_preprocessor(preprocessor, self.size)
        self.batch_size, self.seed, self.device = batch_size, seed, device
        unit = mix_unit(data_spec.augment, batch_size, group.world_size)
        unit = math.lcm(unit, norm_batch or 1)
        self.batch_indices = group.batch_indices(batch_size, unit)
        self.channels_last = channels_last
        check_growth(data_spec, self.size)
        self.augment = BatchAugment(data_spec.augment, self.preprocessor, seed, device)
        self.labels = split.labels.to(device)
        self.split = split if has_random_scaling(data_spec) else prepare(split, preprocessor)
        is_packed = isinstance(split, FileSplit) and isinstance(split.files, PackFiles)
        self.timings = Timings(device, packed=is_packed)
        self._draw = epoch_draw(self.split, data_spec)
        self._padded: Tensor | None = None
        if isinstance(self.split, TensorSplit) and not has_random_scaling(data_spec):
            self._padded = self.augment.pad(self.split.images)

    @property
    def examples(self) -> int:
        """Number of images per epoch."""
        return len(self.split)

    @property
    def unreadable(self) -> Collection[int]:
        """Rows of images that could not be read so far and were replaced by others."""
        return self.split.unreadable.errors

    def batches(self, start_step: int = 0, total: int | None = None) -> Iterator[Batch]:
        """Yield batches start_step, start_step + 1, ... without end, of a run of `total` steps.

        Progressive resizing depends on the completed fraction of `total`; None: all images at full
        size. An unreadable image is replaced by another (`read_ahead`). Raises DataError, when its
        batch is due, if there are too many.
        """
        stream = self._read if self._padded is None else self._gather
        for step, (images, ids) in enumerate(stream(start_step, total), start_step):
            images = images if self.channels_last else images.contiguous()
            rows = torch.from_numpy(ids)
            batch = Batch(images, self.labels[copy_to_device(rows, self.device)], rows)
            with self.timings.augmenting:
                batch = mix(self.spec.augment, self.seed, step, batch)
            yield batch

    @property
    def in_memory(self) -> bool:
        """True if batches are gathered from a padded data set on the device."""
        return self._padded is not None

    def draws(self, start_step: int, steps: int) -> dict[str, NDArray[Any]]:
        """Return the arguments of `batch_at` for `steps` steps from `start_step`, (steps, B) each.

        For a single process. Random numbers of `mix`, and of augmentation other than crops and
        flips, are not included.
        """
        epochs, rows = self._positions(start_step, steps)
        draws = {"rows": rows, **self.augment.draws(epochs, rows)}
        return {name: each.reshape(steps, self.batch_size) for name, each in draws.items()}

    def batch_at(self, rows: Tensor, size: int, **draws: Tensor) -> Batch:
        """Return the batch of `rows` (B,) and `draws`, all on the device; images have `size` px."""
        assert self._padded is not None
        images = resize_images(self.augment.crop_at(self._padded, rows, **draws), size)
        images = images if self.channels_last else images.contiguous()
        return Batch(images, self.labels.index_select(0, rows), rows)

    def size_at(self, step: int, total: int | None) -> int:
        """Return the image size in px at step `step` of a run of `total` steps."""
        return size_at(self.spec, self.size, step, total)

    def _gather(self, start_step: int, total: int | None) -> Iterator[tuple[Tensor, Ints]]:
        """Yield images and rows of each batch of a data set in memory."""
        assert self._padded is not None
        for size, epochs, rows in self._iter_draws(start_step, total):
            with self.timings.augmenting:
                images = self.augment(self._padded, torch.from_numpy(rows), epochs, rows, size)
            yield images, rows

    def _read(self, start_step: int, total: int | None) -> Iterator[tuple[Tensor, Ints]]:
        """Yield images and rows of each batch, read and cropped on demand."""
        draws = self._iter_draws(start_step, total)
        plans = (self._plan_batch(size, epochs, rows) for size, epochs, rows in draws)
        pin = self.device.type == "cuda"
        every_row = torch.arange(len(self.batch_indices))
        workers, seed = self.spec.workers, self.seed
        decoding = self.timings.decoding
        read = read_ahead(self.split, plans, workers, pin=pin, seed=seed, decoding=decoding)
        for step, (plan, pixels) in enumerate(read, start_step):
            augment, size = self._augment_at(pixels.shape[1]), self.size_at(step, total)
            with self.timings.to_device:
                padded = augment.pad(pixels)
            with self.timings.augmenting:
                images = augment(padded, every_row, plan.epochs, plan.rows, size)
            yield images, plan.rows

    def _iter_draws(self, step: int, total: int | None) -> Iterator[tuple[int, Ints, Ints]]:
        """Yield the size in px and this process's epochs and rows, (B,) each, from `step` on."""
        while True:
            epochs, rows = self._positions(step, 1)
            yield self.size_at(step, total), epochs[self.batch_indices], rows[self.batch_indices]
            step += 1

    def _positions(self, step: int, steps: int) -> tuple[Ints, Ints]:
        """Return epochs and rows, (steps * batch size,) each, of all processes from `step` on."""
        start, count = step * self.batch_size, steps * self.batch_size
        repeats = self.spec.augment.repeats
        return order.positions(len(self.split), self.seed, start, count, repeats, self._draw)

    def _plan_batch(self, size: int, epochs: Ints, rows: Ints) -> BatchPlan:
        """Plan a batch: random crops are cut at `size` px, other images read at full size."""
        augment, seed = self.spec.augment, self.seed
        views = train_views(
            augment,
            self.preprocessor,
            seed,
            epochs,
            rows,
            size=size if has_random_scaling(self.spec) else None,
        )
        return BatchPlan(rows, epochs, views)

    def _augment_at(self, size: int) -> BatchAugment:
        """Return the augmentation for images that the decoder cropped at `size` px."""
        if size != self.augment.size:
            preprocessor = resize_preprocessor(self.preprocessor, size)
            self.augment = BatchAugment(self.spec.augment, preprocessor, self.seed, self.device)
        return self.augment


def epoch_draw(split: Split, spec: DataSpec) -> order.Draw | None:
    """Return the draws of the epochs over `split`; None for the order of `order.positions`.

    Raises ConfigError for a streamed split with `data.balance`.
    """
    if spec.balance == "none":
        return order.draw_each_once(split.permutation) if isinstance(split, StreamSplit) else None
    if isinstance(split, StreamSplit):
        raise ConfigError(
            f"data.balance: {spec.balance} cannot be combined with data.streaming, which reads "
            "blocks of images; turn one of them off, or use loss.class_weights"
        )
    return order.BalancedDraw(split.labels.numpy(), BALANCE[spec.balance])


def eval_batches(
    split: Split,
    preprocessor: Preprocessor,
    batch_size: int,
    device: torch.device,
    workers: int = 0,
    rows: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Yield each image once, in order, preprocessed as in prediction.

    The last batch may be smaller. rows: rows of the split to read; None for all. Images are float32
    in channels_last memory format. Unreadable images are skipped and added to `split.unreadable`;
    raises DataError if none can be read.
    """
    split = prepare(split, preprocessor)
    row_tensor = torch.arange(len(split)) if rows is None else torch.tensor(rows, dtype=torch.int64)
    parts = row_tensor.split(batch_size) if len(row_tensor) else ()
    for ids, pixels in _read_eval_batches(split, preprocessor, parts, device, workers):
        images = copy_to_device(pixels, device).permute(0, 3, 1, 2)
        labels = copy_to_device(_select_rows(split.labels, ids), device)
        yield Batch(preprocessor.normalize(images), labels, ids)


def keep_on_device(split: Split, device: torch.device) -> Split:
    """Return the split with images and labels on `device` if they are in memory and small enough.

    A GPU can then evaluate it repeatedly without copying it again.
    """
    if device.type == "cpu" or not isinstance(split, TensorSplit):
        return split
    if split.images.nbytes > MAX_DEVICE_BYTES:
        return split
    images, labels = (
        copy_to_device(each, device, pin=False) for each in (split.images, split.labels)
    )
    return dataclasses.replace(split, images=images, labels=labels)


def _select_rows(values: Tensor, ids: Tensor) -> Tensor:
    """Return the rows `ids` (on the CPU) of `values` on any device."""
    return values.index_select(0, copy_to_device(ids, values.device))


def _read_eval_batches(
    split: Split,
    preprocessor: Preprocessor,
    parts: Sequence[Tensor],
    device: torch.device,
    workers: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield indices (B,), those of each of `parts`, and pixels (B, size, size, C) uint8."""
    if isinstance(split, TensorSplit):
        yield from ((ids, _select_rows(split.images, ids)) for ids in parts)
        return
    view = preprocessor.view
    plans = (
        BatchPlan(ids.numpy(), np.zeros(len(ids), np.int64), [view] * len(ids)) for ids in parts
    )
    pin = device.type == "cuda"
    for plan, pixels in read_ahead(split, plans, workers, pin=pin):
        yield torch.from_numpy(plan.rows), pixels
