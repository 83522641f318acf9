"""A data set of sequences in memory, and its batches for training and evaluation."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data import order
from resnets.data.batch import Batch
from resnets.data.dataset.summary import DataSummary
from resnets.data.loading.batches import MAX_DEVICE_BYTES
from resnets.data.timings import Timings
from resnets.utils.machine.distributed import ProcessGroup
from resnets.utils.machine.environment import copy_to_device

Ints = NDArray[np.int64]
W = TypeVar("W", bound="Windows")


class Windows(Protocol):
    """Windows of a long sequence, or sequences of one length, with their targets: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __len__(self) -> int: ...

    def get_batch(self, rows: Ints, shifts: Ints) -> tuple[Tensor, Tensor]:
        """Return inputs and targets (B, ...) of windows `rows` (B,), where the tensors lie.

        shifts: (B,) random numbers of 63 bits that may move windows in training, or zeros.
        """
        ...


@dataclass(frozen=True, eq=False)
class SequenceData:
    """A data set of sequences: the windows of each split ("train" and, if any, "val" and "test").

    classes: names of the targets. digest: SHA-256 of all data. baselines: metrics of each split
    that need no model.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Windows]
    digest: str
    summary: DataSummary
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)


class WindowStream:
    """An endless stream of training batches (`train.loop.Stream`): batch k is always the same."""

    def __init__(
        self,
        windows: Windows,
        batch_size: int,
        seed: int,
        device: torch.device,
        group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
    ) -> None:
        self.windows, self.batch_size, self.seed, self.device = windows, batch_size, seed, device
        self._batch_indices = group.batch_indices(batch_size)
        self.timings = Timings(device)
        self.unreadable: Collection[int] = ()

    @property
    def examples(self) -> int:
        """Windows in one epoch."""
        return len(self.windows)

    def batches(self, start_step: int = 0, total: int | None = None) -> Iterator[Batch]:
        """Yield batches start_step, start_step + 1, ... without end; `total` is not used."""
        for step in itertools.count(start_step):
            start = step * self.batch_size
            epochs, rows = order.positions(self.examples, self.seed, start, self.batch_size)
            epochs, rows = epochs[self._batch_indices], rows[self._batch_indices]
            bits = order.random_bits(self.seed, epochs, 0, order.STREAM_CROP_X)
            with self.timings.augmenting:
                batch = self.windows.get_batch(rows, (bits >> np.uint64(1)).astype(np.int64))
            with self.timings.to_device:
                inputs, targets = (copy_to_device(each, self.device) for each in batch)
            yield Batch(inputs, targets, torch.from_numpy(rows))


def keep_on_device(windows: W, device: torch.device) -> W:
    """Return the windows with their tensors on `device` if they are not too large.

    A GPU then evaluates them repeatedly without copying them each time.
    """
    values = {field.name: getattr(windows, field.name) for field in dataclasses.fields(windows)}
    tensors = {name: each for name, each in values.items() if isinstance(each, Tensor)}
    if device.type == "cpu" or sum(each.nbytes for each in tensors.values()) > MAX_DEVICE_BYTES:
        return windows
    return dataclasses.replace(
        windows, **{name: copy_to_device(each, device, pin=False) for name, each in tensors.items()}
    )


def window_batches(
    windows: Windows,
    batch_size: int,
    device: torch.device,
    group: ProcessGroup = ProcessGroup(),  # noqa: B008 (frozen)
) -> Iterator[Batch]:
    """Yield this process's share of the windows, each once and in order."""
    rows = np.array(group.shard(list(range(len(windows)))), np.int64)
    for batch_rows in np.split(rows, range(batch_size, len(rows), batch_size)):
        batch = windows.get_batch(batch_rows, np.zeros_like(batch_rows))
        inputs, targets = (copy_to_device(each, device) for each in batch)
        yield Batch(inputs, targets, torch.from_numpy(batch_rows))
