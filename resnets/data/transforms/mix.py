"""Mixing of images within a batch: mixup and cutmix."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from resnets.config import AugmentSpec, ConfigError
from resnets.data import order
from resnets.data.batch import Batch
from resnets.utils.machine.environment import copy_to_device


def mix(spec: AugmentSpec, seed: int, step: int, batch: Batch) -> Batch:
    """Mix batch `step` as specified by `spec`; random numbers are a pure function of (seed, step).

    One share from Beta(alpha, alpha), and one rectangle, are used for the whole batch, as in the
    authors' code. mixup (Zhang et al. 2018): share * image + (1 - share) * partner. cutmix (Yun et
    al. 2019): a rectangle of area 1 - share at a uniform position, clipped at the border, comes
    from the partner; `Batch.target_weight` is the exact remaining share of the area.
    """
    mix_draw, cutmix_draw, quantile, down, across = order.uniform(
        seed, step, 0, order.STREAM_MIX + np.arange(5)
    ).tolist()
    if not (spec.mixup or spec.cutmix) or mix_draw >= spec.mix_probability:
        return batch
    from scipy.special import betaincinv  # deferred: slow to import

    images, targets = batch.images, batch.targets
    assert isinstance(images, Tensor)
    assert isinstance(targets, Tensor)
    other = copy_to_device(partners(len(images), spec.repeats), images.device)
    use_cutmix = bool(spec.cutmix) and (not spec.mixup or cutmix_draw < 0.5)
    alpha = spec.cutmix if use_cutmix else spec.mixup
    share = float(betaincinv(alpha, alpha, quantile))  # the quantile function of Beta
    if use_cutmix:
        height, width = images.shape[2:]
        top, bottom, left, right = cut_box(height, width, share, down, across)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[other, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        mixed = images[other].lerp_(images, share)
    shares = torch.full((len(images),), share, device=images.device)
    return replace(batch, images=mixed, other_targets=targets[other], target_weight=shares)


def mix_unit(spec: AugmentSpec, batch_size: int, ranks: int) -> int:
    """Return how many consecutive images are mixed, and must stay on one device; 1 = none.

    Raises ConfigError if several `ranks` would have to mix the batch's last images.
    """
    unit = 2 * spec.repeats if spec.mixup or spec.cutmix else 1
    if ranks > 1 and batch_size % unit:
        raise ConfigError(
            f"batch_size={batch_size}: must be a multiple of {ranks} to mix pairs on {batch_size} "
            "devices"
        )
    return unit


def partners(count: int, repeats: int = 1) -> Tensor:
    """Return (count,) int64, the index in the batch of each image's partner.

    The order is random in each epoch, so partners may be neighbors: index p is paired with p +
    repeats, in blocks of 2 repeats. A repeated image is thus never its own partner, and a device
    whose slice of the batch is whole blocks needs no other device's images. An odd one at the end
    is paired with one from the start.
    """
    index = torch.arange(count)
    first = index // repeats % 2 == 0
    return torch.where(first, index + repeats, index - repeats) % count


def cut_box(
    height: int, width: int, share: float, down: float, across: float
) -> tuple[int, int, int, int]:
    """Return top, bottom, left, right of a rectangle of area 1 - share, around a center.

    The center is (down, across) in [0, 1].
    """
    side = math.sqrt(1 - share)
    tall, wide = int(height * side), int(width * side)
    y, x = int(down * height), int(across * width)
    top, left = y - tall // 2, x - wide // 2
    return max(0, top), min(height, top + tall), max(0, left), min(width, left + wide)
