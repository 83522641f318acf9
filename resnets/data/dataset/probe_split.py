"""Properties of a sample of a split's images: range of values, number of frames.

Warnings are added to the `DataSummary`, which is shown in the terminal, result.json, the report and
JSON output.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.data.decode import pixel_values
from resnets.data.decode.open_image import open_image
from resnets.data.decode.pixel_values import (
    MIN_LEVELS,
    RANGE_16_BIT,
    Levels,
    is_deep,
    raw_mode,
)
from resnets.data.files.folder import read_file
from resnets.data.files.walk import IMAGE_SUFFIXES, suffix_of
from resnets.data.order import evenly_spaced

log = logging.getLogger("resnets")

Rows = NDArray[np.int64]

MAX_NAMES = 4096  # names that are inspected, evenly spaced
NUM_SAMPLES = 64  # images that are opened
MAX_PIXELS = 1 << 16  # per image, evenly spaced
TAIL_PERCENTILES = (0.05, 99.95)  # of the values; robust against a few hot pixels
MIN_LEVELS_16 = 128  # of 256; with as many, the range of 16 bits is used
BULK_PERCENTILES = (5, 95)  # range of most values
MAX_CLIPPED = 0.5  # fraction of values out of range that causes a warning
MULTI_FRAME = frozenset({".tif", ".tiff", ".gif", ".webp", ".apng", ".png", ".avif", ".avifs"})


class ReadableFiles(Protocol):
    """Encoded images, accessed by index."""

    def name(self, index: int, /) -> str:
        """Return the name of an image, for messages."""

    def read(self, index: int, /) -> bytes | memoryview:
        """Return the encoded bytes."""


@dataclass(frozen=True)
class ImageProbe:
    """Result of a probe.

    Attributes:
        levels: Values that become 0 and 255; None if the range of 16 bits is used (`DataSpec`).
        warnings: Lines about images that may be misread.
        note: The range of values for protocols, if it does not match.
    """

    levels: Levels | None
    warnings: tuple[str, ...] = ()
    note: str = ""


def probe_images(files: ReadableFiles, rows: Rows, levels: Levels | None = None) -> ImageProbe:
    """Open up to 64 of the images `rows`; the selection depends on the rows alone.

    levels: range of the training images, with which the images are compared; None to measure it on
    these images. 8-bit images have none.
    """
    sample = _Sample.of(files, rows)
    warnings = [
        *sample.kinds(),
        *_missing_warning(sample, files),
        *unread_frames_warning(files, rows),
    ]
    values, note = np.concatenate([np.empty(0), *sample.values]), ""
    if not len(values):
        return ImageProbe(levels, tuple(warnings))
    pixel_values.WARNED.add("levels")  # for these images it is reported here
    if levels is None:
        levels, found = _measure_levels(values)
    else:
        found, note = _compare_levels(values, levels)
    return ImageProbe(levels, (*found, *warnings), note)


def unread_frames_warning(files: ReadableFiles, rows: Rows) -> tuple[str, ...]:
    """Return a warning if images of a sample have frames or pages that are not read.

    Reads only headers of up to 64 files, in formats with several frames. MPO is not checked: it is
    a photograph with previews.
    """
    candidates = [row for row in _sample_rows(rows, MAX_NAMES) if _may_have_frames(files.name(row))]
    chosen = _sample_rows(np.array(candidates, np.int64), NUM_SAMPLES)
    with_frames: list[tuple[int, int]] = []

    def count_frames(row: int, image: Image.Image) -> None:
        count = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
        if count > 1:
            with_frames.append((row, count))

    _open_each(files, chosen, count_frames)
    if not with_frames:
        return ()
    row, count = with_frames[0]
    return (
        f"only the first frame or page of an image is read: {len(with_frames)} of {len(chosen)}"
        f" images opened have more, such as {files.name(row)} with {count:,}; save each"
        " as a separate file to use it",
    )


def warn_unread_frames(
    images: Sequence[object], rename: Callable[[str], str] = lambda text: text
) -> None:
    """Log `unread_frames_warning` for the files among `images`; `rename` edits the message."""
    files = _Paths([os.fspath(each) for each in images if isinstance(each, str | os.PathLike)])
    for warning in unread_frames_warning(files, np.arange(len(files.paths))):
        log.warning("%s", rename(warning))


@dataclass(frozen=True)
class _Paths:
    """Files given by path, as `ReadableFiles`."""

    paths: Sequence[str]

    def name(self, index: int, /) -> str:
        return self.paths[index]

    def read(self, index: int, /) -> bytes:
        return read_file(Path(self.paths[index]))


@dataclass
class _Sample:
    """Values of single-band images with more than 8 bits, and the number of other images."""

    values: list[NDArray[np.float64]]
    missing: list[tuple[int, float]] = field(default_factory=list)  # row, share of NaN in it
    seen: int = 0
    highest: int = -1  # the upper 8 bits of 16-bit color
    inverted: bool = False
    fourth_band: bool = False

    @classmethod
    def of(cls, files: ReadableFiles, rows: Rows) -> _Sample:
        sample = cls([])
        _open_each(files, _sample_rows(rows, NUM_SAMPLES), sample.add)
        return sample

    def add(self, row: int, image: Image.Image) -> None:
        """Add an open image to the sample."""
        self.seen += 1
        self.fourth_band |= pixel_values.has_fourth_band(image)
        if is_deep(image):
            self.inverted |= pixel_values.is_inverted(image)
            image.load()
            stored = np.asarray(image)
            self.values.append(_finite_values(stored))
            if share := float(1 - np.isfinite(stored).mean()):
                self.missing.append((row, share))
        elif "16" in raw_mode(image):
            image.load()
            self.highest = max(self.highest, int(np.asarray(image).max()))

    def kinds(self) -> Iterator[str]:
        """Yield warnings that do not depend on the range of values."""
        if 0 <= self.highest < 64:
            yield (
                f"color images of 16 bits whose values end at {self.highest * 257:,} of 65,535 keep"
                f" {self.highest + 1} of 256 levels: Pillow reads their upper 8 bits; convert them"
                " to 8 bits before"
            )
        if 0 < len(self.values) < self.seen:
            yield (
                f"{len(self.values):,} of {self.seen:,} sampled images have more than 8 bits, the"
                " others 8: they are scaled separately"
            )
        if self.inverted:
            yield pixel_values.take_note("white")
        if self.fourth_band:
            yield pixel_values.take_note("bands")


def _missing_warning(sample: _Sample, files: ReadableFiles) -> Iterator[str]:
    """Yield a warning if pixels are NaN."""
    if sample.missing:
        row, share = sample.missing[0]
        yield (
            f"{len(sample.missing):,} of {sample.seen:,} sampled images have pixels that are not a"
            f" number, such as {files.name(row)} with {share:.1%} of them; they become black:"
            " where they mean that there is no data, fill them, or exclude them"
        )


def _measure_levels(values: NDArray[np.float64]) -> tuple[Levels | None, list[str]]:
    """Return the range of training images; None if the 16-bit range keeps 128 levels or more."""
    low, high = (float(each) for each in np.percentile(values, TAIL_PERCENTILES))
    warnings = list(_outlier_warning(values, low, high))
    if low >= 0 and high <= RANGE_16_BIT[1] and (high - low) / 257 >= MIN_LEVELS_16:
        return None, warnings
    return (low, max(high, low + 1e-6)), warnings


def _outlier_warning(values: NDArray[np.float64], low: float, high: float) -> Iterator[str]:
    """Yield a warning if a few values, such as a "no data" value, reduce the others' contrast.

    One value may be frequent (the background); the other values should spread over the levels.
    """
    distinct, counts = np.unique(values, return_counts=True)
    others = values[values != distinct[counts.argmax()]]
    if not len(others) or high <= low:
        return
    bulk_low, bulk_high = np.percentile(others, BULK_PERCENTILES)
    if (bulk_high - bulk_low) / (high - low) * 256 < MIN_LEVELS < len(distinct):
        yield (
            f"values go from {low:g} to {high:g}, but most of them from {bulk_low:g} to"
            f" {bulk_high:g}, which is less than {MIN_LEVELS} of 256 levels; if the others mean"
            " that there is no data, set data.value_range to the range of those that count"
        )


def _compare_levels(values: NDArray[np.float64], levels: Levels) -> tuple[list[str], str]:
    """Return warnings if values do not match the range of the training images, and a short note."""
    low, high = (float(each) for each in np.percentile(values, TAIL_PERCENTILES))
    bottom, top = levels
    observed = f"images of more than 8 bits have values from {low:,.6g} to {high:,.6g}"
    scale = f"{bottom:,.6g} to {top:,.6g}"
    note = f"values {low:,.6g} to {high:,.6g} at the scale of {scale}"
    remedy = (
        "results on them say little; convert them to the scale of the training images, or train"
        " with images such as these"
    )
    levels_kept = (min(high, top) - max(low, bottom)) / (top - bottom) * 256
    if levels_kept < MIN_LEVELS:
        levels_left = f"{max(0, int(levels_kept)) + 1} of 256 levels are left of them"
        return [f"{observed}, but the scale is {scale}: {levels_left}; {remedy}"], note
    if (outside := float(np.mean((values < bottom) | (values > top)))) > MAX_CLIPPED:
        clipped = f"{outside:.0%} of them lie beyond it"
        return [f"{observed}, but the scale is {scale}: {clipped}; {remedy}"], note
    return [], ""


def _sample_rows(rows: Rows, most: int) -> list[int]:
    """Return up to `most` of the rows, evenly spaced."""
    return rows[evenly_spaced(len(rows), most)].tolist()


def _open_each(
    files: ReadableFiles, rows: list[int], visit: Callable[[int, Image.Image], None]
) -> None:
    """Call `visit` for each image that can be opened; errors are reported when images are read."""
    for row in rows:
        try:
            with open_image(files.read(row)) as image:
                visit(row, image)
        except Exception:  # Pillow raises any exception on damaged files
            continue


def _finite_values(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return up to `MAX_PIXELS` of the finite values of an image."""
    flat = values.reshape(-1)
    flat = flat[:: max(1, len(flat) // MAX_PIXELS)].astype(np.float64)
    return flat[np.isfinite(flat)]


def _may_have_frames(name: str) -> bool:
    suffix = suffix_of(name)
    return suffix in MULTI_FRAME or suffix not in IMAGE_SUFFIXES
