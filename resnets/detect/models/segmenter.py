"""`Segmenter`: a class for every pixel, with an FCN or DeepLabV3 head on dilated stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from resnets.config import ConfigError, DetectSpec
from resnets.detect.data.class_maps import IGNORE
from resnets.detect.data.types import DetectionSplit
from resnets.detect.metrics.meters import SegmentationMeter
from resnets.detect.models.base import DetectionModel, InferenceOptions
from resnets.detect.models.layers import remove_head, stage_channels, to_float32
from resnets.detect.outputs import PixelsOutput
from resnets.models import ImageClassifier
from resnets.utils.machine.environment import copy_to_host

MAX_VALUES = 1 << 27  # maximum number of values that are interpolated at once


class Segmenter(DetectionModel):
    """A network with dilated last stages (`ModelSpec.dilate`) and a head on the last stage.

    head "fcn": Long et al. 2015; "deeplabv3": Chen et al. 2017. With `spec.aux_loss_weight`, a
    second FCN head on the previous stage has an auxiliary loss. Scores are interpolated to the
    image size.
    """

    divisor: ClassVar[int] = 1

    def __init__(self, net: ImageClassifier, spec: DetectSpec, num_classes: int) -> None:
        if spec.head not in ("fcn", "deeplabv3"):
            raise ConfigError(
                f"detect.head: {spec.head!r} cannot predict class maps; use fcn or deeplabv3"
            )
        remove_head(net, stages_only=True)
        super().__init__(net, spec, num_classes)
        channels = list(stage_channels(net.spec).values())
        head_class = FCNHead if spec.head == "fcn" else DeepLabHead
        self.classifier = head_class(channels[-1], num_classes)
        has_auxiliary = spec.aux_loss_weight > 0 and len(channels) > 1
        self.aux_classifier = FCNHead(channels[-2], num_classes) if has_auxiliary else None

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Any:
        """Return scores (B, K, H, W) for images (B, C, H, W); with `targets`, the losses by name.

        targets: (B, H, W) int64; 255 = ignored.
        """
        size = images.shape[-2:]
        stages = self.net.stages(images)
        scores = self._scores(self.classifier, stages[self.net.stage_names[-1]], size)
        if targets is None:
            return scores
        losses = {"loss_pixels": _pixel_loss(scores, targets)}
        if self.aux_classifier is not None:
            auxiliary = self._scores(self.aux_classifier, stages[self.net.stage_names[-2]], size)
            losses["loss_auxiliary"] = self.spec.aux_loss_weight * _pixel_loss(auxiliary, targets)
        return losses

    def infer(
        self,
        images: Tensor,
        sizes: Sequence[tuple[int, int]],
        others: Sequence[Segmenter] = (),
        options: InferenceOptions = InferenceOptions(),  # noqa: B008 (frozen)
        scores: Tensor | None = None,
    ) -> list[PixelsOutput]:
        """See `DetectionModel`; probabilities of an ensemble are averaged."""
        with torch.no_grad():
            probabilities = [model(images).softmax(1) for model in (self, *others)]
            averaged = torch.stack(probabilities).mean(0)
            classes = [
                most_likely_classes(each, size) for each, size in zip(averaged, sizes, strict=True)
            ]
        return [PixelsOutput.of(each.numpy()) for each in copy_to_host(classes)]

    def outputs(self, image: Tensor, size: Tensor) -> dict[str, Tensor]:
        """See `DetectionModel`: probabilities (K, H, W)."""
        return {"probabilities": self(image)[0].softmax(0)}

    @staticmethod
    def to_output(
        found: Mapping[str, Tensor], shape: Sequence[int], size: tuple[int, int]
    ) -> PixelsOutput:
        """See `DetectionModel`."""
        return PixelsOutput.of(most_likely_classes(found["probabilities"], size).numpy())

    def meter(self, split: DetectionSplit, others: Sequence[Segmenter] = ()) -> SegmentationMeter:
        """See `DetectionModel`."""
        return SegmentationMeter(split)

    def _scores(self, head: nn.Module, features: Tensor, size: torch.Size) -> Tensor:
        return F.interpolate(to_float32(head(features)), size=size, mode="bilinear")


def _pixel_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy over pixels that are not ignored; 0 if there are none."""
    num_counted = targets.ne(IGNORE).sum().clamp(min=1)
    return F.cross_entropy(scores, targets, ignore_index=IGNORE, reduction="sum") / num_counted


def most_likely_classes(logits: Tensor, stored: tuple[int, int]) -> Tensor:
    """Return the most probable class (H, W) uint8 of each stored pixel, from logits (K, h, w)."""
    if logits.shape[0] * stored[0] * stored[1] <= MAX_VALUES:
        large = F.interpolate(logits[None].float(), stored, mode="bilinear", align_corners=False)
        return large[0].argmax(0).to(torch.uint8)
    height, width = stored
    shape = (logits.shape[1], width)
    widened = F.interpolate(logits[None].float(), shape, mode="bilinear", align_corners=False)[0]
    classes = logits.new_empty(stored, dtype=torch.uint8)
    rows = max(1, MAX_VALUES // (logits.shape[0] * width))
    for start in range(0, height, rows):
        band = interpolate_rows(widened, start, min(start + rows, height), height)
        classes[start : start + rows] = band.argmax(0)
    return classes


def interpolate_rows(planes: Tensor, start: int, stop: int, height: int) -> Tensor:
    """Interpolate planes (K, h, W) to `height` rows, bilinear: rows start..stop, (K, rows, W)."""
    source_height = planes.shape[1]
    rows = torch.arange(start, stop, device=planes.device, dtype=torch.float32)
    position = ((rows + 0.5) * (source_height / height) - 0.5).clamp(min=0)
    above = position.floor().long().clamp(max=source_height - 1)
    below = (above + 1).clamp(max=source_height - 1)
    weight = (position - above)[None, :, None]
    return torch.lerp(planes[:, above], planes[:, below], weight)
