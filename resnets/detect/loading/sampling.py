"""Which images make up which batch: repeats of rare classes, and batches of one shape.

Everything is a pure function of (seed, batch), as in `data.order`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from resnets.data import order
from resnets.detect.data.types import Target

Ints = NDArray[np.int64]
WINDOW = 32  # batches among which images of one shape are brought together
STREAM_REPEAT, STREAM_WINDOW = 64, 65


@dataclass(frozen=True, eq=False)
class Draws:
    """Epochs, rows and copies, each (B,), of one batch; `copies` number repeats within an epoch."""

    epochs: Ints
    rows: Ints
    copies: Ints


class Sampler:
    """The endless stream of batches over images of `repeats` (N,) >= 1 and shape `tall` (N,).

    An epoch holds each image floor or ceil of its repeats times, on average exactly. Among each
    `WINDOW` batches, wide and tall images are brought together; at most one batch has both.
    """

    def __init__(
        self, repeats: NDArray[np.float64], tall: NDArray[np.bool_], batch_size: int, seed: int
    ) -> None:
        self.repeats, self.tall = repeats, tall
        self.batch_size, self.seed = batch_size, seed
        self._slots = lru_cache(maxsize=4)(self._epoch)

    @cached_property
    def examples(self) -> int:
        """Images in one epoch, repeats counted."""
        return int(np.ceil(self.repeats.sum() - 1e-6))

    @property
    def _window(self) -> int:
        if not self.tall.any() or self.tall.all():
            return 1
        return int(np.clip(self.examples // self.batch_size, 1, WINDOW))

    def draw(self, step: int) -> Draws:
        """Batch number `step`."""
        number, place = divmod(step, self._window)
        count = self._window * self.batch_size
        epochs, slots = order.positions(self.examples, self.seed, number * count, count)
        rows, copies = np.empty(count, np.int64), np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here], copies[here] = (each[slots[here]] for each in self._slots(int(epoch)))
        by_shape = np.argsort(self.tall[rows], kind="stable")
        parts = by_shape.reshape(self._window, self.batch_size)
        luck = order.random_bits(self.seed, number, np.arange(self._window), STREAM_WINDOW)
        chosen = parts[np.argsort(luck, kind="stable")[place]]
        return Draws(epochs[chosen], rows[chosen], copies[chosen])

    def _epoch(self, epoch: int) -> tuple[Ints, Ints]:
        """Row and copy of each of an epoch's slots: systematic sampling by `repeats`."""
        shares = np.cumsum(self.repeats) * (self.examples / self.repeats.sum())
        luck = order.uniform(self.seed, epoch, np.zeros(1, np.int64), STREAM_REPEAT)[0]
        at = np.minimum(np.arange(self.examples) + luck, shares[-1] * (1 - 1e-12))
        rows = np.searchsorted(shares, at, side="right")
        first = np.searchsorted(rows, rows, side="left")
        return rows, np.arange(self.examples) - first


def repeat_factors(
    targets: Sequence[Target], classes: int, threshold: float
) -> NDArray[np.float64]:
    """Times (N,) that each image is shown an epoch (Gupta et al. 2019, section 4.1, "LVIS").

    A image's is the largest over its classes of max(1, sqrt(threshold / f)), where f is the
    share of images that hold the class. 1 for all where `threshold` is 0.
    """
    held = np.zeros(classes)
    for target in targets:
        held[np.unique(target.labels)] += 1
    share = np.maximum(held, 1) / max(1, len(targets))
    by_class = np.maximum(1.0, np.sqrt(threshold / share))
    return np.array([by_class[target.labels].max(initial=1.0) for target in targets])
