"""Testing detectors with the paper's additions (appendix B); without them, plain Faster R-CNN."""

from __future__ import annotations

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
from resnets.detect.models.roi_heads import candidates, suppress

if TYPE_CHECKING:
    from resnets.detect.models.detector import Detector

REFINED_OVERLAP = 0.3  # suppression of the union of old and new boxes (appendix B)
VOTE_OVERLAP = 0.5  # boxes that vote for a kept one (Gidaris and Komodakis 2015)
REGION_SIDE = 224  # px at which a region is best seen (He et al. 2014; Ren et al. 2015b)

Detections = dict[str, Tensor]


@dataclass(frozen=True)
class _View:
    """The batch at one scale: maps of each detector."""

    images: ImageList
    features: list[dict[str, Tensor]]
    factors: list[float]


class DetectionInference:
    """Finds objects with one detector or an ensemble; call it with images.

    Ensemble: the union of all proposals is scored by all detectors; probabilities and boxes are
    averaged. `refine` and `test_sizes` (shorter sides in px): see `DetectSpec`; None = as the
    first detector's spec says.
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
            raise ConfigError("an ensemble needs detectors of the same classes")
        self.detectors, self.spec = list(detectors), first.spec
        self.refine = self.spec.refine if refine is None else refine
        self.test_sizes = tuple(self.spec.test_sizes if test_sizes is None else test_sizes)

    @torch.no_grad()
    def __call__(self, images: Sequence[Tensor]) -> list[Detections]:
        """Boxes (D, 4), scores and labels (from 1) of each image, best first.

        images: (C, H, W) float32, normalized; boxes are in their pixels. With `test_sizes` they
        are resized from here, so give them at the largest one; proposals come from the images
        at the shorter side that detectors were trained on.
        """
        assert not any(each.training for each in self.detectors)
        views = self._views(images)
        home = views[0]
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        proposals = self._propose(home)
        read = self._read(views, proposals, sizes)
        pools = [candidates(*each, self.spec.score_threshold) for each in read]
        overlap = self.spec.nms_threshold
        if self.refine:
            again = self._read(views, [_best_boxes(*each) for each in read], sizes)
            fresh = (candidates(*each, self.spec.score_threshold) for each in again)
            pools = [_joined(old, new) for old, new in zip(pools, fresh, strict=True)]
            overlap = REFINED_OVERLAP
        found = [suppress(pool, overlap, self.spec.max_detections) for pool in pools]
        if self.refine:
            found = [_voted(kept, pool) for kept, pool in zip(found, pools, strict=True)]
        return self._with_masks(home, found)

    def _views(self, images: Sequence[Tensor]) -> list[_View]:
        """The images as given; with `test_sizes` at the trained size, and then at each."""
        if not self.test_sizes:
            return [self._view(images, [1.0] * len(images))]
        views = []
        for size in (self.spec.train_sizes[-1], *self.test_sizes):
            factors = [size / min(image.shape[-2:]) for image in images]
            views.append(
                self._view([rescale(i, f) for i, f in zip(images, factors, strict=True)], factors)
            )
        return views

    def _view(self, images: Sequence[Tensor], factors: list[float]) -> _View:
        padded = pad(images)
        return _View(padded, [each.features(padded.tensors) for each in self.detectors], factors)

    def _propose(self, view: _View) -> list[Tensor]:
        """The union of all detectors' proposals, in pixels of the given images."""
        each = [
            detector.propose(view.images, features)
            for detector, features in zip(self.detectors, view.features, strict=True)
        ]
        return [
            torch.cat(boxes) / factor for factor, *boxes in zip(view.factors, *each, strict=True)
        ]

    def _read(
        self, views: list[_View], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Boxes (R, K + 1, 4) and probabilities (R, K + 1) of the regions of each image."""
        pyramid = views[1:] or views
        all_boxes, all_scores = [], []
        for index, detector in enumerate(self.detectors):
            heads = detector.roi_heads
            logits, offsets = heads.predict(self._vectors(pyramid, index, boxes))
            all_boxes.append(heads.box_coder.decode(offsets, boxes))
            all_scores.append(F.softmax(logits, -1))
        counts = [len(each) for each in boxes]
        moved = torch.stack(all_boxes).mean(0).split(counts)
        scores = torch.stack(all_scores).mean(0).split(counts)
        clipped = [clip_boxes_to_image(each, size) for each, size in zip(moved, sizes, strict=True)]
        return list(zip(clipped, scores, strict=True))

    def _vectors(self, pyramid: list[_View], index: int, boxes: list[Tensor]) -> Tensor:
        """(R, D): each region at the one scale there is, or the maxima over the two that suit."""
        heads = self.detectors[index].roi_heads
        if len(pyramid) == 1:
            view = pyramid[0]
            scaled = [each * factor for each, factor in zip(boxes, view.factors, strict=True)]
            return heads.vectors(view.features[index], scaled, view.images.image_sizes)
        chosen = [
            two_scales(each, [view.factors[number] for view in pyramid])
            for number, each in enumerate(boxes)
        ]
        vectors: Tensor | None = None
        flat = torch.cat(chosen)  # (R, 2)
        for scale, view in enumerate(pyramid):
            here = [(pair == scale).any(1) for pair in chosen]
            scaled = [
                each[rows] * factor
                for each, rows, factor in zip(boxes, here, view.factors, strict=True)
            ]
            part = heads.vectors(view.features[index], scaled, view.images.image_sizes).float()
            if vectors is None:
                vectors = part.new_full((len(flat), part.shape[1]), -torch.inf)
            rows = (flat == scale).any(1)
            vectors[rows] = torch.maximum(vectors[rows], part)
        assert vectors is not None
        return vectors

    def _with_masks(self, view: _View, found: list[Detections]) -> list[Detections]:
        """Masks of the first detector that draws any."""
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


def two_scales(boxes: Tensor, factors: Sequence[float]) -> Tensor:
    """Indices (R, 2) of two adjacent scales at which each region is nearest 224 x 224 px.

    `factors`: ascending sizes over that of the images the boxes (R, 4) are in.
    """
    sides = box_area(boxes).clamp(min=1).sqrt()[:, None] * boxes.new_tensor(factors)  # (R, S)
    away = (sides / REGION_SIDE).log2().abs()
    pairs = torch.maximum(away[:, :-1], away[:, 1:]).argmin(1)
    return torch.stack((pairs, pairs + 1), 1)


def _best_boxes(boxes: Tensor, scores: Tensor) -> Tensor:
    """The box (R, 4) of each region's most likely class."""
    best = scores[:, 1:].argmax(1) + 1
    return boxes[torch.arange(len(boxes), device=boxes.device), best]


def _joined(one: Detections, other: Detections) -> Detections:
    return {name: torch.cat((values, other[name])) for name, values in one.items()}


def _voted(kept: Detections, pool: Detections) -> Detections:
    """`kept` with each box at the mean, weighted by score, of its class's boxes that overlap it."""
    overlaps = box_iou(kept["boxes"], pool["boxes"])
    voters = (overlaps >= VOTE_OVERLAP) & (kept["labels"][:, None] == pool["labels"])
    weights = voters * pool["scores"]  # (D, N); each kept box votes for itself
    total = weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return {**kept, "boxes": weights @ pool["boxes"] / total}
