"""Determine a network's preprocessing and the position of its strides from a file.

Networks from Caffe (MSRA's, Detectron's, detectron2's model zoo) have inputs in BGR, 0..255 minus a
mean, and the stride of a bottleneck in its first 1x1. Those from torchvision have standardized RGB,
and the stride in the 3x3. Some libraries store both kinds under the same names; a network of one
kind used as the other loses accuracy without an error.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from resnets.config import ModelSpec, Preprocess
from resnets.weights.lazy_tensors import LazyTensor, reading_weights
from resnets.weights.name_maps.formats.caffe import DETECTRON_MEAN, caffe_preprocess

log = logging.getLogger("resnets")

MSRA = caffe_preprocess(DETECTRON_MEAN)  # detectron2's model zoo, unless a file specifies another
# Words in file names of such networks, for libraries that store them in torchvision's names.
CAFFE_STYLE = re.compile(r"(?i)caffe|msra|(?<![a-z])bgr(?![a-z])|detectron")
# Words of file names that name a network: family, layers, and the letter of a variant (ResNet-D).
NETWORK = re.compile(r"(?i)([a-z]*resne[a-z]*)[_-]?(\d+)([cdst](?![a-z]))?")
# Ratio of the variance of a first convolution's outputs to that for independent inputs of variance
# 1. Images are smooth, so it is below or near 1 for standardized ones; for values in 0..255 it is
# some 58^2 = 3,400 times as much.
RAW_INPUT = 100.0
CHOICE = (
    "if the file is of that kind, use --model NET-v1 (stride in the 1x1) and add the constants to"
    " it as tensors pixel_mean and pixel_std (docs/weights.md); if it is not, ignore this"
)

PIXEL_CONSTANTS = ("pixel_mean", "pixel_std")


@dataclass(frozen=True)
class InputConvention:
    """The preprocessing of a network, and the convolution of a bottleneck that has the stride."""

    preprocess: Preprocess
    stride_in: Literal["1x1", "3x3"]


def read_input_convention(
    contents: Mapping[str, LazyTensor], source: str, part: str | None = None
) -> InputConvention | None:
    """Return the convention of detectron2's `pixel_mean` and `pixel_std` in a file; None without.

    The order of the means determines that of the channels. In detectron2 a deviation of 1 is that
    of MSRA's networks, with the stride in the first 1x1; others have it in the 3x3.
    """
    with reading_weights(source):
        constants = pixel_constants(contents, "" if part is None else f"{part}.")
    if constants is None:
        return None
    mean, std = constants
    preprocess = Preprocess(
        mean=tuple(value / 255 for value in mean),
        std=tuple(value / 255 for value in std),
        channel_order="bgr" if mean[0] < mean[2] else "rgb",
    )
    convention = InputConvention(preprocess, "1x1" if set(std) == {1.0} else "3x3")
    log.info(
        "%s: from its pixel_mean %s and pixel_std %s: images in %s, stride of bottlenecks in the"
        " %s, as in detectron2 with such constants",
        source, _join(mean), _join(std), preprocess.channel_order.upper(), convention.stride_in,
    )  # fmt: skip
    return convention


def pixel_constants(
    tensors: Mapping[str, LazyTensor], prefix: str = ""
) -> tuple[list[float], list[float]] | None:
    """Return detectron2's `pixel_mean` and `pixel_std`, in 0..255, of names with `prefix`.

    None if they are missing or do not tell the order of the channels: the means of photographs grow
    from blue to red.
    """
    constants = []
    for leaf in PIXEL_CONSTANTS:
        tensor = next(
            (
                tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix) and name.rpartition(".")[2] == leaf and tensor.size == 3
            ),
            None,
        )
        if tensor is None:
            return None
        constants.append([float(value) for value in tensor.read().flatten()])
    mean, std = constants
    is_ordered = mean[0] < mean[1] < mean[2] or mean[0] > mean[1] > mean[2]
    is_valid = all(map(math.isfinite, (*mean, *std))) and min(mean) > 1 and min(std) > 0
    return (mean, std) if is_ordered and is_valid else None


def assume_input_convention(source: str) -> InputConvention:
    """Return that of detectron2's model zoo, for a detector that specifies none; logs a warning."""
    log.warning(
        "%s: a detectron2 detector without usable pixel_mean and pixel_std; assumed as in its model"
        " zoo: images in BGR, 0..255 minus %s, stride of bottlenecks in the first 1x1."
        " If it was trained from torchvision's weights (RGB, standardized, stride in the 3x3), add"
        " both constants to the file as tensors (docs/weights.md)",
        source, "/".join(map(str, DETECTRON_MEAN)),
    )  # fmt: skip
    return InputConvention(MSRA, "1x1")


def warn_about_detectron2(source: str, spec: ModelSpec) -> None:
    """Log a warning for a backbone in detectron2's names without its input convention."""
    stride = f", stride in the {spec.stride_in} (model.stride_in)" if spec.is_bottleneck else ""
    log.warning(
        "%s: detectron2's names tell neither the preprocessing nor where the stride is. Assumed:"
        " RGB, as for a network without stated preprocessing%s. Its model zoo (MSRA's networks) has"
        " BGR in 0..255 minus %s and the stride in the first 1x1; %s",
        source, stride, "/".join(map(str, DETECTRON_MEAN)), CHOICE,
    )  # fmt: skip


def warn_about_raw_input(
    source: str, kernel: torch.Tensor, running_var: torch.Tensor | None
) -> None:
    """Log a warning if file name or first layers suggest a Caffe network in other names.

    kernel: the first convolution (O, C, k, k); running_var: (O,), of the norm after it.
    """
    hint = CAFFE_STYLE.search(Path(source.partition("#")[0]).name)
    reason = f"its name has {hint[0]!r}" if hint else ""
    if running_var is not None and kernel.dim() == 4 and len(running_var) == len(kernel):
        power = kernel.double().pow(2).sum((1, 2, 3))
        ratio = float((running_var.double() / power.clamp(min=1e-12)).median())
        if ratio > RAW_INPUT:
            reason = f"its first norm had inputs some {ratio**0.5:,.0f} times as large as those of"
            reason += " standardized images"
    if reason:
        log.warning(
            "%s: may be a network from Caffe, with inputs in BGR, 0..255, and the stride of"
            " bottlenecks in the first 1x1 (%s); its names do not tell, and neither is assumed; %s",
            source, reason, CHOICE,
        )  # fmt: skip


def warn_about_file_name(source: str, spec: ModelSpec) -> None:
    """Log a warning if the name of a file names networks, but not the one that it is read as.

    Some networks have the tensors of another: resnetblur50 those of resnet50.
    """
    name = Path(source.partition("#")[0]).name
    words = {"".join(filter(None, match.groups())).lower() for match in NETWORK.finditer(name)}
    model = re.sub(r"[^a-z0-9]", "", spec.name.lower())
    if words and not any(word in model for word in words):
        log.warning(
            "%s: its name suggests %s, but it is read as %s, whose tensors it has; if it is of"
            " another network, outputs are wrong",
            source, ", ".join(sorted(words)), spec.name,
        )  # fmt: skip


def _join(values: Sequence[float]) -> str:
    return "/".join(f"{value:.6g}" for value in values)
