"""Custom operators for data-dependent steps of detectors during `torch.export` tracing.

Their outputs have fixed shapes, so that the traced program has no data-dependent shapes.
`export/write/onnx_ops.py` converts them to ONNX. Detectors call them only during export.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, roi_align

MIN_SIDE = 1e-3  # px; smaller boxes are dropped, as torchvision's RPN does


@torch.library.custom_op("resnets::suppress", mutates_args=())
def suppress_padded(
    boxes: Tensor, scores: Tensor, overlap: float, threshold: float, most: int
) -> Tensor:
    """Return indices (most,) of the best boxes (G, N, 4) by scores (G, N), flattened.

    A box that overlaps a better one of its group by more than `overlap` (IoU), or whose score is at
    most `threshold`, is excluded. The result is padded with G * N.
    """
    rows = torch.where(scores.flatten() > threshold)[0]
    groups = torch.arange(len(scores), device=scores.device)[:, None].expand_as(scores)
    chosen = rows[
        batched_nms(
            boxes.flatten(0, 1)[rows], scores.flatten()[rows], groups.flatten()[rows], overlap
        )
    ][:most]
    return torch.cat((chosen, chosen.new_full((most - len(chosen),), scores.numel())))


@suppress_padded.register_fake
def _(boxes: Tensor, scores: Tensor, overlap: float, threshold: float, most: int) -> Tensor:
    return scores.new_empty(most, dtype=torch.int64)


def best_boxes(
    boxes: Tensor,
    scores: Tensor,
    overlap: float,
    threshold: float,
    max_boxes: int,
    min_side: float = MIN_SIDE,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best boxes (max_boxes, 4) after suppression, their scores and groups.

    boxes: (G, N, 4), scores: (G, N) in 0..1; boxes with a side below `min_side` px are excluded.
    The result is padded with empty boxes of score -1.
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    scores = torch.where((sides >= min_side).all(-1), scores, -1.0)
    rows = suppress_padded(boxes, scores, overlap, threshold, max_boxes)
    return (
        F.pad(boxes.reshape(-1, 4), (0, 0, 0, 1))[rows],
        F.pad(scores.reshape(-1), (0, 1), value=-1.0)[rows],
        (rows // scores.shape[1]).clamp(max=len(scores) - 1),
    )


@torch.library.custom_op("resnets::pool_regions", mutates_args=())
def pool_regions(
    maps: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    size: int,
    sampling: int,
) -> Tensor:
    """RoIAlign (R, C, size, size) of boxes (R, 4), each on the map (1, C, h, w) of its level."""
    pooled = boxes.new_zeros(len(boxes), maps[0].shape[1], size, size)
    for level, (each, scale) in enumerate(zip(maps, scales, strict=True)):
        rows = torch.where(levels == level)[0]
        pooled[rows] = roi_align(each, [boxes[rows]], size, scale, sampling)
    return pooled


@pool_regions.register_fake
def _(
    maps: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    size: int,
    sampling: int,
) -> Tensor:
    return boxes.new_empty(boxes.shape[0], maps[0].shape[1], size, size)
