"""Random erasing (Zhong et al. 2020): a rectangle of a normalized image is replaced by noise."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data import order

AREA = (0.02, 1 / 3)  # share of the image, ratio and tries as in timm's RandomErasing
RATIO = (0.3, 1 / 0.3)
TRIES = 10

Ints = NDArray[np.int64]


class Erase:
    """Erases one rectangle in a share `probability` of images, keyed by (seed, epoch, sample).

    The noise is normal with mean 0 and deviation 1 in each pixel and channel, as the images are
    (timm's "pixel" mode). It is a window, at a random position, of one noise image per seed.
    """

    def __init__(self, probability: float, seed: int, size: int, channels: int) -> None:
        self.probability, self.seed, self.size = probability, seed, size
        index = np.arange(channels * 4 * size * size)
        radius, angle = (
            order.uniform(seed, 0, index, order.STREAM_NOISE + part) for part in (0, 1)
        )
        noise = order.normal(radius, angle).astype(np.float32)
        self._noise = torch.from_numpy(noise).view(channels, 2 * size, 2 * size)

    def __call__(self, images: Tensor, epochs: Ints, ids: Ints) -> Tensor:
        """Erase in `images` (B, C, H, W) float32, in place; H, W are at most `size`."""
        self._noise = self._noise.to(images.device)
        height, width = images.shape[2:]
        for row, (top, left, tall, wide, y, x) in self.boxes(epochs, ids, height, width):
            noise = self._noise[:, y : y + tall, x : x + wide]
            images[row, :, top : top + tall, left : left + wide] = noise
        return images

    def boxes(
        self, epochs: Ints, ids: Ints, height: int, width: int
    ) -> list[tuple[int, tuple[int, ...]]]:
        """Return rows of top, left, height, width of a rectangle, and y, x of its noise.

        The first of ten random areas and ratios that fits in the image is used.
        """
        epochs, ids = epochs[:, None], ids[:, None]
        chosen = order.uniform(self.seed, epochs, ids, order.STREAM_ERASE) < self.probability
        rows = np.flatnonzero(chosen)
        streams = order.STREAM_ERASE + 1 + np.arange(4 + 2 * TRIES)
        draws = order.uniform(self.seed, epochs[rows], ids[rows], streams)
        area = height * width * (AREA[0] + draws[:, 4::2] * (AREA[1] - AREA[0]))
        low, high = math.log(RATIO[0]), math.log(RATIO[1])
        ratio = np.exp(low + draws[:, 5::2] * (high - low))
        tall = np.rint(np.sqrt(area * ratio)).astype(np.int64)
        wide = np.rint(np.sqrt(area / ratio)).astype(np.int64)
        fits = (tall < height) & (wide < width) & (tall > 0) & (wide > 0)
        fitting = np.flatnonzero(fits.any(axis=1))
        first = fitting, fits[fitting].argmax(1)
        rows, draws, tall, wide = rows[fitting], draws[fitting], tall[first], wide[first]
        top = (draws[:, 0] * (height - tall + 1)).astype(np.int64)
        left = (draws[:, 1] * (width - wide + 1)).astype(np.int64)
        window = (draws[:, 2:4] * (self.size + 1)).astype(np.int64)
        table = np.column_stack((top, left, tall, wide, window))
        return list(zip(rows.tolist(), map(tuple, table.tolist()), strict=True))
