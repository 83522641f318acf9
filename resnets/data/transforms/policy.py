"""Augmentation policies: RandAugment and TrivialAugment, keyed by (seed, epoch, sample).

"rand" is timm's "rand-m7-mstd0.5-inc1" (the recipe of Wightman et al. 2021) in operations, chances
and strengths, but always bilinear; "trivial" is torchvision's TrivialAugmentWide. Images of a
batch are grouped by operation and changed on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.config import AugmentSpec
from resnets.data import order
from resnets.data.transforms.operations import OPERATIONS, Scene
from resnets.utils.machine.environment import copy_to_device

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Strength of an operation, from an amount in -1..1 and the side of the image in pixels.
Strength = Callable[[Floats, int], Floats | float]

DRAWS = 5  # per layer: whether, which operation, amount (two), sign
CHANCE = 0.5  # that a layer of "rand" is applied
BINS = 31  # number of strengths of "trivial"
CACHED_VALUES = 200_000  # values processed at a time on a CPU

RAND: dict[str, Strength] = {
    "autocontrast": lambda amount, size: 0.0,
    "equalize": lambda amount, size: 0.0,
    "invert": lambda amount, size: 0.0,
    "rotate": lambda amount, size: 30 * amount,
    "posterize": lambda amount, size: 4 - np.floor(4 * abs(amount)),
    "solarize": lambda amount, size: 256 - np.floor(256 * abs(amount)),
    "solarize_add": lambda amount, size: np.floor(110 * abs(amount)),
    "color": lambda amount, size: np.maximum(0.1, 1 + 0.9 * amount),
    "contrast": lambda amount, size: np.maximum(0.1, 1 + 0.9 * amount),
    "brightness": lambda amount, size: np.maximum(0.1, 1 + 0.9 * amount),
    "sharpness": lambda amount, size: np.maximum(0.1, 1 + 0.9 * amount),
    "shear_x": lambda amount, size: 0.3 * amount,
    "shear_y": lambda amount, size: 0.3 * amount,
    "translate_x": lambda amount, size: 0.45 * size * amount,
    "translate_y": lambda amount, size: 0.45 * size * amount,
}
TRIVIAL: dict[str, Strength] = {
    "identity": lambda amount, size: 0.0,
    "shear_x": lambda amount, size: 0.99 * amount,
    "shear_y": lambda amount, size: 0.99 * amount,
    "translate_x": lambda amount, size: np.trunc(32 * amount),
    "translate_y": lambda amount, size: np.trunc(32 * amount),
    "rotate": lambda amount, size: 135 * amount,
    "brightness": lambda amount, size: 1 + 0.99 * amount,
    "color": lambda amount, size: 1 + 0.99 * amount,
    "contrast": lambda amount, size: 1 + 0.99 * amount,
    "sharpness": lambda amount, size: 1 + 0.99 * amount,
    "posterize": lambda amount, size: np.rint(8 - 6 * abs(amount)),
    "solarize": lambda amount, size: 255 * (1 - abs(amount)),
    "autocontrast": lambda amount, size: 0.0,
    "equalize": lambda amount, size: 0.0,
}


class Policy:
    """Random operations on uint8 images.

    mean: (C,) in 0..1, the fill color of pixels that "rand" moves into view.

    bgr: channels are blue, green, red.
    """

    def __init__(
        self, spec: AugmentSpec, seed: int, mean: Sequence[float], *, bgr: bool = False
    ) -> None:
        assert spec.policy != "none"
        self.spec, self.seed, self.trivial = spec, seed, spec.policy == "trivial"
        self.space = TRIVIAL if self.trivial else RAND
        self.layers = 1 if self.trivial else spec.policy_ops
        fill = torch.zeros(len(mean)) if self.trivial else torch.tensor(mean).mul(255).round()
        mode = "nearest" if self.trivial else "bilinear"
        self.scene = Scene(fill.clamp(0, 255).byte(), mode, bgr)

    def __call__(self, images: Tensor, epochs: Ints, ids: Ints) -> Tensor:
        """Change `images` (B, S, S, C) uint8 of samples `ids` (B,) in `epochs` (B,), in place."""
        names, device = list(self.space), images.device
        scene = replace(self.scene, fill=copy_to_device(self.scene.fill, device))
        for layer in range(self.layers):
            kinds, strengths = self.draw(epochs, ids, layer, images.shape[2])
            for kind, group_rows in _iter_groups(kinds, images):
                rows = copy_to_device(group_rows, device)
                strength = copy_to_device(strengths[group_rows], device)
                group = images.index_select(0, rows).permute(0, 3, 1, 2)
                group = OPERATIONS[names[kind]](group, strength.view(-1, 1, 1, 1), scene)
                images.index_copy_(0, rows, group.permute(0, 2, 3, 1))
        return images

    def draw(
        self, epochs: Ints, ids: Ints, layer: int, size: int
    ) -> tuple[Ints, NDArray[np.float32]]:
        """Return each image's operation in `layer`, -1 for none, and its strength, (B,) each."""
        streams = order.STREAM_POLICY + DRAWS * layer + np.arange(DRAWS)
        draws = order.uniform(self.seed, epochs[:, None], ids[:, None], streams).T
        kinds = (draws[1] * len(self.space)).astype(np.int64)
        if self.trivial:
            level = np.floor(draws[2] * BINS) / (BINS - 1)
        else:
            kinds[draws[0] >= CHANCE] = -1
            deviation = self.spec.policy_std * order.normal(draws[2], draws[3])
            level = np.clip(self.spec.policy_magnitude + deviation, 0, 10) / 10
        amount = np.where(draws[4] < 0.5, -level, level)
        strengths = np.zeros(len(ids), np.float32)
        for kind, strength in enumerate(self.space.values()):
            strengths[kinds == kind] = strength(amount[kinds == kind], size)
        return kinds, strengths


def _iter_groups(kinds: Ints, images: Tensor) -> Iterator[tuple[int, Ints]]:
    """Yield each kind (except -1) and rows of images with it; on a CPU few enough for its cache."""
    max_rows = (
        max(1, CACHED_VALUES // images[0].numel()) if images.device.type == "cpu" else len(images)
    )
    for kind in np.unique(kinds[kinds >= 0]).tolist():
        rows = np.flatnonzero(kinds == kind)
        for start in range(0, len(rows), max_rows):
            yield kind, rows[start : start + max_rows]
