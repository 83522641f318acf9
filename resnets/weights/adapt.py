"""Adapt weights to other inputs: channels, the stem for 32 px, image size, preprocessing."""

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
from resnets.models import ImageClassifier
from resnets.weights.name_maps.formats.spec import Tensors
from resnets.weights.read import Weights
from resnets.weights.readers.configs.stored_config import shorter_side

log = logging.getLogger("resnets")

CIFAR_SIZE = 32  # px, for a 3x3 stem without pool
IMAGENET_RESIZE = 256 / 224  # shorter side over crop in the evaluation of ImageNet models
DEFAULT_CROP_PCT = 0.875  # crop over shorter side
STEM_KERNEL = 7  # px, of the ImageNet stem
STEM_STRIDE = 4  # of the ImageNet stem: 2 by its convolution, 2 by its pool


def adapt_input(weight: Tensor, in_channels: int) -> Tensor:
    """Return a first convolution (O, C, k, k) for `in_channels` instead of C input channels.

    For one channel the kernels are summed, which is exact for a gray image repeated C times. Else
    they are repeated in turn and scaled by C / in_channels, which keeps the size of the response.
    """
    old = weight.shape[1]
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    channels = torch.arange(in_channels) % old
    return weight[:, channels] * (old / in_channels)


def adapt_stem(weight: Tensor) -> Tensor:
    """Return the 3x3 kernel (O, C, 3, 3) of a CIFAR stem for the 7x7 kernel of an ImageNet stem.

    On a small image it gives what the 7x7 kernel gives at every fourth pixel of that image enlarged
    four times (the total stride of the ImageNet stem) by linear interpolation, so the following
    stages get maps like those of their training. Exact except at the border.
    """
    taps = torch.arange(-3, 4) / STEM_STRIDE  # of the 7x7 kernel, in pixels of the small image
    pixels = torch.arange(-1, 2)
    interpolation = (1 - (taps - pixels[:, None]).abs()).clamp(min=0).to(weight)  # (3, 7)
    return interpolation @ weight @ interpolation.T


def adapt_first_conv(net: ImageClassifier, tensors: Tensors, source: str) -> None:
    """Adapt the first convolution to the input channels and the stem of the model."""
    name = f"{net.input_layer}.weight"
    old, new = tensors[name].shape, net.state_dict()[name].shape
    if len(old) != len(new):
        return  # the caller raises an error
    if old[1:2] != new[1:2]:
        tensors[name] = adapt_input(tensors[name], new[1])
        log.info(
            "%s: first convolution adapted from %d to %d input channels", source, old[1], new[1]
        )
    if net.spec.stem == "cifar" and old[2:] == (STEM_KERNEL, STEM_KERNEL):
        tensors[name] = adapt_stem(tensors[name])
        log.info("%s: 7x7 kernel of the stem adapted to 3x3, for small images", source)


def check_size(
    weights: Weights, spec: ModelSpec, size: int, policy: Literal["near", "any"]
) -> None:
    """Compare the image size that weights were trained at with `size`, in px.

    Raises ConfigError if `policy` is "near" and the recipe's images are more than twice as large:
    the last feature maps of a CIFAR network at ImageNet's size are 56 px, not 8. Images less than
    half as large are logged, unless the stem is adapted to them.
    """
    trained_size = _training_size(weights, spec)
    if trained_size is None or policy == "any":
        return
    source = weights.source
    if size > 2 * trained_size:
        raise ConfigError(
            f"weights: {source} were trained on images of {trained_size} px, and this recipe trains"
            f" at {size} px; --set data.size={trained_size} --set data.resize={trained_size} trains"
            " at their size, --set weights_size=any at that of the recipe"
        )
    stem_adapted = spec.stem == "cifar" and STEM_STRIDE * size >= trained_size // 2
    if 2 * size < trained_size and not stem_adapted:
        log.info("%s: trained on images of %d px, now trained at %d px", source, trained_size, size)


def _training_size(weights: Weights, spec: ModelSpec) -> int | None:
    """Return the size in px of the images that `weights` were trained on; None if unknown."""
    if weights.spec is not None:  # preprocessing may be for a larger test size
        return weights.spec.input_size
    if weights.preprocess is not None:
        return weights.preprocess.spec.size
    return CIFAR_SIZE if weights.stem_kernel == 3 and spec.stem == "cifar" else None


def adapt_preprocess_to_model(
    preprocess: Preprocessor, spec: ModelSpec, stem_adapted: bool = False
) -> Preprocessor | None:
    """Adapt the `preprocess` of weights to the model `spec` that gets them.

    Returns None if the model has neither 1 nor 3 input channels. One channel gets the mean of
    three. With a CIFAR stem that was adapted from ImageNet's, images are of `spec.input_size` px.
    """
    if spec.in_channels not in (1, 3):
        return None
    if spec.in_channels != preprocess.spec.channels:
        preprocess = _change_channels(preprocess, spec.in_channels)
    if stem_adapted:
        return resize(preprocess, spec.input_size, spec.input_size)
    return preprocess


def adapt_preprocess_to_data(
    preprocess: Preprocessor, split: Split, data: DataSpec, channels: int
) -> Preprocessor:
    """Adapt the `preprocess` of weights to fine-tuning a model of `channels` on `split`.

    Mean, deviation, channel order and interpolation stay those of the weights; sizes are those of
    `data`. A split that is stored at its final size keeps the interpolation it was resized with.
    Raises ConfigError as `fit_preprocess`.
    """
    fitted = fit_preprocess(split, replace(data, normalize="imagenet"), channels).spec
    if channels != preprocess.spec.channels:
        preprocess = _change_channels(preprocess, channels)
    is_resized = isinstance(split, TensorSplit) and split.prepared is not None
    spec = replace(preprocess.spec, value_range=data.value_range)
    interpolation = fitted.interpolation if is_resized else None
    return resize(replace(preprocess, spec=spec), fitted.size, fitted.resize, interpolation)


def resize(
    preprocess: Preprocessor,
    size: int,
    shorter: int,
    interpolation: Literal["bilinear", "bicubic"] | None = None,
) -> Preprocessor:
    """Return `preprocess` with crops of `size` px of a shorter side of `shorter` px.

    A mean image of another size is replaced by its mean pixel.
    """
    interpolation = interpolation or preprocess.spec.interpolation
    spec = replace(preprocess.spec, size=size, resize=shorter, interpolation=interpolation)
    image = preprocess.mean_image
    if image is not None and image.shape[-1] != size:
        mean = tuple(image.mean((1, 2)).tolist())
        return Preprocessor(replace(spec, mean=mean, mean_image=False))
    return Preprocessor(spec, image)


def _change_channels(preprocess: Preprocessor, channels: int) -> Preprocessor:
    spec, image = preprocess.spec, preprocess.mean_image

    def average(values: tuple[float, ...]) -> tuple[float, ...]:
        return (sum(values) / len(values),) * channels

    changed: Preprocess = replace(
        spec, channels=channels, mean=average(spec.mean), std=average(spec.std), channel_order="rgb"
    )
    if image is not None:
        image = image.mean(0, keepdim=True).expand(channels, -1, -1).contiguous()
    return Preprocessor(changed, image)


def resolve_preprocess(weights: Weights, spec: ModelSpec) -> Preprocess:
    """Return the preprocessing of a file, completed with ImageNet's."""
    default = _default_preprocess(weights.source, spec)
    stated = dict(weights.stored_config.preprocess)
    crop_pct = stated.pop("crop_pct", None)
    for name in ("mean", "std"):
        if name in stated and len(stated[name]) != default.channels:
            raise ConfigError(
                f"{weights.source}: specifies {name} {stated[name]} for images of"
                f" {default.channels} channels"
            )
    if crop_pct is not None or ("size" in stated and "resize" not in stated):
        size = stated.get("size", default.size)
        stated["resize"] = shorter_side(size, crop_pct or DEFAULT_CROP_PCT)
    return replace(default, **stated)


def _default_preprocess(source: str, spec: ModelSpec) -> Preprocess:
    """Return the usual preprocessing: ImageNet's constants, at the size of the stem."""
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
