"""Pictures as a net is shown them at test, and its answers in pixels of the stored picture."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from resnets.data.decode import decode_whole
from resnets.data.errors import DataError
from resnets.data.files import Files
from resnets.data.preprocess import Preprocessor
from resnets.data.unreadable import Unreadable
from resnets.detect.geometry import fitted_size, resized
from resnets.detect.masks import encode_masks
from resnets.detect.types import Detections, Pixels
from resnets.processors import cores

MASK_SHARE = 0.5  # of a mask's 0..1 from which on a pixel belongs to the object (He et al. 2017)


@dataclass(frozen=True, eq=False)
class Shown:
    """Picture `row`: `pixels` (H, W, 3) uint8 as stored, `image` (3, h, w) as the net sees it."""

    row: int
    pixels: Pixels
    image: Tensor

    @property
    def stored(self) -> tuple[int, int]:
        """(H, W) of the stored picture."""
        return self.pixels.shape[0], self.pixels.shape[1]


def show(
    files: Files,
    preprocessor: Preprocessor,
    shorter: int,
    longer: int,
    device: torch.device,
    unreadable: Unreadable,
    workers: int = 0,
) -> Iterator[Shown]:
    """Every picture once, in order, its shorter side `shorter` px unless the longer would pass
    `longer`; normalised, on `device`. Unreadable ones are noted in `unreadable` and left out.

    Some are decoded ahead by `workers` threads, 0 = one per core.
    """
    workers = workers or cores()

    def read(row: int) -> tuple[Pixels, Pixels]:
        pixels = decode_whole(files.read(row), files.name(row))
        height, width = pixels.shape[:2]
        return pixels, resized(pixels, fitted_size(width, height, shorter, longer))

    pool = ThreadPoolExecutor(workers, thread_name_prefix="show")
    waiting: deque[tuple[int, Future[tuple[Pixels, Pixels]]]] = deque()
    try:
        for row in range(len(files) + 2 * workers):
            if row < len(files):
                waiting.append((row, pool.submit(read, row)))
            if row < 2 * workers or not waiting:
                continue
            place, task = waiting.popleft()
            try:
                pixels, small = task.result()
            except DataError as error:
                unreadable.add(place, error)
                continue
            image = torch.from_numpy(small).to(device).permute(2, 0, 1)[None]
            yield Shown(place, pixels, preprocessor.normalise(image)[0])
    finally:
        pool.shutdown(cancel_futures=True)


def in_stored(found: Mapping[str, Tensor], shown: Shown) -> Detections:
    """A detector's answer on `shown.image`, in the stored picture.

    found: boxes (D, 4), scores (D,), labels (D,) from 1 and, where it draws masks, masks
    (D, 1, 28, 28) shares within each box.
    """
    (height, width), (high, wide) = shown.stored, shown.image.shape[-2:]
    scale = found["boxes"].new_tensor([width / wide, height / high] * 2)
    boxes = (found["boxes"] * scale).float().cpu()
    answer = Detections(
        boxes=boxes.numpy(),
        scores=found["scores"].float().cpu().numpy(),
        labels=(found["labels"] - 1).cpu().numpy().astype(np.int64),
    )
    if "masks" in found:
        answer["masks"] = _runs(found["masks"].float().cpu(), boxes, shown.stored)
    return answer


def _runs(masks: Tensor, boxes: Tensor, stored: tuple[int, int]) -> Sequence[dict[str, object]]:
    """One at a time: a hundred masks of a large picture would take gigabytes."""
    runs: list[dict[str, object]] = []
    for mask, box in zip(masks, boxes, strict=True):
        pasted = paste_masks_in_image(mask[None], box[None], stored)[:, 0] > MASK_SHARE
        runs += encode_masks(pasted.numpy())
    return runs


def class_map(logits: Tensor, stored: tuple[int, int]) -> Pixels:
    """The likeliest class (H, W) uint8 of each stored pixel, from logits (K, h, w)."""
    large = F.interpolate(logits[None].float(), stored, mode="bilinear", align_corners=False)
    return large[0].argmax(0).to(torch.uint8).cpu().numpy()
