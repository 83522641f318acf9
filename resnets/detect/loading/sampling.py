"""`Sampler`: the images of each batch, with repeats of rare classes and similar shapes.

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
WINDOW = 32  # number of batches within which images of similar shape are grouped
STREAM_REPEAT, STREAM_WINDOW = 64, 65


@dataclass(frozen=True, eq=False)
class Draws:
    """Epochs, rows and copies of one batch, (B,) each; `copies` numbers repeats in an epoch."""

    epochs: Ints
    rows: Ints
    copies: Ints


class Sampler:
    """Endless batches of images, repeated by `repeats` (N,) >= 1, of similar shape (`tall` (N,)).

    In an epoch the number of times that an image is used is the floor or ceiling of its repeats,
    with the exact mean. Within `WINDOW` batches, wide and tall images are grouped; at most one
    batch has both.
    """

    def __init__(
        self, repeats: NDArray[np.float64], tall: NDArray[np.bool_], batch_size: int, seed: int
    ) -> None:
        self.repeats, self.tall = repeats, tall
        self.batch_size, self.seed = batch_size, seed
        self._slots = lru_cache(maxsize=4)(self._draw_epoch)

    @cached_property
    def examples(self) -> int:
        """Number of images in one epoch, with repeats."""
        return int(np.ceil(self.repeats.sum() - 1e-6))

    @property
    def _window(self) -> int:
        if not self.tall.any() or self.tall.all():
            return 1
        return int(np.clip(self.examples // self.batch_size, 1, WINDOW))

    def draw(self, step: int) -> Draws:
        """Draw batch number `step`."""
        number, position = divmod(step, self._window)
        count = self._window * self.batch_size
        epochs, slots = order.positions(self.examples, self.seed, number * count, count)
        rows, copies = np.empty(count, np.int64), np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            rows[in_epoch], copies[in_epoch] = (
                each[slots[in_epoch]] for each in self._slots(int(epoch))
            )
        by_shape = np.argsort(self.tall[rows], kind="stable")
        parts = by_shape.reshape(self._window, self.batch_size)
        random_keys = order.random_bits(self.seed, number, np.arange(self._window), STREAM_WINDOW)
        chosen = parts[np.argsort(random_keys, kind="stable")[position]]
        return Draws(epochs[chosen], rows[chosen], copies[chosen])

    def _draw_epoch(self, epoch: int) -> tuple[Ints, Ints]:
        """Return row and copy of each slot of an epoch: systematic sampling by `repeats`."""
        cumulative = np.cumsum(self.repeats) * (self.examples / self.repeats.sum())
        offset = order.uniform(self.seed, epoch, np.zeros(1, np.int64), STREAM_REPEAT)[0]
        points = np.minimum(np.arange(self.examples) + offset, cumulative[-1] * (1 - 1e-12))
        rows = np.searchsorted(cumulative, points, side="right")
        first = np.searchsorted(rows, rows, side="left")
        return rows, np.arange(self.examples) - first


def repeat_factors(
    targets: Sequence[Target], classes: int, threshold: float
) -> NDArray[np.float64]:
    """Return the repeat factor (N,) of each image (Gupta et al. 2019, "LVIS", section 4.1).

    It is the maximum over the image's classes of max(1, sqrt(threshold / f)), where f is the
    fraction of images with the class; 1 for all images if `threshold` is 0.
    """
    num_images = np.zeros(classes)
    for target in targets:
        num_images[np.unique(target.labels)] += 1
    fraction = np.maximum(num_images, 1) / max(1, len(targets))
    factors = np.maximum(1.0, np.sqrt(threshold / fraction))
    return np.array([factors[target.labels].max(initial=1.0) for target in targets])
