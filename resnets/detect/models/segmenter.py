"""`Segmenter`: a class for every pixel, by an FCN or DeepLabV3 head on dilated stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from resnets.config import ConfigError, DetectSpec
from resnets.detect.data.types import IGNORE, DetectionSplit
from resnets.detect.metrics.meters import SegmentationMeter
from resnets.detect.models.base import DetectionModel, InferenceOptions
from resnets.detect.models.layers import behead, stage_channels, to_float32
from resnets.detect.models.to_stored import class_map
from resnets.detect.outputs import PixelsOutput
from resnets.models import ImageClassifier


class Segmenter(DetectionModel):
    """A network whose last stages dilate (`ModelSpec.dilate`) and a head on its last stage.

    head "fcn": Long et al. 2015; "deeplabv3": Chen et al. 2017. With `spec.aux_loss_weight`, a
    second FCN head on the stage before helps training. Scores are enlarged to the image's size.
    """

    divisor: ClassVar[int] = 1

    def __init__(self, net: ImageClassifier, spec: DetectSpec, num_classes: int) -> None:
        if spec.head not in ("fcn", "deeplabv3"):
            raise ConfigError(f"detect.head: {spec.head!r} labels no pixels; use fcn or deeplabv3")
        behead(net, stages_only=True)
        super().__init__(net, spec, num_classes)
        channels = list(stage_channels(net.spec).values())
        make = FCNHead if spec.head == "fcn" else DeepLabHead
        self.classifier = make(channels[-1], num_classes)
        helped = spec.aux_loss_weight > 0 and len(channels) > 1
        self.aux_classifier = FCNHead(channels[-2], num_classes) if helped else None

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Any:
        """Scores (B, K, H, W) of images (B, C, H, W); with `targets` the losses by name.

        targets: (B, H, W) int64; 255 counts for nothing.
        """
        size = images.shape[-2:]
        stages = self.net.stages(images)
        scores = self._scores(self.classifier, stages[self.net.stage_names[-1]], size)
        if targets is None:
            return scores
        losses = {"loss_pixels": _pixel_loss(scores, targets)}
        if self.aux_classifier is not None:
            helper = self._scores(self.aux_classifier, stages[self.net.stage_names[-2]], size)
            losses["loss_auxiliary"] = self.spec.aux_loss_weight * _pixel_loss(helper, targets)
        return losses

    def infer(
        self,
        image: Tensor,
        size: tuple[int, int],
        others: Sequence[Segmenter] = (),
        options: InferenceOptions = InferenceOptions(),  # noqa: B008 (frozen)
        scores: Tensor | None = None,
    ) -> PixelsOutput:
        """See `DetectionModel`; probabilities of an ensemble are averaged."""
        with torch.no_grad():
            each = [model(image[None])[0].softmax(0) for model in (self, *others)]
        found = {"probabilities": torch.stack(each).mean(0)}
        return self.to_output(found, image.shape[-2:], size)

    def outputs(self, image: Tensor, size: Tensor) -> dict[str, Tensor]:
        """See `DetectionModel`: probabilities (K, H, W)."""
        return {"probabilities": self(image)[0].softmax(0)}

    @staticmethod
    def to_output(
        found: Mapping[str, Tensor], shape: Sequence[int], size: tuple[int, int]
    ) -> PixelsOutput:
        """See `DetectionModel`."""
        return PixelsOutput.of(class_map(found["probabilities"], size))

    def meter(self, split: DetectionSplit, others: Sequence[Segmenter] = ()) -> SegmentationMeter:
        """See `DetectionModel`."""
        return SegmentationMeter(split)

    def _scores(self, head: nn.Module, features: Tensor, size: torch.Size) -> Tensor:
        return F.interpolate(to_float32(head(features)), size=size, mode="bilinear")


def _pixel_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over pixels that count; 0 where none does."""
    counted = targets.ne(IGNORE).sum().clamp(min=1)
    return F.cross_entropy(scores, targets, ignore_index=IGNORE, reduction="sum") / counted
