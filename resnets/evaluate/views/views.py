"""What a net is shown of a picture at test time, and how the scores of several views become one.

The paper tests with ten crops where it compares with others (section 3.4, Tables 2 and 3) and
fully convolutionally at five scales for its best results (Tables 4 and 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from resnets.config import ConfigError, Preprocess
from resnets.models import ImageClassifier
from resnets.models.vgg import VGG

Kind = Literal["center", "ten-crop", "dense"]
Average = Literal["probabilities", "logits"]
PAPER_SIZE, PAPER_SCALES = 224, (224, 256, 384, 480, 640)  # section 3.4
CROPS = {"center": 1, "ten-crop": 5, "dense": 1}  # pictures cut at each scale, before flips
SHOWN = {
    "center": "centre crop",
    "ten-crop": "corners and centre",
    "dense": "whole picture up to 4:1",
}
LONGEST = 4  # a dense picture's longer side over its shorter one; memory is bounded by it


@dataclass(frozen=True)
class Views:
    """Views of each picture, at each of `scales` (shorter sides in px; empty = the net's own).

    "centre": the centre crop. "ten-crop": the four corners and the centre, and all of them
    flipped (Krizhevsky et al. 2012, section 4.1). "dense": the whole rescaled picture, with the
    net applied to it as convolutions throughout; of a picture longer than 4:1 the middle. `flip`
    adds each view's mirror image.
    """

    kind: Kind = "center"
    scales: tuple[int, ...] = ()
    flip: bool = False

    def __post_init__(self) -> None:
        if len(set(self.scales)) < len(self.scales) or any(side < 1 for side in self.scales):
            raise ConfigError(
                f"--scales {','.join(map(str, self.scales))}: shorter sides in pixels, each once,"
                " such as 224,256,384"
            )
        if self.flip and self.kind == "ten-crop":
            raise ConfigError("--flip: ten-crop shows each crop flipped already; leave it out")

    @property
    def flipped(self) -> bool:
        """Whether each cut is shown flipped too."""
        return self.flip or self.kind == "ten-crop"

    def sides(self, preprocess: Preprocess) -> tuple[int, ...]:
        """Shorter sides in px for a net of this preprocessing.

        A dense net's own are the paper's five, in proportion to the size it was trained at.
        """
        if self.scales:
            return self.scales
        if self.kind == "dense":
            return tuple(round(side * preprocess.size / PAPER_SIZE) for side in PAPER_SCALES)
        return (preprocess.resize,)

    def count(self, preprocess: Preprocess) -> int:
        """Views of a picture, flips included."""
        return len(self.sides(preprocess)) * CROPS[self.kind] * (1 + self.flipped)

    def check(self, net: ImageClassifier) -> None:
        """Raise ConfigError where a scale is too small for the net."""
        spec: Preprocess = net.preprocess.spec
        if self.kind == "dense":
            least = net.spec.input_size if isinstance(net, VGG) else 1
            need = "fully connected layers span"
        else:
            least, need = spec.size, "crops have"
        if min(self.sides(spec)) < least:
            raise ConfigError(
                f"--scales {min(self.sides(spec))}: {net.spec.name}'s {need} {least} px;"
                " name no smaller scale"
            )

    def describe(self, preprocess: Preprocess, average: Average) -> str:
        """The views' part of a protocol.

        >>> Views(flip=True).describe(Preprocess(size=32, resize=40), "logits")
        '2 views (centre crop at shorter side 40 px, each flipped; logits averaged), 32x32 px'
        """
        sides, count = self.sides(preprocess), self.count(preprocess)
        words = []
        if count > 1 or sides != (preprocess.size,):
            what = SHOWN[self.kind]
            listed = f"side{'s' if len(sides) > 1 else ''} {', '.join(map(str, sides))} px"
            words = [f"{what} at shorter {listed}" + (", each flipped" if self.flipped else "")]
        if count > 1:
            words.append(f"{average} averaged")
        text = f"{count} view{'s' if count > 1 else ''}"
        text += f" ({'; '.join(words)})" if words else ""
        if self.kind == "dense":
            return f"{text}, fully convolutional, logits averaged over positions"
        return f"{text}, {preprocess.size}x{preprocess.size} px"


def average_scores(logits: Tensor, how: Average) -> Tensor:
    """Scores (..., K) of V views or nets, (V, ..., K), as logits of one.

    "probabilities" averages after the softmax, as Krizhevsky et al. 2012 (section 4.1) do over
    crops and Simonyan and Zisserman 2015 (sections 3.2, 4.2) over flips and scales, and returns the
    logarithm; "logits" averages before it.
    """
    if how == "logits" or len(logits) == 1:
        return logits.mean(0)
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def logits_of(model: Callable[[Tensor], Tensor], images: Tensor, *, precision: str) -> Tensor:
    """Logits (B, K) float32 of normalised `images` (B, C, H, W), computed in `precision`.

    `precision` is "float32" or "bfloat16" (autocast).
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = model(images.contiguous(memory_format=torch.channels_last))
    return logits.float()
