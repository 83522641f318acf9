"""Match, sample, encode and suppress boxes: torchvision's code with fewer synchronizations.

The host waits for the GPU at each tensor whose length depends on values (a boolean index, `where`
with one argument) and at each constant that it copies there. These functions return the same
results as torchvision's, bit for bit, with masks instead of such indices and numbers instead of
constants. Lengths that are needed are read for all images at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection import _utils as detection
from torchvision.models.detection._utils import Matcher
from torchvision.ops import batched_nms, nms

MAX_OFFSET_VALUES = 100_000  # of boxes: torchvision suppresses more of them group by group


class BoxMatcher(Matcher):
    """torchvision's `Matcher` without synchronization."""

    def __call__(self, overlaps: Tensor) -> Tensor:
        """Return for each of N boxes the row of its object in `overlaps` (M, N), (N,) int64.

        -1: below the low threshold; -2: between the thresholds. Raises ValueError if M or N is 0.
        """
        if overlaps.numel() == 0:
            raise ValueError(f"no {'boxes' if len(overlaps) else 'objects'} to match")
        highest, best = overlaps.max(0)
        matches = best.masked_fill(highest < self.low_threshold, self.BELOW_LOW_THRESHOLD)
        is_between = (highest >= self.low_threshold) & (highest < self.high_threshold)
        matches = matches.masked_fill(is_between, self.BETWEEN_THRESHOLDS)
        if self.allow_low_quality_matches:  # match each object with the boxes that overlap it most
            is_best = (overlaps == overlaps.max(1, keepdim=True)[0]).any(0)
            matches = torch.where(is_best, best, matches)
        return matches


class BoxSampler:
    """Samples up to `per_image` boxes of each image, up to `positive_fraction` of them positive.

    Draws the same samples as torchvision's `BalancedPositiveNegativeSampler`.
    """

    def __init__(self, per_image: int, positive_fraction: float) -> None:
        self.per_image, self.max_positive = per_image, int(per_image * positive_fraction)

    def __call__(self, labels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return sorted rows of the sampled positive and negative boxes of each image.

        labels: (N,) per image, positive from 1, negative 0, ignored -1. Synchronizes once.
        """
        masks = [mask for each in labels for mask in (each >= 1, each == 0)]
        rows = rows_of(masks)
        sampled = []
        for positive, negative in zip(rows[::2], rows[1::2], strict=True):
            num_positive = min(len(positive), self.max_positive)
            num_negative = min(len(negative), self.per_image - num_positive)
            sampled.append((_draw(positive, num_positive), _draw(negative, num_negative)))
        return sampled


class BoxCoder(detection.BoxCoder):
    """torchvision's `BoxCoder` without synchronization."""

    def encode_single(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """Return the offsets (N, 4) of the objects' boxes (N, 4) relative to `proposals` (N, 4)."""
        return detection.encode_boxes(reference_boxes, proposals, self.weights)

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Return the boxes (N, 4 K) for offsets (N, 4 K) relative to `boxes` (N, 4)."""
        boxes = boxes.to(rel_codes.dtype)
        widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        wx, wy, ww, wh = self.weights
        shift_x, shift_y = rel_codes[:, 0::4] / wx, rel_codes[:, 1::4] / wy
        log_width = (rel_codes[:, 2::4] / ww).clamp(max=self.bbox_xform_clip)
        log_height = (rel_codes[:, 3::4] / wh).clamp(max=self.bbox_xform_clip)
        x = shift_x * widths[:, None] + (boxes[:, 0] + 0.5 * widths)[:, None]
        y = shift_y * heights[:, None] + (boxes[:, 1] + 0.5 * heights)[:, None]
        half_width = 0.5 * (log_width.exp() * widths[:, None])
        half_height = 0.5 * (log_height.exp() * heights[:, None])
        sides = (x - half_width, y - half_height, x + half_width, y + half_height)
        return torch.stack(sides, 2).flatten(1)


def nms_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, overlap: float) -> Tensor:
    """Return torchvision's `batched_nms`: rows of the best boxes of each group, best first."""
    if boxes.device.type == "cpu" or not 0 < boxes.numel() <= MAX_OFFSET_VALUES:
        return batched_nms(boxes, scores, groups, overlap)
    offsets = groups.to(boxes) * (boxes.max() + 1)
    return nms(boxes + offsets[:, None], scores, overlap)


def _draw(rows: Tensor, count: int) -> Tensor:
    drawn = torch.randperm(len(rows), device=rows.device)[:count]
    return rows[drawn].sort()[0]


def rows_of(masks: Sequence[Tensor]) -> list[Tensor]:
    """Return the rows where each of `masks` (N,) is true; synchronizes once for all of them."""
    if masks[0].device.type == "mps":  # has no nonzero_static
        return [torch.where(mask)[0] for mask in masks]
    counts = torch.stack([mask.sum() for mask in masks]).tolist()
    return [
        torch.nonzero_static(mask, size=count)[:, 0]
        for mask, count in zip(masks, counts, strict=True)
    ]
