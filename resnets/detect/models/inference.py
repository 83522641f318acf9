"""`DetectionInference`: detectors at test time, with or without the extensions of appendix B."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_area, box_iou, clip_boxes_to_image

from resnets.config import ConfigError
from resnets.detect.models.layers import pad, rescale
from resnets.detect.models.roi_heads import flatten_candidates, suppress_overlaps
from resnets.detect.models.sampling import rows_of
from resnets.utils.machine.environment import copy_to_device

if TYPE_CHECKING:
    from resnets.detect.models.detector import Detector

REFINED_OVERLAP = 0.3  # NMS threshold for the union of original and refined boxes (appendix B)
VOTE_OVERLAP = 0.5  # minimum IoU of averaged boxes (Gidaris and Komodakis 2015)
REGION_SIDE = 224  # px, preferred size of a region (He et al. 2014; Ren et al. 2015b)

Detections = dict[str, Tensor]


@dataclass(frozen=True)
class _ScaledBatch:
    """A batch at one scale: feature maps of each detector."""

    images: ImageList
    features: list[dict[str, Tensor]]
    factors: list[float]


class DetectionInference:
    """Detects objects with one detector or an ensemble; call it with images.

    In an ensemble, the union of all proposals is scored by all detectors; probabilities and boxes
    are averaged. `refine` and `test_sizes` (shorter sides in px): see `DetectSpec`; None = those of
    the first detector's spec.
    """

    def __init__(
        self,
        detectors: Sequence[Detector],
        refine: bool | None = None,
        test_sizes: Sequence[int] | None = None,
    ) -> None:
        assert detectors
        first = detectors[0]
        if any(each.num_classes != first.num_classes for each in detectors):
            raise ConfigError("ensemble: all detectors must have the same classes")
        self.detectors, self.spec = list(detectors), first.spec
        self.refine = self.spec.refine if refine is None else refine
        self.test_sizes = tuple(self.spec.test_sizes if test_sizes is None else test_sizes)

    @torch.no_grad()
    def __call__(self, images: Sequence[Tensor]) -> list[Detections]:
        """Return boxes (D, 4), scores and labels (from 1) of each image, best first.

        images: (C, H, W) float32 each, normalized; boxes are in their px. With `test_sizes`, the
        images are resized here and must be given at the largest size; proposals are computed at the
        shorter side that the detectors were trained on.
        """
        assert not any(each.training for each in self.detectors)
        views = self._views(images)
        base = views[0]
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        proposals = self._propose(base)
        scored = self._score_regions(views, proposals, sizes)
        candidates = flatten_candidates(scored, self.spec.score_threshold)
        overlap = self.spec.nms_threshold
        if self.refine:
            rescored = self._score_regions(views, [_best_boxes(*each) for each in scored], sizes)
            refined = flatten_candidates(rescored, self.spec.score_threshold)
            candidates = [
                _concatenate(old, new) for old, new in zip(candidates, refined, strict=True)
            ]
            overlap = REFINED_OVERLAP
        found = [suppress_overlaps(pool, overlap, self.spec.max_detections) for pool in candidates]
        if self.refine:
            found = [_vote_boxes(kept, pool) for kept, pool in zip(found, candidates, strict=True)]
        return self._with_masks(base, found)

    def _views(self, images: Sequence[Tensor]) -> list[_ScaledBatch]:
        """Return the images as given; with `test_sizes`, at the training size and then at each."""
        if not self.test_sizes:
            return [self._view(images, [1.0] * len(images))]
        views = []
        for size in (self.spec.train_sizes[-1], *self.test_sizes):
            factors = [size / min(image.shape[-2:]) for image in images]
            views.append(
                self._view([rescale(i, f) for i, f in zip(images, factors, strict=True)], factors)
            )
        return views

    def _view(self, images: Sequence[Tensor], factors: list[float]) -> _ScaledBatch:
        padded = pad(images)
        return _ScaledBatch(
            padded, [each.features(padded.tensors) for each in self.detectors], factors
        )

    def _propose(self, view: _ScaledBatch) -> list[Tensor]:
        """Return the union of all detectors' proposals, in px of the given images."""
        proposals = [
            detector.propose(view.images, features)
            for detector, features in zip(self.detectors, view.features, strict=True)
        ]
        return [
            torch.cat(boxes) / factor
            for factor, *boxes in zip(view.factors, *proposals, strict=True)
        ]

    def _score_regions(
        self, views: list[_ScaledBatch], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return boxes (R, K + 1, 4) and probabilities (R, K + 1) of the regions of each image."""
        pyramid = views[1:] or views
        all_boxes, all_scores = [], []
        for index, detector in enumerate(self.detectors):
            heads = detector.roi_heads
            logits, offsets = heads.predict(self._vectors(pyramid, index, boxes))
            all_boxes.append(heads.box_coder.decode(offsets, boxes))
            all_scores.append(F.softmax(logits, -1))
        counts = [len(each) for each in boxes]
        averaged = torch.stack(all_boxes).mean(0).split(counts)
        scores = torch.stack(all_scores).mean(0).split(counts)
        clipped = [
            clip_boxes_to_image(each, size) for each, size in zip(averaged, sizes, strict=True)
        ]
        return list(zip(clipped, scores, strict=True))

    def _vectors(self, pyramid: list[_ScaledBatch], index: int, boxes: list[Tensor]) -> Tensor:
        """Return features (R, D): at the only scale, or the maximum over the two nearest scales."""
        heads = self.detectors[index].roi_heads
        if len(pyramid) == 1:
            view = pyramid[0]
            scaled = [each * factor for each, factor in zip(boxes, view.factors, strict=True)]
            return heads.vectors(view.features[index], scaled, view.images.image_sizes)
        chosen = [
            nearest_scales(each, [view.factors[number] for view in pyramid])
            for number, each in enumerate(boxes)
        ]
        vectors: Tensor | None = None
        starts = list(itertools.accumulate((len(each) for each in boxes[:-1]), initial=0))
        scales = range(len(pyramid))
        selected = rows_of([(pair == scale).any(1) for scale in scales for pair in chosen])
        for scale, view in enumerate(pyramid):
            of_scale = selected[scale * len(boxes) : (scale + 1) * len(boxes)]
            scaled = [
                each[rows] * factor
                for each, rows, factor in zip(boxes, of_scale, view.factors, strict=True)
            ]
            vectors_of_scale = heads.vectors(
                view.features[index], scaled, view.images.image_sizes
            ).float()
            if vectors is None:
                num_regions = sum(len(each) for each in boxes)
                vectors = vectors_of_scale.new_full(
                    (num_regions, vectors_of_scale.shape[1]), -torch.inf
                )
            rows = torch.cat([each + start for each, start in zip(of_scale, starts, strict=True)])
            vectors[rows] = torch.maximum(vectors[rows], vectors_of_scale)
        assert vectors is not None
        return vectors

    def _with_masks(self, view: _ScaledBatch, found: list[Detections]) -> list[Detections]:
        """Add masks of the first detector that predicts them."""
        for detector, features in zip(self.detectors, view.features, strict=True):
            if detector.masks:
                scaled = [
                    {**each, "boxes": each["boxes"] * factor}
                    for each, factor in zip(found, view.factors, strict=True)
                ]
                masked = detector.roi_heads.add_masks(features, scaled, view.images.image_sizes)
                return [
                    {**each, "masks": with_mask["masks"]}
                    for each, with_mask in zip(found, masked, strict=True)
                ]
        return found


def nearest_scales(boxes: Tensor, factors: Sequence[float]) -> Tensor:
    """Return indices (R, 2) of the two adjacent scales with regions nearest to 224 x 224 px.

    `factors`: ascending scales relative to the images that the boxes (R, 4) are in.
    """
    scales = copy_to_device(torch.tensor(factors, dtype=boxes.dtype), boxes.device)
    sides = box_area(boxes).clamp(min=1).sqrt()[:, None] * scales  # (R, S)
    distance = (sides / REGION_SIDE).log2().abs()
    pairs = torch.maximum(distance[:, :-1], distance[:, 1:]).argmin(1)
    return torch.stack((pairs, pairs + 1), 1)


def _best_boxes(boxes: Tensor, scores: Tensor) -> Tensor:
    """Return the box (R, 4) of each region's most probable class."""
    best = scores[:, 1:].argmax(1) + 1
    return boxes[torch.arange(len(boxes), device=boxes.device), best]


def _concatenate(a: Detections, b: Detections) -> Detections:
    return {name: torch.cat((values, b[name])) for name, values in a.items()}


def _vote_boxes(detections: Detections, candidates: Detections) -> Detections:
    """Replace boxes by the score-weighted mean of overlapping boxes of their class."""
    overlaps = box_iou(detections["boxes"], candidates["boxes"])
    voters = (overlaps >= VOTE_OVERLAP) & (detections["labels"][:, None] == candidates["labels"])
    weights = voters * candidates["scores"]  # (D, N); each kept box votes for itself
    total = weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    # Not a matrix product, which autocast would compute in bfloat16: errors of several px.
    boxes = (weights[:, :, None] * candidates["boxes"]).sum(1)
    return {**detections, "boxes": boxes / total}
