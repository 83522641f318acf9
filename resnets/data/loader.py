"""Batches for training and evaluation, on the device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from resnets.config import DataSpec
from resnets.data import order
from resnets.data.augment import BatchAugment, Ints, train_views
from resnets.data.batch import Batch
from resnets.data.memory import random_scaling
from resnets.data.preprocess import Preprocessor, prepare
from resnets.data.reader import Plan, read_ahead
from resnets.data.split import Split, TensorSplit


class TrainStream:
    """An endless stream of full training batches; batch k is the same whenever asked for.

    A set in memory is padded once, on the device, and batches are gathered from it without
    threads. Files, and pictures cropped at random scales, are read ahead by `data_spec.workers`
    threads, which never change a result. `batch_size` is the global one.
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
    ) -> None:
        self.spec, self.preprocessor = data_spec, preprocessor
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.channels_last = channels_last
        self.augment = BatchAugment(data_spec.augment, preprocessor, seed, device)
        self.labels = split.labels.to(device)
        self.split = split if random_scaling(data_spec) else prepare(split, preprocessor)
        self._padded: Tensor | None = None
        if isinstance(self.split, TensorSplit) and not random_scaling(data_spec):
            self._padded = self.augment.pad(self.split.images)

    @property
    def examples(self) -> int:
        """Pictures in one epoch."""
        return len(self.split)

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Batches start_step, start_step + 1, ... without end.

        DataError names a picture that cannot be read, when its batch is due.
        """
        return self._read(start_step) if self._padded is None else self._gather(start_step)

    def _gather(self, start_step: int) -> Iterator[Batch]:
        assert self._padded is not None
        for epochs, rows in self._draws(start_step):
            yield self._batch(self._padded, torch.from_numpy(rows), epochs, rows)

    def _read(self, start_step: int) -> Iterator[Batch]:
        plans = (self._plan(epochs, rows) for epochs, rows in self._draws(start_step))
        pin = self.device.type == "cuda"
        places = torch.arange(self.batch_size)
        for plan, pixels in read_ahead(self.split, plans, self.spec.workers, pin=pin):
            yield self._batch(self.augment.pad(pixels), places, plan.epochs, plan.rows)

    def _draws(self, step: int) -> Iterator[tuple[Ints, Ints]]:
        """Epochs and rows, each (B,), of batch `step` and all after it."""
        while True:
            start = step * self.batch_size
            yield order.positions(len(self.split), self.seed, start, self.batch_size)
            step += 1

    def _plan(self, epochs: Ints, rows: Ints) -> Plan:
        views = train_views(self.spec.augment, self.preprocessor, self.seed, epochs, rows)
        return Plan(rows, epochs, views)

    def _batch(self, padded: Tensor, places: Tensor, epochs: Ints, ids: Ints) -> Batch:
        images = self.augment(padded, places, epochs, ids)
        rows = torch.from_numpy(ids)
        images = images if self.channels_last else images.contiguous()
        return Batch(images, self.labels[rows.to(self.device)], rows)


def eval_batches(
    split: Split,
    preprocessor: Preprocessor,
    batch_size: int,
    device: torch.device,
    workers: int = 0,
) -> Iterator[Batch]:
    """Each picture once, in order, as prediction sees it; the last batch is short, none padded.

    Images are float32 in channels_last memory. DataError names a picture that cannot be read.
    """
    split = prepare(split, preprocessor)
    for ids, pixels in _eval_pixels(split, preprocessor, batch_size, device, workers):
        images = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)
        yield Batch(preprocessor.normalise(images), split.labels[ids].to(device), ids)


def _eval_pixels(
    split: Split, preprocessor: Preprocessor, batch_size: int, device: torch.device, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Ids (B,) and pixels (B, size, size, C) uint8 of each batch."""
    parts = torch.arange(len(split)).split(batch_size)
    if isinstance(split, TensorSplit):
        yield from zip(parts, split.images.split(batch_size), strict=True)
        return
    view = preprocessor.view
    plans = (Plan(ids.numpy(), np.zeros(len(ids), np.int64), [view] * len(ids)) for ids in parts)
    pin = device.type == "cuda"
    for plan, pixels in read_ahead(split, plans, workers, pin=pin):
        yield torch.from_numpy(plan.rows), pixels
