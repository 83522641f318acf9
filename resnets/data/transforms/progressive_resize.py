"""Progressive resizing: training pictures that grow from small to full size during a run."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from resnets.config import ConfigError, DataSpec
from resnets.data.transforms.preprocess import Preprocessor


def check_growth(spec: DataSpec, size: int) -> None:
    """ConfigError where training pictures of `size` px cannot grow as `spec` says."""
    start, (begin, end) = spec.grow_from, spec.grow_between
    if start is not None and not 1 <= start <= size:
        raise ConfigError(f"data.grow_from: {start} px is not in 1..{size}, the size of the net")
    if not 0 <= begin <= end <= 1:
        raise ConfigError(f"data.grow_between: {spec.grow_between} must be shares 0 <= a <= b <= 1")
    if spec.grow_step < 1:
        raise ConfigError(f"data.grow_step: {spec.grow_step} px must be 1 or more")


def size_at(spec: DataSpec, size: int, step: int, total: int | None) -> int:
    """Pixels of the training pictures of batch `step` out of `total`; `size` without growth.

    Linear between the two shares of the run, rounded to whole `grow_step` above `grow_from`. From
    the second share on it is `size`, as it is where `total` is None.
    """
    if spec.grow_from is None or total is None:
        return size
    begin, end = (share * total for share in spec.grow_between)
    if step >= end:
        return size
    grown = max(0.0, step - begin) / max(1.0, end - begin) * (size - spec.grow_from)
    return min(size, spec.grow_from + int(grown / spec.grow_step + 0.5) * spec.grow_step)


def resized(images: Tensor, size: int) -> Tensor:
    """(B, C, H, W) float -> (B, C, size, size) by antialiased bilinear resizing."""
    if images.shape[2] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def at_size(preprocessor: Preprocessor, size: int) -> Preprocessor:
    """The same for pictures of `size` px, with the mean picture resized to it."""
    spec, image = preprocessor.spec, preprocessor.mean_image
    if size == spec.size:
        return preprocessor
    image = None if image is None else resized(image[None], size)[0]
    spec = replace(spec, size=size, resize=max(size, spec.resize))
    return replace(preprocessor, spec=spec, mean_image=image)
