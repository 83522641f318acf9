"""Convert COCO segmentations (polygons, run lengths) to masks and back, in pycocotools' format."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.config import ConfigError
from resnets.detect.data.types import Pixels, Segmentation

RunLengths = dict[str, Any]  # {"size": [H, W], "counts": bytes}, compressed run lengths


class MaskError(ValueError):
    """A segmentation that cannot be drawn; the message is the reason and starts with a verb."""


def render_masks(
    outlines: Sequence[Segmentation], size: tuple[int, int], stored: tuple[int, int]
) -> Pixels:
    """Draw masks (M, H, W) uint8 (0 or 1) at `size` (H, W) from outlines for `stored` (H, W).

    Polygons are scaled before they are filled; run lengths are decoded, then resized (nearest).
    """
    masks = np.zeros((len(outlines), *size), np.uint8)
    for row, outline in enumerate(outlines):
        if not isinstance(outline, dict):
            scale = (size[1] / stored[1], size[0] / stored[0])
            polygons = [_scale_polygon(points, scale) for points in outline]
            masks[row] = decode_mask(_fill_polygons(polygons, size))
            continue
        mask = decode_mask(encode_outline(outline, stored))
        if mask.shape != size:
            image = Image.fromarray(mask)
            mask = np.asarray(image.resize(size[::-1], Image.Resampling.NEAREST))
        masks[row] = mask
    return masks


def encode_outline(outline: Segmentation, stored: tuple[int, int]) -> RunLengths:
    """Return the compressed run lengths of a segmentation of an image of `stored` (H, W) px."""
    if not isinstance(outline, dict):
        return _fill_polygons(outline, stored)
    if isinstance(outline["counts"], list):
        return _api().frPyObjects(outline, *stored)
    counts = outline["counts"]
    return {**outline, "counts": counts.encode() if isinstance(counts, str) else counts}


def outline_box(
    outline: Segmentation, stored: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return the box (left, top, right, bottom) in px around a segmentation; zeros if empty."""
    if isinstance(outline, dict):
        return _run_lengths_box(outline["counts"], stored[0])
    corners = np.concatenate([np.asarray(points, np.float64) for points in outline]).reshape(-1, 2)
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    return left, top, right, bottom


def _run_lengths_box(counts: Any, height: int) -> tuple[float, float, float, float]:
    """Return the box around valid run lengths in columns of `height` px, without pycocotools."""
    ends = np.cumsum(counts if isinstance(counts, list) else _decompress_runs(counts))
    stops = ends[1::2]
    starts = ends[::2][: len(stops)]
    starts, stops = starts[stops > starts], stops[stops > starts]
    if not len(starts):
        return 0.0, 0.0, 0.0, 0.0
    first, last = starts // height, (stops - 1) // height
    top = np.where(first == last, starts % height, 0).min()
    bottom = np.where(first == last, (stops - 1) % height + 1, height).max()
    return float(first.min()), float(top), float(last.max() + 1), float(bottom)


def encode_masks(masks: NDArray[Any]) -> list[RunLengths]:
    """Encode masks (N, H, W) of 0 and 1 as compressed run lengths."""
    return [_api().encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]


def encode_run_lengths(mask: NDArray[Any]) -> dict[str, Any]:
    """Encode a mask (H, W) as COCO's uncompressed run lengths, which go down the columns."""
    columns = np.asarray(mask, np.bool_).T.reshape(-1)
    bounds = np.flatnonzero(np.diff(columns, prepend=False)).tolist()
    return {
        "size": list(mask.shape),
        "counts": np.diff([0, *bounds, columns.size]).tolist(),
    }


def decode_mask(run: RunLengths) -> Pixels:
    """Decode run lengths into a mask (H, W) uint8 of 0 and 1."""
    return np.ascontiguousarray(_api().decode(run))


def check_segmentation(outline: Any, height: int, width: int, tolerance: float) -> None:
    """Raise MaskError if `outline` cannot be drawn in an image of height x width px.

    tolerance: distance in px by which corners may be outside the image.
    """
    try:
        if isinstance(outline, dict):
            _check_run_lengths(outline, height, width)
            return
        if not isinstance(outline, list | tuple) or not outline:
            raise MaskError("is neither polygons nor a run-length encoding")
        for points in outline:
            _check_polygon(points, height, width, tolerance)
    except MaskError:
        raise
    except (ValueError, TypeError, OverflowError) as error:  # nested lists of any type
        raise MaskError(f"is not made of plain numbers ({type(error).__name__})") from None


def _check_polygon(points: Any, height: int, width: int, tolerance: float) -> None:
    is_list = isinstance(points, list | tuple | np.ndarray)
    if not is_list or len(points) < 6 or len(points) % 2:
        raise MaskError("has a polygon of fewer than three corners, or half a corner")
    corners = np.asarray(points)
    if corners.dtype.kind not in "iuf" or corners.ndim != 1 or not np.isfinite(corners).all():
        raise MaskError("has a corner that is not a finite number")
    x, y = corners[::2], corners[1::2]
    overhang = max(-x.min(), -y.min(), x.max() - width, y.max() - height)
    if overhang > tolerance:
        raise MaskError(f"passes the edge of {width}x{height} by {overhang:.0f} px")


def _check_run_lengths(outline: dict[str, Any], height: int, width: int) -> None:
    size, counts = outline.get("size"), outline.get("counts")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise MaskError(f"is for (height, width) {size}, not {[height, width]}")
    if isinstance(counts, list):
        valid = all(isinstance(count, int) and count >= 0 for count in counts)
        if not valid or sum(counts) != height * width:
            raise MaskError(f"has runs that do not add up to {height} x {width} pixels")
        return
    if not isinstance(counts, str | bytes):
        raise MaskError("has no run-length encoding (counts)")
    if sum(_decompress_runs(counts)) != height * width:
        raise MaskError(f"has compressed runs that do not add up to {height} x {width} pixels")


def _decompress_runs(counts: str | bytes) -> list[int]:
    """Decode COCO's compressed run lengths, so that damaged ones never reach the C decoder.

    Each character, from "0" on, has six bits: the low five are a digit, the sixth means "more
    follows". From the fourth run on, each is the difference from the run two before it (cocoapi,
    maskApi.c).
    """
    letters = counts.encode("latin-1", "replace") if isinstance(counts, str) else counts
    runs: list[int] = []
    value = shift = 0
    for letter in letters:
        bits = letter - 48
        if not 0 <= bits < 64 or shift > 30:
            raise MaskError("has compressed runs with an invalid character")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        if runs[-1] < 0:
            raise MaskError("has a compressed run of negative length")
        value = shift = 0
    if shift:
        raise MaskError("has compressed runs that are cut short")
    return runs


def _fill_polygons(polygons: Sequence[Any], size: tuple[int, int]) -> RunLengths:
    api = _api()
    lists = [np.asarray(points, np.float64).tolist() for points in polygons]
    return api.merge(api.frPyObjects(lists, *size))


def _scale_polygon(points: Sequence[float], scale: tuple[float, float]) -> list[float]:
    corners = np.asarray(points, np.float64).reshape(-1, 2) * scale
    return corners.reshape(-1).tolist()


@cache
def _api() -> Any:
    """Return faster-coco-eval's mask module, which has pycocotools' interface."""
    try:
        return importlib.import_module("faster_coco_eval.core.mask")
    except ImportError as error:
        raise ConfigError("masks need a library: pip install 'resnets[detect]'") from error
