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

from resnets.data.decode.bad_samples import BadSamples
from resnets.data.decode.decode import decode_fitted
from resnets.data.errors import DataError
from resnets.data.files.folder import Files
from resnets.data.transforms.preprocess import Preprocessor
from resnets.detect.data.geometry import fitted_size
from resnets.detect.data.masks import encode_masks
from resnets.detect.data.types import Detections, Pixels
from resnets.utils.cpu_count import cores

WHOLE = 1 << 27  # values of all classes that are held at once to find the likeliest
MASK_SHARE = 0.5  # of a mask's 0..1 from which on a pixel belongs to the object (He et al. 2017)


@dataclass(frozen=True, eq=False)
class InferenceInput:
    """Image `row` of `stored` (H, W) px, upright: `image` (3, h, w) as the net sees it."""

    row: int
    stored: tuple[int, int]
    image: Tensor


def show(
    files: Files,
    preprocessor: Preprocessor,
    shorter: int,
    longer: int,
    device: torch.device,
    unreadable: BadSamples,
    workers: int = 0,
) -> Iterator[InferenceInput]:
    """Every picture once, in order, its shorter side `shorter` px unless the longer would pass
    `longer`; normalised, on `device`. Unreadable ones are noted in `unreadable` and left out.

    Some are decoded ahead by `workers` threads, 0 = one per core.
    """
    workers = workers or cores()

    def read(row: int) -> tuple[Pixels, tuple[int, int]]:
        return decode_fitted(
            files.read(row),
            files.name(row),
            lambda width, height: fitted_size(width, height, shorter, longer),
        )

    pool = ThreadPoolExecutor(workers, thread_name_prefix="show")
    waiting: deque[tuple[int, Future[tuple[Pixels, tuple[int, int]]]]] = deque()
    try:
        for row in range(len(files) + 2 * workers):
            if row < len(files):
                waiting.append((row, pool.submit(read, row)))
            if row < 2 * workers or not waiting:
                continue
            place, task = waiting.popleft()
            try:
                small, stored = task.result()
            except DataError as error:
                unreadable.add(place, error)
                continue
            image = torch.from_numpy(small).to(device).permute(2, 0, 1)[None]
            yield InferenceInput(place, stored, preprocessor.normalize(image)[0])
    finally:
        pool.shutdown(cancel_futures=True)


def in_stored(found: Mapping[str, Tensor], shown: InferenceInput) -> Detections:
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
