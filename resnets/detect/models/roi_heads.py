"""The second half of a detector: what each proposed region holds, and where exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import (
    RoIHeads,
    fastrcnn_loss,
    maskrcnn_inference,
    maskrcnn_loss,
)
from torchvision.ops import batched_nms
from torchvision.ops import boxes as box_ops

from resnets.config import DetectSpec
from resnets.detect.models.export_ops import best_boxes
from resnets.detect.models.layers import clip_boxes, to_float32

Sizes = list[tuple[int, int]]
MIN_SIDE = 1e-2  # px; boxes clipped to less than this are dropped, as torchvision does


class RegionHeads(RoIHeads):
    """torchvision's RoI heads, cut so that a region's vector, its score and the choice are apart.

    With `context`, the vector of the whole image is appended to that of each of its regions
    (paper, appendix B). Scores and offsets are float32 at any precision.
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

    def vectors(self, features: dict[str, Tensor], boxes: list[Tensor], sizes: Sizes) -> Tensor:
        """(R, D) of the R boxes (pixels) of all images; with context (R, 2D)."""
        vectors = self.box_head(self.box_roi_pool(features, boxes, sizes))
        if not self.context:
            return vectors
        whole = [
            torch.tensor([[0.0, 0.0, width, height]], device=vectors.device)
            for height, width in sizes
        ]
        scenes = self.box_head(self.box_roi_pool(features, whole, sizes))  # (B, D)
        counts = torch.tensor([len(each) for each in boxes], device=vectors.device)
        return torch.cat((vectors, scenes.repeat_interleave(counts, 0)), 1)

    def predict(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (R, K + 1), background first, and box offsets (R, 4 (K + 1))."""
        logits, offsets = self.box_predictor(vectors)
        return to_float32(logits), to_float32(offsets)

    def read(
        self, features: dict[str, Tensor], boxes: list[Tensor], sizes: Sizes
    ) -> list[tuple[Tensor, Tensor]]:
        """For each image its regions' boxes (R, K + 1, 4), clipped, and probabilities (R, K + 1).

        Column 0 is the background.
        """
        logits, offsets = self.predict(self.vectors(features, boxes, sizes))
        moved = self.box_coder.decode(offsets, boxes)
        counts = [len(each) for each in boxes]
        parts = zip(moved.split(counts), F.softmax(logits, -1).split(counts), sizes, strict=True)
        return [(clip_boxes(b, size), scores) for b, scores, size in parts]

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: Sizes,
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections of each image and no losses; in training no detections and the losses."""
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets)
        found = [
            select(boxes, scores, self.score_thresh, self.nms_thresh, self.detections_per_img)
            for boxes, scores in self.read(features, proposals, image_shapes)
        ]
        return self.add_masks(features, found, image_shapes), {}

    def add_masks(
        self, features: dict[str, Tensor], found: list[dict[str, Tensor]], sizes: Sizes
    ) -> list[dict[str, Tensor]]:
        """`found` with "masks" (D, 1, M, M) in 0..1, to be pasted into the boxes (Mask R-CNN)."""
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
        logits, predicted = self.predict(self.vectors(features, boxes, sizes))
        of_class, of_box = fastrcnn_loss(logits, predicted, labels, offsets)
        losses = {"loss_classifier": of_class, "loss_box_reg": of_box}
        if self.has_mask():
            assert targets is not None
            positive = [torch.where(each > 0)[0] for each in labels]
            regions = [each[rows] for each, rows in zip(boxes, positive, strict=True)]
            losses["loss_mask"] = maskrcnn_loss(
                self._mask_logits(features, regions, sizes),
                regions,
                [each["masks"] for each in targets],
                [each["labels"] for each in targets],
                [each[rows] for each, rows in zip(matched, positive, strict=True)],
            )
        return losses


def select(
    boxes: Tensor, scores: Tensor, threshold: float, overlap: float, most: int
) -> dict[str, Tensor]:
    """The best boxes of one image: (R, K + 1, 4) and (R, K + 1) -> boxes, scores, labels.

    Every class of every region is a candidate of its own; suppression is within a class.
    """
    if torch.compiler.is_exporting():
        by_class, shares = boxes[:, 1:].transpose(0, 1), scores[:, 1:].T
        found, best, labels = best_boxes(by_class, shares, overlap, threshold, most, MIN_SIDE)
        return {"boxes": found, "scores": best, "labels": labels + 1}
    return suppress(candidates(boxes, scores, threshold), overlap, most)


def candidates(boxes: Tensor, scores: Tensor, threshold: float) -> dict[str, Tensor]:
    """Regions by classes (R, K + 1, ...) as one list of boxes (N, 4), scores and labels above 0."""
    labels = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    flat = {
        "boxes": boxes[:, 1:].reshape(-1, 4),
        "scores": scores[:, 1:].reshape(-1),
        "labels": labels[:, 1:].reshape(-1),
    }
    flat = _take(flat, torch.where(flat["scores"] > threshold)[0])
    return _take(flat, box_ops.remove_small_boxes(flat["boxes"], MIN_SIDE))


def suppress(found: dict[str, Tensor], overlap: float, most: int) -> dict[str, Tensor]:
    """The `most` best of `found`, without those that overlap a better one of their class."""
    kept = batched_nms(found["boxes"], found["scores"], found["labels"], overlap)
    return _take(found, kept[:most])


def _take(found: dict[str, Tensor], rows: Any) -> dict[str, Tensor]:
    return {name: values[rows] for name, values in found.items()}
