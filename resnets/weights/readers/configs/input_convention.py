"""What images a network wants and where its stride is, where names of tensors do not say it.

Networks that come from Caffe (MSRA's, Detectron's, detectron2's model zoo) take blue, green and red
in 0..255 less a mean, and have the stride of a bottleneck in its first 1x1. Those that come from
torchvision take red, green and blue, standardized, and have it in the 3x3. Some libraries keep both
kinds under the same names; a network of one kind used as the other loses accuracy without an error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from resnets.config import ModelSpec, Preprocess
from resnets.weights.lazy_tensors import LazyTensor, naming
from resnets.weights.name_maps.formats_caffe import DETECTRON_MEAN, caffe_preprocess
from resnets.weights.readers.configs.stored_config import pixel_constants

log = logging.getLogger("resnets")

MSRA = caffe_preprocess(DETECTRON_MEAN)  # detectron2's model zoo, unless a file says otherwise
# Words in the names of files of such networks, for libraries that keep them in torchvision's names.
CAFFE_STYLE = re.compile(r"(?i)caffe|msra|(?<![a-z])bgr(?![a-z])|detectron")
# Words of file names that name a network: family, layers, and a letter of its variant (ResNet-D).
NETWORK = re.compile(r"(?i)([a-z]*resne[a-z]*)[_-]?(\d+)([cdst](?![a-z]))?")
# The variance of a first convolution's outputs over that which inputs of variance 1, independent of
# each other, would give. Images are smooth, so it is below or near 1 for standardized ones; for
# values in 0..255 it is some 58^2 = 3,400 times as much.
RAW_INPUT = 100.0
CHOICE = (
    "where the file is of that kind, take --model NET-v1 (stride in the 1x1) and add the constants"
    " to it as tensors pixel_mean and pixel_std (docs/weights.md); where it is not, ignore this"
)


@dataclass(frozen=True)
class InputConvention:
    """The preprocessing of a network, and the convolution of a bottleneck that has its stride."""

    preprocess: Preprocess
    stride_in: Literal["1x1", "3x3"]


def stated_input(
    contents: Mapping[str, LazyTensor], source: str, part: str | None = None
) -> InputConvention | None:
    """What detectron2's `pixel_mean` and `pixel_std` in a file say; None where they say nothing.

    The order of the means tells that of the planes. In detectron2 a deviation of 1 is that of
    MSRA's networks, with the stride in the first 1x1; others have it in the 3x3.
    """
    with naming(source):
        constants = pixel_constants(contents, "" if part is None else f"{part}.")
    if constants is None:
        return None
    mean, std = constants
    preprocess = Preprocess(
        mean=tuple(value / 255 for value in mean),
        std=tuple(value / 255 for value in std),
        channel_order="bgr" if mean[0] < mean[2] else "rgb",
    )
    found = InputConvention(preprocess, "1x1" if set(std) == {1.0} else "3x3")
    log.info(
        "%s: its pixel_mean %s and pixel_std %s say: images in %s; stride of bottlenecks taken in"
        " the %s, as detectron2 has it with such constants",
        source, _listed(mean), _listed(std), preprocess.channel_order.upper(), found.stride_in,
    )  # fmt: skip
    return found


def assumed_input(source: str) -> InputConvention:
    """That of detectron2's model zoo, for a detector that does not say, with a warning."""
    log.warning(
        "%s: a detectron2 detector without pixel_mean and pixel_std that tell its input; assumed as"
        " in its model zoo: images in BGR, 0..255 less %s, stride of bottlenecks in the first 1x1."
        " If it was trained from torchvision's weights (RGB, standardized, stride in the 3x3), add"
        " both constants to the file as tensors (docs/weights.md)",
        source, "/".join(map(str, DETECTRON_MEAN)),
    )  # fmt: skip
    return InputConvention(MSRA, "1x1")


def warn_of_detectron2(source: str, spec: ModelSpec) -> None:
    """A warning on a backbone in detectron2's names that does not say how it was trained."""
    stride = f", stride in the {spec.stride_in} (model.stride_in)" if spec.is_bottleneck else ""
    log.warning(
        "%s: detectron2's names do not say what images it takes nor where its stride is. Taken:"
        " RGB, as for a network without stated preprocessing%s. Its model zoo (MSRA's networks) has"
        " BGR in 0..255 less %s and the stride in the first 1x1; %s",
        source, stride, "/".join(map(str, DETECTRON_MEAN)), CHOICE,
    )  # fmt: skip


def warn_of_raw_input(source: str, kernel: torch.Tensor, running_var: torch.Tensor | None) -> None:
    """A warning where file name or first layers suggest a Caffe network in another's names.

    kernel: the first convolution (O, C, k, k); running_var: (O,), of the norm after it.
    """
    hint = CAFFE_STYLE.search(Path(source.partition("#")[0]).name)
    why = f"its name has {hint[0]!r}" if hint else ""
    if running_var is not None and kernel.dim() == 4 and len(running_var) == len(kernel):
        power = kernel.double().pow(2).sum((1, 2, 3))
        ratio = float((running_var.double() / power.clamp(min=1e-12)).median())
        if ratio > RAW_INPUT:
            why = f"its first norm has seen inputs some {ratio**0.5:,.0f} times as large as those"
            why += " of standardized images"
    if why:
        log.warning(
            "%s: may be a network from Caffe, which takes BGR in 0..255 and has the stride of"
            " bottlenecks in the first 1x1 (%s); neither is known from its names, and neither is"
            " assumed; %s",
            source, why, CHOICE,
        )  # fmt: skip


def warn_of_other_name(source: str, spec: ModelSpec) -> None:
    """A warning where the name of a file names networks, but not the one it is read as.

    Some networks have the tensors of another: resnetblur50 those of resnet50.
    """
    name = Path(source.partition("#")[0]).name
    words = {"".join(filter(None, found.groups())).lower() for found in NETWORK.finditer(name)}
    model = re.sub(r"[^a-z0-9]", "", spec.name.lower())
    if words and not any(word in model for word in words):
        log.warning(
            "%s: its name says %s, and it is read as %s, whose tensors it has; where it is of"
            " another network, outputs are wrong",
            source, ", ".join(sorted(words)), spec.name,
        )  # fmt: skip


def _listed(values: Sequence[float]) -> str:
    return "/".join(f"{value:.6g}" for value in values)
