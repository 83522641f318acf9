"""Layers of detectors apart from the backbone: padding, pyramid, proposals, region pooling."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import (
    FeaturePyramidNetwork,
    MultiScaleRoIAlign,
    RoIPool,
    clip_boxes_to_image,
    roi_align,
)
from torchvision.ops._utils import convert_boxes_to_roi_format
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from resnets.config import ConfigError, DetectSpec, ModelSpec
from resnets.detect.models.export_ops import best_boxes, pool_regions
from resnets.detect.models.sampling import (
    BoxCoder,
    BoxMatcher,
    BoxSampler,
    nms_by_group,
    rows_of,
)
from resnets.models import ImageClassifier

DIVISOR = 32  # images of a batch are padded to multiples of this, as torchvision does
CANONICAL = (224, 4)  # a region of 224 px is pooled at stride 2**4 (Lin et al. 2017, eq. 1)
C4_CANDIDATES = (12_000, 6_000)  # boxes before suppression in training, at test (Ren et al. 2015)


def pad(images: Sequence[Tensor]) -> ImageList:
    """Pad images (C, H, W) of any sizes with zeros at right and bottom into one batch."""
    assert len(images)
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    height, width = (-(-max(side) // DIVISOR) * DIVISOR for side in zip(*sizes, strict=True))
    batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    batch = batch.contiguous(memory_format=torch.channels_last)
    for slot, image in zip(batch, images, strict=True):
        slot[:, : image.shape[-2], : image.shape[-1]] = image
    return ImageList(batch, sizes)


def clip_boxes(boxes: Tensor, size: Sequence[Any]) -> Tensor:
    """Clip boxes (..., 4) to an image of `size` (H, W); tensors during export."""
    if not isinstance(size[0], Tensor):
        return clip_boxes_to_image(boxes, (size[0], size[1]))
    limits = torch.stack([size[1], size[0]] * 2)
    return torch.minimum(boxes.clamp(min=0), limits.to(boxes.dtype))


def rescale(images: Tensor, factor: float) -> Tensor:
    """Resize images (..., C, H, W) by `factor`, bilinear and antialiased."""
    size = tuple(max(1, round(side * factor)) for side in images.shape[-2:])
    batch = images.reshape(-1, *images.shape[-3:])
    scaled = F.interpolate(batch, size=size, mode="bilinear", antialias=True)
    return scaled.reshape(*images.shape[:-2], *size)


def remove_head(net: ImageClassifier, *, stages_only: bool) -> None:
    """Remove the network's classification head; with `stages_only`, all layers after the stages."""
    net.head = nn.Identity()  # type: ignore[assignment]
    if stages_only and net.spec.is_vgg:
        net.fc1, net.fc2 = nn.Identity(), nn.Identity()
    elif stages_only:
        net.norm = None  # type: ignore[assignment]  # final norm of pre-activation networks


def to_float32(x: Tensor) -> Tensor:
    """Cast to float32: boxes and logits exceed the eight bits of bfloat16."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def stage_strides(spec: ModelSpec) -> dict[str, int]:
    """Return the stride of each named stage of the network `spec`, in pixels of its input."""
    if spec.is_vgg:
        return {f"stage{index + 1}": 2 ** (index + 1) for index in range(len(spec.depths))}
    stride = 1 if spec.stem == "cifar" else 4
    strides = {"stem": stride}
    for index in range(len(spec.depths)):
        if 0 < index < len(spec.depths) - spec.dilate:
            stride *= 2
        strides[f"stage{index + 1}"] = stride
    return strides


def stage_channels(spec: ModelSpec) -> dict[str, int]:
    """Return the channels of each stage of blocks of the network `spec`."""
    return {f"stage{i + 1}": width * spec.expansion for i, width in enumerate(spec.widths)}


class Pyramid(nn.Module):
    """Feature pyramid on the stages of a network (Lin et al. 2017), and one pooled level.

    `levels` are the names of its inputs; `strides` those of its outputs except the pooled one.
    """

    def __init__(self, net: ModelSpec, spec: DetectSpec) -> None:
        super().__init__()
        strides, channels = stage_strides(net), stage_channels(net)
        finest = 1 if net.stem == "cifar" else 4
        first = spec.pyramid_from or next(
            i + 1 for i, name in enumerate(channels) if strides[name] >= finest
        )
        if first > len(channels):
            raise ConfigError(
                f"detect.pyramid_from: {first}, but {net.name} has {len(channels)} stages"
            )
        self.levels = tuple(channels)[first - 1 :]
        self.strides = tuple(strides[name] for name in self.levels)
        self.fpn = FeaturePyramidNetwork(
            [channels[name] for name in self.levels],
            spec.pyramid_width,
            extra_blocks=LastLevelMaxPool(),
        )

    def forward(self, stages: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return maps (B, width, H / stride, W / stride) called "0", "1", ... and "pool"."""
        return self.fpn(OrderedDict((str(i), stages[name]) for i, name in enumerate(self.levels)))


class ProposalHead(RPNHead):
    """torchvision's RPN head with float32 outputs at any precision."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return objectness (B, A, H, W) and offsets (B, 4A, H, W) of each map."""
        logits, offsets = super().forward(x)
        return [to_float32(each) for each in logits], [to_float32(each) for each in offsets]


class ProposalNetwork(RegionProposalNetwork):
    """torchvision's RPN with fewer host-device synchronizations (`sampling`).

    During export it returns a fixed number of boxes, padded with empty ones.
    """

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the boxes of each image, best first, and the losses in training."""
        if not torch.compiler.is_exporting():
            return super().forward(images, features, targets)
        maps = list(features.values())
        logits, offsets = self.head(maps)
        found = [
            self._best_of_map(images, logits[level], offsets[level], level)
            for level in range(len(maps))
        ]
        boxes, scores = (torch.cat(each) for each in zip(*found, strict=True))
        return [boxes[scores.topk(self.post_nms_top_n())[1]]], {}

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return boxes and scores of each image, best first, from (B, N, 4) and logits (B * N, 1).

        Synchronizes once for all images, and for each suppression of overlaps.
        """
        device = proposals.device
        logits = objectness.detach().reshape(len(proposals), -1)
        levels = torch.cat(
            [
                torch.full((count,), level, dtype=torch.int64, device=device)
                for level, count in enumerate(num_anchors_per_level)
            ]
        ).expand_as(logits)
        best = self._get_top_n_idx(logits, num_anchors_per_level)
        image = torch.arange(len(proposals), device=device)[:, None]
        logits, levels, proposals = logits[image, best], levels[image, best], proposals[image, best]
        scores = logits.sigmoid()
        clipped = [clip_boxes(*each) for each in zip(proposals, image_shapes, strict=True)]
        boxes = torch.stack(clipped)
        is_large = (boxes[..., 2:] - boxes[..., :2] >= self.min_size).all(-1)
        rows = rows_of(list(is_large & (scores >= self.score_thresh)))
        found_boxes, found_scores = [], []
        for index, kept in enumerate(rows):
            of_image = boxes[index][kept], scores[index][kept], levels[index][kept]
            top = nms_by_group(*of_image, self.nms_thresh)[: self.post_nms_top_n()]
            found_boxes.append(of_image[0][top])
            found_scores.append(of_image[1][top])
        return found_boxes, found_scores

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return labels (N,): 1 object, 0 background, -1 ignored, and the target boxes (N, 4)."""
        labels, boxes = [], []
        for each, target in zip(anchors, targets, strict=True):
            if target["boxes"].numel() == 0:
                labels.append(each.new_zeros(len(each), dtype=torch.float32))
                boxes.append(each.new_zeros(each.shape, dtype=torch.float32))
                continue
            matched = self.proposal_matcher(self.box_similarity(target["boxes"], each))
            is_ignored = matched == self.proposal_matcher.BETWEEN_THRESHOLDS
            labels.append((matched >= 0).float().masked_fill(is_ignored, -1.0))
            boxes.append(target["boxes"][matched.clamp(min=0)])
        return labels, boxes

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return the objectness and box losses of the sampled anchors; synchronizes once."""
        starts = itertools.accumulate((len(each) for each in labels[:-1]), initial=0)
        sampled = [
            (positive + start, negative + start)
            for (positive, negative), start in zip(self.fg_bg_sampler(labels), starts, strict=True)
        ]
        positive, negative = (torch.cat(each) for each in zip(*sampled, strict=True))
        rows = torch.cat([positive, negative])
        box_loss = F.smooth_l1_loss(
            pred_bbox_deltas[positive],
            torch.cat(regression_targets)[positive],
            beta=1 / 9,
            reduction="sum",
        ) / len(rows)
        loss = F.binary_cross_entropy_with_logits(
            objectness.flatten()[rows], torch.cat(labels)[rows]
        )
        return loss, box_loss

    def _best_of_map(
        self, images: ImageList, logits: Tensor, offsets: Tensor, level: int
    ) -> tuple[Tensor, Tensor]:
        """Return boxes (P, 4) and scores (P,) of one image's anchors (1, A, H, W) on a map."""
        num_anchors, (height, width) = logits.shape[1], logits.shape[-2:]
        num_candidates = self.pre_nms_top_n()
        # Anchors are ordered by row, column and kind; padded, because there may be too few.
        flat_logits = logits[0].permute(1, 2, 0).reshape(-1)
        best, rows = F.pad(flat_logits, (0, num_candidates), value=-torch.inf).topk(num_candidates)
        flat_offsets = offsets[0].unflatten(0, (num_anchors, 4)).permute(2, 3, 0, 1).reshape(-1, 4)
        cells = torch.div(rows, num_anchors, rounding_mode="floor")
        cell_rows = torch.div(cells, width, rounding_mode="floor")
        y = cell_rows * (images.tensors.shape[-2] // height)
        x = (cells - cell_rows * width) * (images.tensors.shape[-1] // width)
        shapes = self.anchor_generator.cell_anchors[level][rows % num_anchors]
        anchors = shapes + torch.stack([x, y, x, y], 1)
        decoded = self.box_coder.decode_single(
            F.pad(flat_offsets, (0, 0, 0, num_candidates))[rows], anchors
        )
        boxes = clip_boxes(decoded, images.image_sizes[0])[None]
        best_found = best_boxes(
            boxes, best.sigmoid()[None], self.nms_thresh, 0.0, self.post_nms_top_n()
        )
        return best_found[0], best_found[1]


def proposal_network(spec: DetectSpec, channels: int, levels: int) -> RegionProposalNetwork:
    """Return an RPN (Ren et al. 2015) on `levels` maps of `channels`."""
    if spec.head == "c4":
        sizes: tuple[tuple[int, ...], ...] = (spec.anchor_sizes,)
        candidates = C4_CANDIDATES
    else:
        if len(spec.anchor_sizes) != levels:
            raise ConfigError(
                f"detect.anchor_sizes: {spec.anchor_sizes} are {len(spec.anchor_sizes)} sizes; "
                f"this pyramid has {levels} levels and takes one size for each"
            )
        sizes = tuple((size,) for size in spec.anchor_sizes)
        candidates = (spec.proposals[0], spec.proposals[1])
    anchors = AnchorGenerator(sizes, (spec.anchor_ratios,) * len(sizes))
    network = ProposalNetwork(
        anchors,
        ProposalHead(channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=spec.rpn_batch_size,
        positive_fraction=0.5,
        pre_nms_top_n={"training": candidates[0], "testing": candidates[1]},
        post_nms_top_n={"training": spec.proposals[0], "testing": spec.proposals[1]},
        nms_thresh=0.7,
    )
    network.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    network.proposal_matcher = BoxMatcher(0.7, 0.3, allow_low_quality_matches=True)
    network.fg_bg_sampler = BoxSampler(spec.rpn_batch_size, 0.5)
    return network


class MaxPooler(nn.Module):
    """RoI max pooling (Girshick 2015) from the single feature map of a C4 detector."""

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.pool = RoIPool(size, 1 / stride)

    def forward(
        self, features: dict[str, Tensor], boxes: list[Tensor], _sizes: list[tuple[int, int]]
    ) -> Tensor:
        """Return (R, C, size, size) for the R boxes (px) of all images."""
        (feature,) = features.values()
        return self.pool(to_float32(feature), boxes).to(feature.dtype)


class RegionAlign(MultiScaleRoIAlign):
    """torchvision's RoIAlign on several maps; exportable, synchronizes once on a GPU."""

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Return (R, C, size, size) for the R boxes (px) of all images."""
        maps = [x[name] for name in self.featmap_names]
        if len(maps) == 1 and not torch.compiler.is_exporting():
            return super().forward(x, boxes, image_shapes)
        levels = self.map_levels(boxes)
        if torch.compiler.is_exporting():
            return pool_regions(
                maps, boxes[0], levels, self.scales, self.output_size[0], self.sampling_ratio
            )
        regions = convert_boxes_to_roi_format(boxes)
        pooled = maps[0].new_zeros(len(regions), maps[0].shape[1], *self.output_size)
        rows_by_level = rows_of([levels == level for level in range(len(maps))])
        for each, scale, rows in zip(maps, self.scales, rows_by_level, strict=True):
            found = roi_align(each, regions[rows], self.output_size, scale, self.sampling_ratio)
            pooled[rows] = found.to(pooled.dtype)
        return pooled


def region_pooler(kind: str, strides: Sequence[int], size: int) -> nn.Module:
    """Return the module that pools regions to `size` x `size` from maps with `strides`."""
    if kind == "pool":
        assert len(strides) == 1
        return MaxPooler(size, strides[0])
    names = [str(index) for index in range(len(strides))]
    pooler = RegionAlign(names, size, 2)
    # Set explicitly: torchvision infers strides from sizes, which fails on small padded images.
    pooler.scales = [1 / stride for stride in strides]
    low, high = (stride.bit_length() - 1 for stride in (strides[0], strides[-1]))
    pooler.map_levels = LevelMapper(low, high, *CANONICAL)
    return pooler


class Tail(nn.Module):
    """The part of the network that a C4 detector runs on each region (paper, appendix A).

    This is the last stage and the layers of `net.classify` before the head: pooling, or VGG's fc6
    and fc7. Without `pooled` it returns feature maps (R, C, H, W). The network is a module of the
    detector and only referenced here (in a tuple), so that no tensor is registered twice.
    """

    def __init__(self, net: ImageClassifier, pooled: bool = True) -> None:
        super().__init__()
        self._net, self._pooled = (net,), pooled

    def forward(self, regions: Tensor) -> Tensor:
        """(R, C, h, w) -> (R, D)."""
        net = self._net[0]
        if not net.spec.is_vgg:
            regions = net.get_submodule(net.stage_names[-1])(regions)
        return net.classify(regions) if self._pooled else regions
