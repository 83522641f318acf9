"""`Detector`: Faster R-CNN and Mask R-CNN with the stages of a network as backbone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from resnets.config import ConfigError, DetectSpec
from resnets.detect.data.masks import encode_masks
from resnets.detect.data.types import Detections, DetectionSplit
from resnets.detect.metrics.meters import ObjectMeter
from resnets.detect.models.base import DetectionModel, InferenceOptions
from resnets.detect.models.inference import DetectionInference
from resnets.detect.models.layers import (
    Pyramid,
    Tail,
    pad,
    proposal_network,
    region_pooler,
    remove_head,
    stage_channels,
    stage_strides,
)
from resnets.detect.models.roi_heads import RegionHeads
from resnets.detect.outputs import ObjectsOutput
from resnets.models import ImageClassifier
from resnets.utils.machine.environment import copy_to_host

MASK_WIDTH, MASK_DEPTH, MASK_SIZE = 256, 4, 14  # He et al. 2017, Fig. 4
MASK_THRESHOLD = 0.5  # minimum probability of a pixel of the object (He et al. 2017)


class Detector(DetectionModel):
    """Faster R-CNN (Ren et al. 2015) on `net`; with `masks`, Mask R-CNN (He et al. 2017).

    - head "c4": all stages except the last are shared by proposals and regions; the last stage and
      the layers after it run on each region (the paper, appendix A; for VGG: fc6 and fc7).
    - head "fpn": a feature pyramid on the stages, and two linear layers on each region.

    Both parts are trained together (approximate joint training: proposals are constants), or one of
    them (`spec.train_part`) as in the four steps of Ren et al. 2015; the other is frozen.

    The network loses its classification head. Images may have any size. proposer: a frozen detector
    whose proposals replace those of `rpn`.
    """

    kind = "detector"

    def __init__(
        self,
        net: ImageClassifier,
        spec: DetectSpec,
        num_classes: int,
        masks: bool = False,
        proposer: Detector | None = None,
    ) -> None:
        if spec.head not in ("c4", "fpn"):
            raise ConfigError(f"detect.head: {spec.head!r} cannot predict boxes; use fpn or c4")
        remove_head(net, stages_only=spec.head == "fpn")
        super().__init__(net, spec, num_classes)
        self.pyramid = Pyramid(net.spec, spec) if spec.head == "fpn" else None
        if self.pyramid is None:
            channels, strides, levels = *_shared_map(net), 1
        else:
            channels, strides = spec.pyramid_width, self.pyramid.strides
            levels = len(strides) + 1
        self.rpn = proposal_network(spec, channels, levels)
        self.roi_heads = _build_region_heads(net, spec, channels, strides, num_classes)
        if masks:
            _add_mask_head(self.roi_heads, net, spec, channels, strides, num_classes)
        self.proposer = None if proposer is None else proposer.requires_grad_(False)
        # A tuple, so that modules are not registered twice.
        self._frozen = tuple(_frozen_modules(self))
        for part in self._frozen:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Detector:
        """Set the training mode of all modules that are not frozen."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        if self.proposer is not None:
            self.proposer.eval()
        return self

    @property
    def masks(self) -> bool:
        """True if it predicts masks."""
        return self.roi_heads.has_mask()

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Return the feature maps for proposals and regions, for images (B, C, H, W)."""
        if self.pyramid is not None:
            return self.pyramid(self.net.stages(images))
        names = self.net.stage_names
        x = self.net.stages(images, last=names[-2])[names[-2]]
        if self.net.spec.is_vgg:
            x = self.net.get_submodule(names[-1])[:-1](x)  # type: ignore[index]  # without its pool
        return {"0": x}

    def propose(self, images: ImageList, features: dict[str, Tensor]) -> list[Tensor]:
        """Return boxes (R, 4) of each padded image, best first, in its px."""
        if self.proposer is not None:
            return self.proposer.propose(images, self.proposer.features(images.tensors))
        return self.rpn(images, features)[0]

    def forward(
        self, images: Sequence[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> Any:
        """Return losses by name in training, otherwise boxes, scores, labels (and masks) per image.

        Args:
            images: (C, H, W) float32 each, normalized.
            targets: In training: dicts of boxes (M, 4), labels (M,) from 1 and, for Mask R-CNN,
                masks (M, H, W).

        Boxes are in px of these images. Masks are (D, 1, 28, 28) probabilities, which must be
        pasted into their boxes.
        """
        padded = pad(images)
        features = self.features(padded.tensors)
        if not self.training:
            return self.roi_heads(features, self.propose(padded, features), padded.image_sizes)[0]
        if self.spec.train_part == "all":
            proposals, proposal_losses = self.rpn(padded, features, targets)
        elif self.spec.train_part == "proposals":
            return self.rpn(padded, features, targets)[1]
        else:
            proposals, proposal_losses = self._propose_frozen(padded, features, targets), {}
        _, region_losses = self.roi_heads(features, proposals, padded.image_sizes, targets)
        return proposal_losses | region_losses

    @torch.no_grad()
    def _propose_frozen(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        targets: list[dict[str, Tensor]] | None,
    ) -> list[Tensor]:
        """Return boxes on which regions are trained, from a frozen RPN."""
        proposer = self.proposer or self
        if proposer is not self:
            features = proposer.features(images.tensors)
        proposer.rpn.train()  # training mode returns as many boxes as for training
        boxes: list[Tensor] = proposer.rpn(images, features, targets)[0]
        proposer.rpn.eval()
        return boxes

    def infer(
        self,
        images: Tensor,
        sizes: Sequence[tuple[int, int]],
        others: Sequence[Detector] = (),
        options: InferenceOptions = InferenceOptions(),  # noqa: B008 (frozen)
        scores: Tensor | None = None,
    ) -> list[ObjectsOutput]:
        """See `DetectionModel`."""
        inference = DetectionInference((self, *others), options.refine, options.scales)
        found = _copy_detections(inference(list(images)))
        return [
            self.to_output(each, images.shape[-2:], size)
            for each, size in zip(found, sizes, strict=True)
        ]

    def outputs(self, image: Tensor, size: Tensor) -> dict[str, Tensor]:
        """See `DetectionModel`: boxes (D, 4), scores (D,), labels (D,) from 1, and masks."""
        images = ImageList(image, [(size[0], size[1])])
        features = self.features(image)
        proposals = self.propose(images, features)
        found: dict[str, Tensor]
        (found,) = self.roi_heads(features, proposals, images.image_sizes)[0]
        return found

    @staticmethod
    def to_output(
        found: Mapping[str, Tensor], shape: Sequence[int], size: tuple[int, int]
    ) -> ObjectsOutput:
        """See `DetectionModel`."""
        return ObjectsOutput(size, _to_detections(found, shape, size))

    def meter(self, split: DetectionSplit, others: Sequence[Detector] = ()) -> ObjectMeter:
        """See `DetectionModel`."""
        return ObjectMeter(masks=any(each.masks for each in (self, *others)))


def _frozen_modules(model: Detector) -> Iterator[nn.Module]:
    """Yield the frozen modules, by `train_part` and `freeze_shared`."""
    net, spec = model.net, model.spec
    names = net.stage_names if net.spec.is_vgg or spec.head == "fpn" else net.stage_names[:-1]
    shared_modules = [net.get_submodule(name) for name in names]
    if model.pyramid is not None:
        shared_modules.append(model.pyramid)
    if spec.freeze_shared:
        yield from shared_modules
    if spec.train_part == "regions":
        yield model.rpn
    elif spec.train_part == "proposals":
        yield model.roi_heads
        yield from (part for part in net.children() if part not in shared_modules)


def _shared_map(net: ImageClassifier) -> tuple[int, tuple[int, ...]]:
    """Return the channels and stride of the feature map that a C4 detector shares."""
    channels, strides = stage_channels(net.spec), stage_strides(net.spec)
    if len(channels) < 2:
        raise ConfigError(f"detect.head: c4 needs at least two stages; {net.spec.name} has one")
    names = tuple(channels)
    if net.spec.is_vgg:
        return channels[names[-1]], (strides[names[-2]],)
    return channels[names[-2]], (strides[names[-2]],)


def _build_region_heads(
    net: ImageClassifier,
    spec: DetectSpec,
    channels: int,
    strides: tuple[int, ...],
    num_classes: int,
) -> RegionHeads:
    """Return the pooling, head and predictor of regions."""
    size = _roi_size(net, spec)
    if spec.head == "c4":
        head: nn.Module = Tail(net)
        width = _tail_width(net)
    else:
        if spec.roi == "pool":
            raise ConfigError("detect.roi: a feature pyramid needs roi 'align'")
        width = spec.region_width
        head = TwoMLPHead(channels * size**2, width)
    predictor = FastRCNNPredictor(width * (2 if spec.context else 1), num_classes + 1)
    if spec.head == "c4":  # Fast R-CNN, section 2.3
        nn.init.normal_(predictor.cls_score.weight, std=0.01)
        nn.init.normal_(predictor.bbox_pred.weight, std=0.001)
        nn.init.zeros_(predictor.cls_score.bias)
        nn.init.zeros_(predictor.bbox_pred.bias)
    return RegionHeads(spec, region_pooler(spec.roi, strides, size), head, predictor)


def _roi_size(net: ImageClassifier, spec: DetectSpec) -> int:
    if spec.roi_size is not None:
        return spec.roi_size
    return 14 if spec.head == "c4" and not net.spec.is_vgg else 7


def _tail_width(net: ImageClassifier) -> int:
    """Return the length of the vector that `Tail` computes for a region."""
    if net.spec.is_vgg:
        return net.fc2.out_features  # type: ignore[union-attr, return-value]
    return net.spec.widths[-1] * net.spec.expansion


def _add_mask_head(
    heads: RegionHeads,
    net: ImageClassifier,
    spec: DetectSpec,
    channels: int,
    strides: tuple[int, ...],
    num_classes: int,
) -> None:
    """Add Mask R-CNN's mask branch (He et al. 2017, Fig. 4): left for C4, right for FPN."""
    if spec.head == "c4":
        if net.spec.is_vgg:
            raise ConfigError(
                "task 'instances': VGG's fully connected head has no feature map for masks; use a "
                "residual or plain network"
            )
        heads.mask_roi_pool = region_pooler(spec.roi, strides, _roi_size(net, spec))
        heads.mask_head = Tail(net, pooled=False)
        heads.mask_predictor = MaskRCNNPredictor(_tail_width(net), MASK_WIDTH, num_classes + 1)
        return
    heads.mask_roi_pool = region_pooler("align", strides, MASK_SIZE)
    heads.mask_head = MaskRCNNHeads(channels, [MASK_WIDTH] * MASK_DEPTH, 1)
    heads.mask_predictor = MaskRCNNPredictor(MASK_WIDTH, MASK_WIDTH, num_classes + 1)


def _copy_detections(found: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Copy the detections of a batch to the CPU at once.

    Labels pass through float32, which is exact for such small integers.
    """
    names = list(found[0])
    values = iter(copy_to_host([each[name].float() for each in found for name in names]))
    host = [{name: next(values) for name in names} for _ in found]
    return [{**each, "labels": each["labels"].long()} for each in host]


def _to_detections(
    found: Mapping[str, Tensor], shape: Sequence[int], stored: tuple[int, int]
) -> Detections:
    """Convert detections in an image of `shape` (h, w) to the stored image of `stored` (H, W)."""
    scale = torch.tensor([stored[1] / shape[1], stored[0] / shape[0]] * 2)
    boxes = found["boxes"].float() * scale
    detections = Detections(
        boxes=boxes.numpy(),
        scores=found["scores"].float().clone().numpy(),
        labels=found["labels"].numpy().astype(np.int64) - 1,
    )
    if "masks" in found:
        detections["masks"] = _encode_masks(found["masks"].float(), boxes, stored)
    return detections


def _encode_masks(
    masks: Tensor, boxes: Tensor, stored: tuple[int, int]
) -> Sequence[dict[str, object]]:
    """Paste and encode masks one by one: a hundred of a large image would take gigabytes."""
    runs: list[dict[str, object]] = []
    for mask, box in zip(masks, boxes, strict=True):
        pasted = paste_masks_in_image(mask[None], box[None], stored)[:, 0] > MASK_THRESHOLD
        runs += encode_masks(pasted.numpy())
    return runs
