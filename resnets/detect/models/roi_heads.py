"""`RegionHeads`: classes and boxes of proposed regions, the second stage of a detector."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import (
    RoIHeads,
    maskrcnn_inference,
    maskrcnn_loss,
)
from torchvision.ops import boxes as box_ops

from resnets.config import DetectSpec
from resnets.detect.models.export_ops import best_boxes
from resnets.detect.models.layers import clip_boxes, to_float32
from resnets.detect.models.sampling import BoxCoder, BoxMatcher, BoxSampler, nms_by_group, rows_of
from resnets.utils.machine.environment import copy_to_device

Sizes = list[tuple[int, int]]
MIN_SIDE = 1e-2  # px; boxes clipped to less than this are dropped, as torchvision does


class RegionHeads(RoIHeads):
    """torchvision's RoI heads, divided into features, scores and selection of regions.

    With `context`, the feature vector of the whole image is appended to that of each region (paper,
    appendix B). Scores and offsets are float32 at any precision.
    """

    def __init__(self, spec: DetectSpec, pooler: nn.Module, head: nn.Module, predictor: nn.Module):
        super().__init__(
            pooler,
            head,
            predictor,
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=spec.box_batch_size,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=spec.score_threshold,
            nms_thresh=spec.nms_threshold,
            detections_per_img=spec.max_detections,
        )
        self.context = spec.context
        self.box_coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        self.proposal_matcher = BoxMatcher(0.5, 0.5)
        self.fg_bg_sampler = BoxSampler(spec.box_batch_size, 0.25)

    def vectors(self, features: dict[str, Tensor], boxes: list[Tensor], sizes: Sizes) -> Tensor:
        """Return features (R, D) of the R boxes (px) of all images; with context (R, 2D)."""
        vectors = self.box_head(self.box_roi_pool(features, boxes, sizes))
        if not self.context:
            return vectors
        image_boxes = [
            copy_to_device(torch.tensor([[0.0, 0.0, width, height]]), vectors.device)
            for height, width in sizes
        ]
        image_vectors = self.box_head(self.box_roi_pool(features, image_boxes, sizes))  # (B, D)
        repeated = [
            vector.expand(len(each), -1) for vector, each in zip(image_vectors, boxes, strict=True)
        ]
        return torch.cat((vectors, torch.cat(repeated)), 1)

    def predict(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits (R, K + 1), background first, and box offsets (R, 4 (K + 1))."""
        logits, offsets = self.box_predictor(vectors)
        return to_float32(logits), to_float32(offsets)

    def read(
        self, features: dict[str, Tensor], boxes: list[Tensor], sizes: Sizes
    ) -> list[tuple[Tensor, Tensor]]:
        """Return clipped boxes (R, K + 1, 4) and probabilities (R, K + 1) of each image.

        Column 0 is the background.
        """
        logits, offsets = self.predict(self.vectors(features, boxes, sizes))
        decoded = self.box_coder.decode(offsets, boxes)
        counts = [len(each) for each in boxes]
        per_image = zip(
            decoded.split(counts), F.softmax(logits, -1).split(counts), sizes, strict=True
        )
        return [(clip_boxes(b, size), scores) for b, scores, size in per_image]

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: Sizes,
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections of each image, and losses by name.

        There are no losses in eval mode, and no detections in training.
        """
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets)
        found = select_detections(
            self.read(features, proposals, image_shapes),
            self.score_thresh,
            self.nms_thresh,
            self.detections_per_img,
        )
        return self.add_masks(features, found, image_shapes), {}

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the object (N,) of each proposal, and its label: 0 background, -1 ignored."""
        matched, labels = [], []
        for each, boxes, labels_of_boxes in zip(proposals, gt_boxes, gt_labels, strict=True):
            if boxes.numel() == 0:
                matched.append(torch.zeros(len(each), dtype=torch.int64, device=each.device))
                labels.append(matched[-1].clone())
                continue
            found = self.proposal_matcher(box_ops.box_iou(boxes, each))
            matched.append(found.clamp(min=0))
            label = labels_of_boxes[matched[-1]].long()
            label = label.masked_fill(found == self.proposal_matcher.BELOW_LOW_THRESHOLD, 0)
            is_ignored = found == self.proposal_matcher.BETWEEN_THRESHOLDS
            labels.append(label.masked_fill(is_ignored, -1))
        return matched, labels

    def subsample(self, labels: list[Tensor]) -> list[Tensor]:
        """Return the sorted rows of the sampled proposals of each image."""
        return [torch.cat(rows).sort()[0] for rows in self.fg_bg_sampler(labels)]

    def add_masks(
        self, features: dict[str, Tensor], found: list[dict[str, Tensor]], sizes: Sizes
    ) -> list[dict[str, Tensor]]:
        """Add "masks" (D, 1, M, M) in 0..1 to `found`, to be pasted into the boxes (Mask R-CNN)."""
        if self.has_mask():
            logits = self._mask_logits(features, [each["boxes"] for each in found], sizes)
            masks = maskrcnn_inference(logits, [each["labels"] for each in found])
            for each, mask in zip(found, masks, strict=True):
                each["masks"] = mask
        return found

    def _mask_logits(
        self, features: dict[str, Tensor], boxes: list[Tensor], sizes: Sizes
    ) -> Tensor:
        pooled = self.mask_roi_pool(features, boxes, sizes)
        return to_float32(self.mask_predictor(self.mask_head(pooled)))

    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        sizes: Sizes,
        targets: list[dict[str, Tensor]] | None,
    ) -> dict[str, Tensor]:
        boxes, matched, labels, offsets = self.select_training_samples(proposals, targets)
        positive = rows_of([each > 0 for each in labels])
        logits, predicted = self.predict(self.vectors(features, boxes, sizes))
        class_loss, box_loss = region_losses(logits, predicted, labels, offsets, positive)
        losses = {"loss_classifier": class_loss, "loss_box_reg": box_loss}
        if self.has_mask():
            assert targets is not None
            regions = [each[rows] for each, rows in zip(boxes, positive, strict=True)]
            losses["loss_mask"] = maskrcnn_loss(
                self._mask_logits(features, regions, sizes),
                regions,
                [each["masks"] for each in targets],
                [each["labels"] for each in targets],
                [each[rows] for each, rows in zip(matched, positive, strict=True)],
            )
        return losses


def region_losses(
    logits: Tensor,
    offsets: Tensor,
    labels: list[Tensor],
    true_offsets: list[Tensor],
    positive: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """Return torchvision's `fastrcnn_loss`: the losses of classes, and of the boxes of objects.

    logits: (R, K + 1). offsets: (R, 4 (K + 1)). Per image: labels (R_i,), true_offsets (R_i, 4) and
    positive, the rows whose label is not 0.
    """
    starts = itertools.accumulate((len(each) for each in labels[:-1]), initial=0)
    rows = torch.cat([each + start for each, start in zip(positive, starts, strict=True)])
    all_labels = torch.cat(labels)
    by_class = offsets.reshape(len(logits), -1, 4)
    box_loss = F.smooth_l1_loss(
        by_class[rows, all_labels[rows]],
        torch.cat(true_offsets)[rows],
        beta=1 / 9,
        reduction="sum",
    )
    return F.cross_entropy(logits, all_labels), box_loss / len(all_labels)


def select_detections(
    regions: Sequence[tuple[Tensor, Tensor]], threshold: float, overlap: float, max_detections: int
) -> list[dict[str, Tensor]]:
    """Return the best boxes, scores and labels of each image.

    regions: boxes (R, K + 1, 4) and probabilities (R, K + 1) of each image. Every class of every
    region is a separate candidate; suppression is within a class.
    """
    if not torch.compiler.is_exporting():
        candidates = flatten_candidates(regions, threshold)
        return [suppress_overlaps(each, overlap, max_detections) for each in candidates]
    found = []
    for boxes, scores in regions:
        by_class, class_scores = boxes[:, 1:].transpose(0, 1), scores[:, 1:].T
        chosen_boxes, best_scores, labels = best_boxes(
            by_class, class_scores, overlap, threshold, max_detections, MIN_SIDE
        )
        found.append({"boxes": chosen_boxes, "scores": best_scores, "labels": labels + 1})
    return found


def flatten_candidates(
    regions: Sequence[tuple[Tensor, Tensor]], threshold: float
) -> list[dict[str, Tensor]]:
    """Return boxes (N, 4), scores and labels from 1 of the candidates of each image.

    regions: as in `select_detections`. Synchronizes once for all images.
    """
    flat, masks = [], []
    for boxes, scores in regions:
        labels = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
        candidates = {
            "boxes": boxes[:, 1:].reshape(-1, 4),
            "scores": scores[:, 1:].reshape(-1),
            "labels": labels[:, 1:].reshape(-1),
        }
        sides = candidates["boxes"][:, 2:] - candidates["boxes"][:, :2]
        masks.append((sides >= MIN_SIDE).all(1) & (candidates["scores"] > threshold))
        flat.append(candidates)
    return [_take(each, rows) for each, rows in zip(flat, rows_of(masks), strict=True)]


def suppress_overlaps(
    candidates: dict[str, Tensor], overlap: float, max_detections: int
) -> dict[str, Tensor]:
    """Return the best candidates, without those that overlap a better one of their class."""
    kept = nms_by_group(candidates["boxes"], candidates["scores"], candidates["labels"], overlap)
    return _take(candidates, kept[:max_detections])


def _take(values_by_name: dict[str, Tensor], rows: Any) -> dict[str, Tensor]:
    return {name: values[rows] for name, values in values_by_name.items()}
