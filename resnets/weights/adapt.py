"""Adapt weights to another input: channels, the stem for 32 px, image size, preprocessing."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from resnets.config import ConfigError, DataSpec, ModelSpec, Preprocess
from resnets.data import Split, TensorSplit
from resnets.data.transforms.preprocess import (
    IMAGENET_GRAY_MEAN,
    IMAGENET_GRAY_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessor,
    fit_preprocess,
)
from resnets.weights.read import Weights
from resnets.weights.readers.configs.stored_config import resized

log = logging.getLogger("resnets")

CIFAR_SIZE = 32  # px that a 3x3 stem without pool is for
IMAGENET_RESIZE = 256 / 224  # shorter side over the crop, as ImageNet models are evaluated
STEM_STRIDE = 4  # of the ImageNet stem: 2 by its convolution, 2 by its pool


def adapt_input(weight: Tensor, in_channels: int) -> Tensor:
    """A first convolution (O, C, k, k) for `in_channels` in place of C input channels.

    To one channel by summing, which is exact for a gray image repeated C times. Else channels
    are repeated in turn and scaled by C / in_channels, which keeps the size of the response.
    """
    old = weight.shape[1]
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    turns = torch.arange(in_channels) % old
    return weight[:, turns] * (old / in_channels)


def adapt_stem(weight: Tensor) -> Tensor:
    """The 3x3 kernel (O, C, 3, 3) of a CIFAR stem for the 7x7 kernel of an ImageNet stem.

    It gives on a small image what the 7x7 kernel gives at every fourth pixel of that image
    enlarged four times by linear interpolation (the ImageNet stem's whole stride), so that the
    stages after it see maps like those they were trained on. Exact away from the border.
    """
    taps = torch.arange(-3, 4) / STEM_STRIDE  # of the 7x7 kernel, in pixels of the small image
    pixels = torch.arange(-1, 2)
    share = (1 - (taps - pixels[:, None]).abs()).clamp(min=0).to(weight)  # (3, 7)
    return share @ weight @ share.T


def check_size(
    weights: Weights, spec: ModelSpec, size: int, policy: Literal["near", "any"]
) -> None:
    """Compare the image size that weights were trained at with `size`, in px.

    ConfigError if the recipe's images are more than twice as large and `policy` is "near": such as
    a CIFAR network at ImageNet's size, whose last feature maps are 56 px, not 8. Images less than
    half as large are logged, unless the stem is adapted to them.
    """
    made = _made_for(weights, spec)
    if made is None or policy == "any":
        return
    source = weights.source
    if size > 2 * made:
        raise ConfigError(
            f"weights: {source} were made for images of {made} px, and this recipe trains at {size}"
            f" px; --set data.size={made} --set data.resize={made} trains at their size,"
            " --set weights_size=any trains at this one"
        )
    if 2 * size < made and not (spec.stem == "cifar" and STEM_STRIDE * size >= made // 2):
        log.info("%s: made for images of %d px, now trained at %d px", source, made, size)


def _made_for(weights: Weights, spec: ModelSpec) -> int | None:
    """Size in px of the images that `weights` were trained on; None if unknown."""
    if weights.spec is not None:  # preprocessing may be for a larger size at test
        return weights.spec.input_size
    if weights.preprocess is not None:
        return weights.preprocess.spec.size
    return CIFAR_SIZE if weights.stem_kernel == 3 and spec.stem == "cifar" else None


def adapt_preprocess(
    known: Preprocessor, spec: ModelSpec, stem_adapted: bool = False
) -> Preprocessor | None:
    """The preprocessing `known` of weights, for the model `spec` that is made of them.

    None if the model takes neither 1 nor 3 channels. One channel takes the mean of three.
    A CIFAR stem that was adapted from ImageNet's sees images of `spec.input_size` px.
    """
    if spec.in_channels not in (1, 3):
        return None
    if spec.in_channels != known.spec.channels:
        known = _other_planes(known, spec.in_channels)
    if stem_adapted:
        return resize(known, spec.input_size, spec.input_size)
    return known


def fit_known(known: Preprocessor, split: Split, data: DataSpec, channels: int) -> Preprocessor:
    """The preprocessing `known` of weights, for fine-tuning a model of `channels` on `split`.

    Mean, deviation, channel order and interpolation stay the weights'; sizes are those of `data`.
    A set that was read at its size already keeps the interpolation it was read with. Raises
    ConfigError as `fit_preprocess`.
    """
    sizes = fit_preprocess(split, replace(data, normalize="imagenet"), channels).spec
    if channels != known.spec.channels:
        known = _other_planes(known, channels)
    read = isinstance(split, TensorSplit) and split.prepared is not None
    known = replace(known, spec=replace(known.spec, value_range=data.value_range))
    return resize(known, sizes.size, sizes.resize, sizes.interpolation if read else None)


def resize(
    known: Preprocessor,
    size: int,
    shorter: int,
    interpolation: Literal["bilinear", "bicubic"] | None = None,
) -> Preprocessor:
    """`known` for `size` px of a shorter side of `shorter` px; all else as it came.

    A mean image of another size is replaced by its mean pixel.
    """
    how = interpolation or known.spec.interpolation
    spec = replace(known.spec, size=size, resize=shorter, interpolation=how)
    image = known.mean_image
    if image is not None and image.shape[-1] != size:
        mean = tuple(image.mean((1, 2)).tolist())
        return Preprocessor(replace(spec, mean=mean, mean_image=False))
    return Preprocessor(spec, image)


def _other_planes(known: Preprocessor, channels: int) -> Preprocessor:
    spec, image = known.spec, known.mean_image

    def planes(values: tuple[float, ...]) -> tuple[float, ...]:
        return (sum(values) / len(values),) * channels

    changed: Preprocess = replace(
        spec, channels=channels, mean=planes(spec.mean), std=planes(spec.std), channel_order="rgb"
    )
    if image is not None:
        image = image.mean(0, keepdim=True).expand(channels, -1, -1).contiguous()
    return Preprocessor(changed, image)


USUAL_CROP = 0.875  # share of the shorter side


def stated_preprocess(weights: Weights, spec: ModelSpec) -> Preprocess:
    """The preprocessing that a file states; ImageNet's for what it does not state."""
    assumed = _assumed(weights.source, spec)
    seen = dict(weights.stored.preprocess)
    crop_pct = seen.pop("crop_pct", None)
    for name in ("mean", "std"):
        if name in seen and len(seen[name]) != assumed.channels:
            raise ConfigError(
                f"{weights.source}: states {name} {seen[name]} for images of {assumed.channels}"
                " channels"
            )
    if crop_pct is not None or ("size" in seen and "resize" not in seen):
        seen["resize"] = resized(seen.get("size", assumed.size), crop_pct or USUAL_CROP)
    return replace(assumed, **seen)


def _assumed(source: str, spec: ModelSpec) -> Preprocess:
    """The usual preprocessing: ImageNet's constants, at the size of the stem."""
    channels = spec.in_channels
    if channels not in (1, 3):
        raise ConfigError(f"{source}: takes {channels} channels; images have 1 (gray) or 3 (RGB)")
    small = spec.stem == "cifar"
    size = CIFAR_SIZE if small else spec.input_size
    return Preprocess(
        size=size,
        resize=size if small else round(IMAGENET_RESIZE * size),
        channels=channels,
        mean=IMAGENET_MEAN if channels == 3 else IMAGENET_GRAY_MEAN,
        std=IMAGENET_STD if channels == 3 else IMAGENET_GRAY_STD,
    )
