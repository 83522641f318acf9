"""Random augmentation of training images, keyed by (seed, epoch, sample).

Scale and aspect ratio, which need the stored image, become a `Crop` for the decoder; everything
else is applied to whole batches on the device: operations of a policy; pad, crop and flip as one
gather; normalization, color, resizing and erasing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from resnets.config import AugmentSpec, ConfigError
from resnets.data import order
from resnets.data.decode.decode import Crop, grid_box, scaled_size
from resnets.data.decode.exif import Box
from resnets.data.transforms.erase import Erase
from resnets.data.transforms.photometric import Photometric, blur_size
from resnets.data.transforms.policy import Policy
from resnets.data.transforms.preprocess import Preprocessor, resize_images
from resnets.ops.flip import flip_and_normalize
from resnets.utils.machine.environment import copy_to_device

# Principal components of ImageNet's RGB values in 0..1 (Krizhevsky et al. 2012, section 4.1; the
# values of the authors' data layer as published with fb.resnet.torch). Columns of VECTORS belong
# to VALUES.
PCA_VALUES = (0.2175, 0.0188, 0.0045)
PCA_VECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
RATIO = (3 / 4, 4 / 3)
MIN_IMAGE_BY_IMAGE = 96  # px from which a CPU processes images one by one
MAX_TRIES = 10  # of random areas and ratios before the center is used

Ints = NDArray[np.int64]


def train_views(
    spec: AugmentSpec,
    preprocessor: Preprocessor,
    seed: int,
    epochs: Ints,
    ids: Ints,
    size: int | None = None,
) -> list[Crop]:
    """Return the random view of each sample (B,) that the decoder cuts from the stored image.

    The parts do not depend on `size`, their size in pixels (None: the model's). "scale-jitter":
    shorter side uniform in `spec.scale` px, then a crop at a uniform position (the paper, section
    3.4). "random-resized": see `resized_box`. Otherwise the center view.
    """
    view = preprocessor.view

    def draws(first: int, count: int) -> NDArray[np.float64]:
        streams = first + np.arange(count)
        return order.uniform(seed, epochs[:, None], ids[:, None], streams)

    if spec.crop == "scale-jitter":
        shortest, longest = int(spec.scale[0]), int(spec.scale[1])
        boxes = [
            jitter_box(view.size, shortest + int(side * (longest - shortest + 1)), down, across)
            for side, down, across in draws(order.STREAM_JITTER, 3)
        ]
    elif spec.crop == "random-resized":
        table = draws(order.STREAM_RESIZED_CROP, 4 * MAX_TRIES)
        boxes = [resized_box(spec.scale, row.reshape(MAX_TRIES, 4)) for row in table]
    else:
        boxes = [view.box] * len(ids)
    return [replace(view, box=box, size=size or view.size) for box in boxes]


def jitter_box(size: int, side: int, down: float, across: float) -> Callable[[int, int], Box]:
    """Return the box of a crop of the image at shorter side `side`; down, across in [0, 1)."""

    def box(width: int, height: int) -> Box:
        wide, high = scaled_size(width, height, side)
        left, top = int((wide - size + 1) * across), int((high - size + 1) * down)
        return grid_box(width, height, side, (left, top, left + size, top + size))

    return box


def resized_box(
    scale: tuple[float, float], draws: NDArray[np.float64]
) -> Callable[[int, int], Box]:
    """Return a box of random area and aspect ratio (Szegedy et al. 2015, section 6).

    draws: (tries, 4) in [0, 1) for area share, log ratio, top and left. The first try that fits is
    used; if none does, the largest centered box whose ratio is within 3/4..4/3.
    """

    def box(width: int, height: int) -> Box:
        low, high = math.log(RATIO[0]), math.log(RATIO[1])
        for area_draw, ratio_draw, down, across in draws.tolist():
            area = width * height * (scale[0] + area_draw * (scale[1] - scale[0]))
            ratio = math.exp(low + ratio_draw * (high - low))
            wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < tall <= height:
                left, top = int((width - wide + 1) * across), int((height - tall + 1) * down)
                return left, top, left + wide, top + tall
        x = (width - min(width, height * RATIO[1])) / 2
        y = (height - min(height, width / RATIO[0])) / 2
        return x, y, width - x, height - y

    return box


class BatchAugment:
    """All augmentation of whole batches on the device, except mixing.

    Padding is zero after the mean is subtracted, and the mean image is subtracted at each pixel's
    own position. The paper (section 4.2) does not say whether padding or the mean comes first.
    """

    def __init__(
        self, spec: AugmentSpec, preprocessor: Preprocessor, seed: int, device: torch.device
    ) -> None:
        _check_spec(spec, preprocessor)
        self.spec, self.seed, self.device = spec, seed, device
        self.size = preprocessor.spec.size
        self.margin = spec.pad if spec.crop == "pad" else 0
        self.bgr = preprocessor.spec.channel_order == "bgr"
        channels = preprocessor.spec.channels
        self._erase = (
            Erase(spec.random_erase, seed, self.size, channels) if spec.random_erase else None
        )
        means = preprocessor.spec.mean
        self._policy = None if spec.policy == "none" else Policy(spec, seed, means, bgr=self.bgr)
        has_photometric = Photometric.is_enabled(spec)
        self._photometric = Photometric(spec, seed, bgr=self.bgr) if has_photometric else None
        mean, scale = preprocessor.mean_and_scale(device)
        self._has_mean_image = preprocessor.mean_image is not None
        mean = mean.expand(channels, self.size, self.size).permute(1, 2, 0)
        self._mean = self._pad(mean).reshape(-1, channels)
        self._scale = scale.view(1, channels).repeat(self.size**2, 1).view(1, -1)

    def pad(self, images: Tensor) -> Tensor:
        """Pad (N, S, S, C) uint8 to (N, S + 2 pad, S + 2 pad, C) on the device, for `__call__`."""
        images = copy_to_device(images, self.device, pin=False)  # a set, or pinned already
        return self._pad(images.flip(3) if self.bgr else images)

    def __call__(
        self, padded: Tensor, rows: Tensor, epochs: Ints, ids: Ints, size: int | None = None
    ) -> Tensor:
        """Return training input of samples `ids` (B,) in `epochs` (B,), at `rows` (B,) of `padded`.

        (B, C, size, size) float32 in channels_last memory; size: None is the model's.
        """
        if self._photometric is not None or self._policy is not None:
            padded = self._apply_color_and_policy(padded, rows, epochs, ids)
            rows = torch.arange(len(ids))
        images = self._flip_and_rotate(self._crop(padded, rows, epochs, ids), epochs, ids)
        if self.spec.pca_color:
            images.add_(self._color_shift(epochs, ids)[:, :, None, None])
        images = resize_images(images, size or self.size)
        return images if self._erase is None else self._erase(images, epochs, ids)

    def _apply_color_and_policy(
        self, padded: Tensor, rows: Tensor, epochs: Ints, ids: Ints
    ) -> Tensor:
        """Return the images `rows` (B,) of `padded` after color operations and the policy.

        The shape is (B, S + 2 pad, ...).
        """
        inside = slice(self.margin, self.margin + self.size)
        images = padded.index_select(0, self._to_device(rows))[:, inside, inside].contiguous()
        for changes in (self._photometric, self._policy):
            images = images if changes is None else changes(images, epochs, ids)
        return self._pad(images)

    def _flip_and_rotate(self, images: Tensor, epochs: Ints, ids: Ints) -> Tensor:
        """Flip `images` (B, C, S, S) vertically and rotate them by right angles, in place."""
        if self.spec.vertical_flip:
            is_flipped = order.uniform(self.seed, epochs, ids, order.STREAM_VERTICAL) < 0.5
            selected = self._to_device(np.flatnonzero(is_flipped))
            images[selected] = images[selected].flip(2)
        if self.spec.rotate90:
            quarter_turns = (order.uniform(self.seed, epochs, ids, order.STREAM_TURN) * 4).astype(
                np.int64
            )
            for count in (1, 2, 3):
                selected = self._to_device(np.flatnonzero(quarter_turns == count))
                images[selected] = images[selected].rot90(count, (2, 3))
        return images

    def _crop(self, padded: Tensor, rows: Tensor, epochs: Ints, ids: Ints) -> Tensor:
        """Crop, flip and normalize: (B, C, size, size) at the model's size."""
        if not self.margin:
            return self._flip(padded, rows, epochs, ids)
        draws = {name: self._to_device(each) for name, each in self.draws(epochs, ids).items()}
        return self.crop_at(padded, self._to_device(rows), **draws)

    def draws(self, epochs: Ints, ids: Ints) -> dict[str, NDArray[Any]]:
        """Return what `crop_at` needs for samples `ids` (B,): top, left in pixels, flip."""
        shifts = 2 * self.margin + 1
        top, left = (
            (order.uniform(self.seed, epochs, ids, stream) * shifts).astype(np.int64)
            for stream in (order.STREAM_CROP_Y, order.STREAM_CROP_X)
        )
        return {"top": top, "left": left, "flip": self._draw_flips(epochs, ids) & self.spec.flip}

    def crop_at(
        self, padded: Tensor, rows: Tensor, top: Tensor, left: Tensor, flip: Tensor
    ) -> Tensor:
        """Crop `rows` (B,) of `padded` and normalize: (B, C, size, size) at the model's size.

        Runs entirely on the device, where all tensors are.
        """
        count, size, padded_width = len(rows), self.size, self.size + 2 * self.margin
        pixel_index = self._pixel_indices(top, left, flip)
        image_offset = rows[:, None, None] * (padded_width * padded_width)
        channels = padded.shape[3]
        pixels = padded.view(-1, channels).index_select(0, (image_offset + pixel_index).view(-1))
        images = pixels.view(count, -1).float()
        images.sub_(self._mean.index_select(0, pixel_index.view(-1)).view(count, -1)).mul_(
            self._scale
        )
        return images.view(count, size, size, channels).permute(0, 3, 1, 2)

    def _flip(self, stored: Tensor, rows: Tensor, epochs: Ints, ids: Ints) -> Tensor:
        """Return the result of `_crop` without a crop, avoiding a gather of each pixel."""
        is_flipped = self._draw_flips(epochs, ids) & self.spec.flip
        if self.device.type == "cpu" and self.size >= MIN_IMAGE_BY_IMAGE:
            return self._flip_each(stored, rows, is_flipped)
        images = stored.index_select(0, self._to_device(rows)).float()
        images.view(len(ids), -1).sub_(self._mean.view(1, -1)).mul_(self._scale)
        if self.spec.flip:
            flipped = self._to_device(np.flatnonzero(is_flipped))
            images[flipped] = images.index_select(0, flipped).flip(2)
        return images.permute(0, 3, 1, 2)

    def _flip_each(self, stored: Tensor, rows: Tensor, is_flipped: NDArray[np.bool_]) -> Tensor:
        """Flip and normalize image by image, so that each stays in a core's cache."""
        images = torch.empty((len(rows), *stored.shape[1:]))
        mean, scale = self._mean.view(images.shape[1:]), self._scale.view(images.shape[1:])
        mean = mean if self._has_mean_image else mean[:1]
        means = torch.stack([mean, mean.flip(1)])
        if stored.dtype == torch.uint8 and flip_and_normalize(
            stored, rows, is_flipped, means, scale[0], images
        ):
            return images.permute(0, 3, 1, 2)
        for out, row, turn in zip(images, rows.tolist(), is_flipped.tolist(), strict=True):
            out.copy_(stored[row].flip(1) if turn else stored[row])
            out.sub_(means[int(turn)]).mul_(scale)
        return images.permute(0, 3, 1, 2)

    def _draw_flips(self, epochs: Ints, ids: Ints) -> NDArray[np.bool_]:
        if self.spec.flip_rule == "random":
            return order.uniform(self.seed, epochs, ids, order.STREAM_FLIP) < 0.5
        first = order.uniform(self.seed, np.zeros_like(epochs), ids, order.STREAM_FLIP) < 0.5
        return first ^ (epochs % 2 == 1)

    def _pixel_indices(self, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
        """Return each pixel's index in its padded image, y * width + x: (B, size, size) int64."""
        span = torch.arange(self.size, device=self.device)
        down = top[:, None] + span
        across = torch.where(flip[:, None], self.size - 1 - span, span)
        wide = self.size + 2 * self.margin
        return down[:, :, None] * wide + (left[:, None] + across)[:, None, :]

    def _color_shift(self, epochs: Ints, ids: Ints) -> Tensor:
        """Return a random step (B, 3) along the principal components, in normalized pixel units."""
        streams = order.STREAM_COLOR + np.arange(6)
        draws = order.uniform(self.seed, epochs[:, None], ids[:, None], streams)
        alpha = self.spec.pca_color * order.normal(draws[:, :3], draws[:, 3:])
        shift = (alpha * PCA_VALUES) @ np.array(PCA_VECTORS).T * 255
        shift = shift[:, ::-1].copy() if self.bgr else shift
        return self._to_device(shift.astype(np.float32)) * self._scale[:, :3]

    def _pad(self, images: Tensor) -> Tensor:
        margin = self.margin
        padded = F.pad(images, (0, 0, margin, margin, margin, margin)) if margin else images
        return padded.contiguous()

    def _to_device(self, values: Tensor | NDArray) -> Tensor:
        return copy_to_device(values, self.device)


def _check_spec(spec: AugmentSpec, preprocessor: Preprocessor) -> None:
    size, (low, high) = preprocessor.spec.size, spec.scale
    if spec.crop == "scale-jitter" and not size <= low <= high:
        raise ConfigError(
            f"data.augment.scale: {spec.scale} must be shorter sides of {size} px or more,"
            " for instance (256, 480)"
        )
    if spec.crop == "random-resized" and not 0 < low <= high <= 1:
        raise ConfigError(
            f"data.augment.scale: {spec.scale} must be fractions of the area in [0, 1]"
        )
    if min(spec.color_jitter) < 0 or spec.color_jitter[3] > 0.5:
        raise ConfigError(
            f"data.augment.color_jitter: {spec.color_jitter} must be at least 0, and hue at most "
            "0.5"
        )
    if not 0 < spec.blur_sigma[0] <= spec.blur_sigma[1]:
        raise ConfigError(f"data.augment.blur_sigma: {spec.blur_sigma} must be above 0 px")
    if spec.blur and blur_size(spec.blur_sigma[1]) // 2 >= size:
        raise ConfigError(
            f"data.augment.blur_sigma: {spec.blur_sigma[1]} px is too much for images of {size} px"
        )
    if preprocessor.spec.has_stacks and (spec.policy != "none" or Photometric.is_enabled(spec)):
        raise ConfigError(
            "data.augment: policy, color_jitter, grayscale and blur are for gray and RGB images of"
            " 8 bits; set them to none and 0 for stacks (data.channels, data.keep_bits)"
        )
    color_fields = {
        "pca_color": spec.pca_color,
        "grayscale": spec.grayscale,
        "color_jitter": any(spec.color_jitter[2:]),
    }
    for name, is_set in color_fields.items():
        if is_set and preprocessor.spec.channels != 3:
            detail = " (saturation and hue)" if name == "color_jitter" else ""
            raise ConfigError(
                f"data.augment.{name}{detail}: needs RGB images, not"
                f" {preprocessor.spec.channels} channels; set it to 0"
            )


LEFT_RIGHT = re.compile(r"left|right", re.IGNORECASE)
OPPOSITE = {"left": "right", "right": "left"}


def mirror_warning(classes: Sequence[str], spec: AugmentSpec) -> str | None:
    """Return a warning if mirrored training images would probably be mislabeled, else None.

    This is the case if all `classes` are single letters or digits, or if two differ only in left
    and right. None if `spec` neither flips nor rotates images.
    """
    fields = [name for name in ("flip", "vertical_flip", "rotate90") if getattr(spec, name)]
    if not fields:
        return None
    if len(classes) > 1 and all(len(name) == 1 and name.isalnum() for name in classes):
        reason = f"the classes ({classes[0]} to {classes[-1]}) look like letters or digits"
    elif pair := _find_mirrored_pair(classes):
        reason = f"the classes {pair[0]!r} and {pair[1]!r} are mirror images by name"
    else:
        return None
    remedy = " ".join(f"--set data.augment.{name}=false" for name in fields)
    return (
        f"{reason}, and training images are flipped or rotated; if such an image does not show the"
        f" same class, set {remedy}"
    )


def _find_mirrored_pair(classes: Sequence[str]) -> tuple[str, str] | None:
    """Return the first class whose name is that of another class with left and right exchanged."""
    names = {name.lower(): name for name in classes}
    for lower, name in names.items():
        other = LEFT_RIGHT.sub(lambda match: OPPOSITE[match[0].lower()], lower)
        if other != lower and other in names:
            return name, names[other]
    return None
