"""Random color changes, keyed by (seed, epoch, sample): jitter, grayscale, Gaussian blur.

The operations are torchvision's ColorJitter, RandomGrayscale and GaussianBlur, in this order, each
with one amount per image. They run on whole batches; a batch is divided by operation, never by
image.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from resnets.config import AugmentSpec
from resnets.data import order
from resnets.data.transforms.operations import Scene, brightness, color, contrast, gray
from resnets.utils.machine.environment import copy_to_device

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

JITTER = ("brightness", "contrast", "saturation", "hue")
TRUNCATE = 3.0  # of the blur's kernel on each side, in deviations


class Photometric:
    """The color changes of `spec`; bgr: channels are blue, green, red."""

    def __init__(self, spec: AugmentSpec, seed: int, *, bgr: bool = False) -> None:
        self.spec, self.seed = spec, seed
        self.scene = Scene(torch.zeros(3, dtype=torch.uint8), bgr=bgr)

    @staticmethod
    def is_enabled(spec: AugmentSpec) -> bool:
        """Return whether `spec` has any color changes."""
        return any(spec.color_jitter) or spec.grayscale > 0 or spec.blur > 0

    def __call__(self, images: Tensor, epochs: Ints, ids: Ints) -> Tensor:
        """Change `images` (B, S, S, C) uint8 of samples `ids` (B,) in `epochs` (B,), in place."""
        planes = images.permute(0, 3, 1, 2)
        if any(self.spec.color_jitter):
            self._jitter(planes, epochs, ids)
        if self.spec.grayscale:
            rows = self._draw_rows(self.spec.grayscale, order.STREAM_GRAYSCALE, epochs, ids)
            if len(rows):
                part = planes[self._to_device(rows, images)]
                planes[self._to_device(rows, images)] = (
                    gray(part, self.scene).byte().expand_as(part)
                )
        if self.spec.blur:
            rows = self._draw_rows(self.spec.blur, order.STREAM_BLUR, epochs, ids)
            if len(rows):
                low, high = self.spec.blur_sigma
                share = order.uniform(self.seed, epochs[rows], ids[rows], order.STREAM_BLUR + 1)
                sigma = self._to_device((low + share * (high - low)).astype(np.float32), images)
                part = planes[self._to_device(rows, images)]
                planes[self._to_device(rows, images)] = gaussian_blur(part, sigma, blur_size(high))
        return images

    def draw_jitter(self, epochs: Ints, ids: Ints) -> tuple[Floats, Ints]:
        """Return factors (B, 4) in the order of `JITTER`, and their order of application (B, 4)."""
        streams = order.STREAM_COLOR_JITTER + np.arange(2 * len(JITTER))
        draws = order.uniform(self.seed, epochs[:, None], ids[:, None], streams)
        width = np.array(self.spec.color_jitter)
        low, high = np.maximum(1 - width, 0), 1 + width
        low[3], high[3] = -width[3], width[3]
        count = len(JITTER)
        return low + draws[:, :count] * (high - low), draws[:, count:].argsort(1, kind="stable")

    def _jitter(self, planes: Tensor, epochs: Ints, ids: Ints) -> None:
        factors, kinds = self.draw_jitter(epochs, ids)
        for position in range(len(JITTER)):
            for kind, width in enumerate(self.spec.color_jitter):
                rows = np.flatnonzero(kinds[:, position] == kind)
                if not width or not len(rows):
                    continue
                selected = self._to_device(rows, planes)
                factor = self._to_device(factors[rows, kind].astype(np.float32), planes)
                planes[selected] = self._change(kind, planes[selected], factor.view(-1, 1, 1, 1))

    def _change(self, kind: int, images: Tensor, factor: Tensor) -> Tensor:
        if kind == 0:
            return brightness(images, factor)
        if kind == 1:
            return contrast(images, factor, self.scene)
        if kind == 2:
            return color(images, factor, self.scene)
        if self.scene.bgr:
            return adjust_hue(images.flip(1), factor).flip(1)
        return adjust_hue(images, factor)

    def _draw_rows(self, probability: float, stream: int, epochs: Ints, ids: Ints) -> Ints:
        return np.flatnonzero(order.uniform(self.seed, epochs, ids, stream) < probability)

    def _to_device(self, values: NDArray, images: Tensor) -> Tensor:
        return copy_to_device(values, images.device)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue of RGB `images` (B, 3, H, W) uint8 by `shift` (B, 1, 1, 1) of the circle.

    torchvision's adjust_hue, via HSV (Smith 1978), with a shift per image.
    """
    red, green, blue = (images.float() / 255).unbind(1)
    highest = torch.maximum(torch.maximum(red, green), blue)
    lowest = torch.minimum(torch.minimum(red, green), blue)
    span = highest - lowest
    safe = torch.where(span == 0, torch.ones_like(span), span)
    sector = torch.where(
        highest == red,
        (green - blue) / safe,
        torch.where(highest == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = (sector / 6 + shift[:, 0]) % 1.0
    # f(n) = V - V S max(0, min(k, 4 - k, 1)), k = (n + 6 H) mod 6, for n = 5, 3, 1
    turned = [(number + 6 * hue) % 6 for number in (5, 3, 1)]
    planes = [highest - span * torch.minimum(k, 4 - k).clamp(0, 1) for k in turned]
    return torch.stack(planes, 1).mul_(255).round_().clamp_(0, 255).byte()


def blur_size(sigma: float) -> int:
    """Return the width of the kernel in px for a deviation of `sigma` px."""
    return 2 * math.ceil(TRUNCATE * sigma) + 1


def gaussian_blur(images: Tensor, sigma: Tensor, size: int) -> Tensor:
    """Blur `images` (B, C, H, W) uint8 with deviation `sigma` (B,) in px; borders are reflected.

    size: [px] width of the kernel, independent of the rest of the batch.
    """
    taps = torch.arange(size, device=images.device) - size // 2
    kernel = torch.exp(-0.5 * (taps / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).view(len(images), size, 1, 1, 1)
    height, width = images.shape[2:]
    blurred = F.pad(images.contiguous().float(), [size // 2] * 4, mode="reflect")
    for dim, length in ((2, height), (3, width)):
        total = torch.zeros_like(blurred.narrow(dim, 0, length))
        for tap in range(size):
            total.addcmul_(blurred.narrow(dim, tap, length), kernel[:, tap])
        blurred = total
    return blurred.round_().clamp_(0, 255).byte()
