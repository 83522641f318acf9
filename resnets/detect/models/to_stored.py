"""A model's answers for its resized input, in pixels of the stored image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from resnets.detect.data.masks import encode_masks
from resnets.detect.data.types import Detections, Pixels

WHOLE = 1 << 27  # values of all classes that are held at once to find the most likely one
MASK_SHARE = 0.5  # a pixel belongs to the object from this probability on (He et al. 2017)


def detections(
    found: Mapping[str, Tensor], shape: Sequence[int], stored: tuple[int, int]
) -> Detections:
    """A detector's answer for an input of `shape` (h, w), in the stored image of `stored` (H, W).

    found: boxes (D, 4), scores (D,), labels (D,) from 1 and, where it draws masks, masks
    (D, 1, 28, 28) probabilities within each box.
    """
    (height, width), (high, wide) = stored, shape
    # Copied at once, since the host waits for the device at each copy; labels are small integers.
    columns = [found["boxes"], found["scores"][:, None], found["labels"][:, None]]
    rows = torch.cat([each.float() for each in columns], 1).cpu()  # (D, 6)
    boxes = rows[:, :4] * torch.tensor([width / wide, height / high] * 2)
    answer = Detections(
        boxes=boxes.numpy(),
        scores=rows[:, 4].clone().numpy(),
        labels=rows[:, 5].numpy().astype(np.int64) - 1,
    )
    if "masks" in found:
        answer["masks"] = _runs(found["masks"].float().cpu(), boxes, stored)
    return answer


def _runs(masks: Tensor, boxes: Tensor, stored: tuple[int, int]) -> Sequence[dict[str, object]]:
    """One at a time: a hundred masks of a large image would take gigabytes."""
    runs: list[dict[str, object]] = []
    for mask, box in zip(masks, boxes, strict=True):
        pasted = paste_masks_in_image(mask[None], box[None], stored)[:, 0] > MASK_SHARE
        runs += encode_masks(pasted.numpy())
    return runs


def class_map(logits: Tensor, stored: tuple[int, int]) -> Pixels:
    """The most likely class (H, W) uint8 of each stored pixel, from logits (K, h, w)."""
    if logits.shape[0] * stored[0] * stored[1] <= WHOLE:
        large = F.interpolate(logits[None].float(), stored, mode="bilinear", align_corners=False)
        return large[0].argmax(0).to(torch.uint8).cpu().numpy()
    height, width = stored
    shape = (logits.shape[1], width)
    wide = F.interpolate(logits[None].float(), shape, mode="bilinear", align_corners=False)[0]
    found = np.empty(stored, np.uint8)
    rows = max(1, WHOLE // (logits.shape[0] * width))
    for start in range(0, height, rows):
        band = _stretched(wide, start, min(start + rows, height), height)
        found[start : start + rows] = band.argmax(0).to(torch.uint8).cpu().numpy()
    return found


def _stretched(planes: Tensor, start: int, stop: int, height: int) -> Tensor:
    """Rows start..stop of planes (K, h, W) at `height` rows, bilinear: (K, stop - start, W)."""
    have = planes.shape[1]
    rows = torch.arange(start, stop, device=planes.device, dtype=torch.float32)
    at = ((rows + 0.5) * (have / height) - 0.5).clamp(min=0)
    above = at.floor().long().clamp(max=have - 1)
    below = (above + 1).clamp(max=have - 1)
    share = (at - above)[None, :, None]
    return torch.lerp(planes[:, above], planes[:, below], share)
