"""What a sample of a split's images says before all are read: their range of values, and frames.

Warnings go into the `DataSummary`, from which the terminal, result.json, the report and JSON output
take them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.data.decode import pixel_values
from resnets.data.decode.open_image import open_image
from resnets.data.decode.pixel_values import FEW, FULL, Levels, is_deep
from resnets.data.files.walk import IMAGE_SUFFIXES, suffix_of

Rows = NDArray[np.int64]

LISTED = 4096  # images whose names are looked at, evenly spaced
SAMPLE = 64  # images that are opened
PIXELS = 1 << 16  # of each at most, evenly spaced
TAILS = (0.05, 99.95)  # percentiles of their values: a few hot pixels do not decide
ENOUGH = 128  # levels of 256: values that keep as many are scaled as 16 bits
BULK = (5, 95)  # percentiles between which most values lie
CLIPPED = 0.5  # share of the values outside of the range, from which it is questioned
MULTI_FRAME = frozenset({".tif", ".tiff", ".gif", ".webp", ".apng", ".png", ".avif", ".avifs"})


class Readable(Protocol):
    """Encoded images by number."""

    def name(self, index: int, /) -> str:
        """What messages call one."""

    def read(self, index: int, /) -> bytes | memoryview:
        """The bytes of one."""


@dataclass(frozen=True)
class ImageProbe:
    """levels: the values that become 0 and 255, None where those of 16 bits serve (`DataSpec`).

    warnings: where the images are not what they seem, a line each. note: the range of values for
    protocols, where it does not fit.
    """

    levels: Levels | None
    warnings: tuple[str, ...] = ()
    note: str = ""


def probe_images(files: Readable, rows: Rows, levels: Levels | None = None) -> ImageProbe:
    """Look at up to 64 of the images `rows`, which follow from them alone.

    levels: those of the training images, which the images are compared with; None = measured on
    these. Images of 8 bits have none.
    """
    sample = _Sample.of(files, rows)
    warnings = [*sample.kinds(), *_missing(sample, files), *frames_left_out(files, rows)]
    values, note = np.concatenate([np.empty(0), *sample.values]), ""
    if not len(values):
        return ImageProbe(levels, tuple(warnings))
    pixel_values.SAID.add("levels")  # of these images it is said here
    if levels is None:
        levels, found = _measured(values)
    else:
        found, note = _compared(values, levels)
    return ImageProbe(levels, (*found, *warnings), note)


def frames_left_out(files: Readable, rows: Rows) -> tuple[str, ...]:
    """A warning where images of a sample have frames or pages that are not read, else nothing.

    Headers alone are read, of up to 64 files of formats that can hold several frames. MPO is a
    photograph with its previews.
    """
    found = [row for row in _spread(rows, LISTED) if _may_hold_many(files.name(row))]
    chosen = _spread(np.array(found, np.int64), SAMPLE)
    several: list[tuple[int, int]] = []

    def count_frames(row: int, image: Image.Image) -> None:
        count = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
        if count > 1:
            several.append((row, count))

    _look_at(files, chosen, count_frames)
    if not several:
        return ()
    row, count = several[0]
    return (
        f"only the first frame or page of an image is read: {len(several)} of {len(chosen)} images"
        f" looked at have more, such as {files.name(row)} with {count:,}; save each as a file of"
        " its own if they are to be used",
    )


@dataclass
class _Sample:
    """Values of the images with one band of more than 8 bits, and how many others there are."""

    values: list[NDArray[np.float64]]
    missing: list[tuple[int, float]] = field(default_factory=list)  # row, share of NaN in it
    seen: int = 0
    highest: int = -1  # the upper 8 bits of 16-bit color
    inverted: bool = False
    fourth_band: bool = False

    @classmethod
    def of(cls, files: Readable, rows: Rows) -> _Sample:
        sample = cls([])
        _look_at(files, _spread(rows, SAMPLE), sample.add)
        return sample

    def add(self, row: int, image: Image.Image) -> None:
        """Take an open image into account."""
        self.seen += 1
        self.fourth_band |= pixel_values.has_fourth_band(image)
        if is_deep(image):
            self.inverted |= pixel_values.is_inverted(image)
            image.load()
            stored = np.asarray(image)
            self.values.append(_finite(stored))
            if share := float(1 - np.isfinite(stored).mean()):
                self.missing.append((row, share))
        elif "16" in _raw_mode(image):
            image.load()
            self.highest = max(self.highest, int(np.asarray(image).max()))

    def kinds(self) -> Iterator[str]:
        """Warnings that do not depend on the range of the values."""
        if 0 <= self.highest < 64:
            yield (
                f"color images of 16 bits whose values end at {self.highest * 257:,} of 65,535 keep"
                f" {self.highest + 1} of 256 levels: Pillow reads their upper 8 bits; convert them"
                " to 8 bits before"
            )
        if 0 < len(self.values) < self.seen:
            yield (
                f"{len(self.values):,} of {self.seen:,} sampled images have more than 8 bits, the"
                " others 8: they are scaled apart"
            )
        if self.inverted:
            yield pixel_values.note_once("white")
        if self.fourth_band:
            yield pixel_values.note_once("bands")


def _missing(sample: _Sample, files: Readable) -> Iterator[str]:
    """A warning where pixels are no numbers."""
    if sample.missing:
        row, share = sample.missing[0]
        yield (
            f"{len(sample.missing):,} of {sample.seen:,} sampled images have pixels that are not a"
            f" number, such as {files.name(row)} with {share:.1%} of them; they become black:"
            " where they mean that there is no data, fill them, or leave such images out"
        )


def _measured(values: NDArray[np.float64]) -> tuple[Levels | None, list[str]]:
    """The range of training images; None where 16 bits keep 128 levels of them or more."""
    low, high = (float(each) for each in np.percentile(values, TAILS))
    warnings = list(_outliers(values, low, high))
    if low >= 0 and high <= FULL[1] and (high - low) / 257 >= ENOUGH:
        return None, warnings
    return (low, max(high, low + 1e-6)), warnings


def _outliers(values: NDArray[np.float64], low: float, high: float) -> Iterator[str]:
    """A warning where a few values, such as those for "no data", leave the others no contrast.

    One value may be that of most pixels, a background; the others are to spread over the levels.
    """
    distinct, counts = np.unique(values, return_counts=True)
    others = values[values != distinct[counts.argmax()]]
    if not len(others) or high <= low:
        return
    least, most = np.percentile(others, BULK)
    if (most - least) / (high - low) * 256 < FEW < len(distinct):
        yield (
            f"values go from {low:g} to {high:g}, but most of them from {least:g} to {most:g},"
            f" which is less than {FEW} of 256 levels; if the others mean that there is no data,"
            " set data.value_range to the range of those that count"
        )


def _compared(values: NDArray[np.float64], levels: Levels) -> tuple[list[str], str]:
    """A warning where values do not fit the range of the training images, and a short note."""
    low, high = (float(each) for each in np.percentile(values, TAILS))
    bottom, top = levels
    said = f"images of more than 8 bits have values from {low:,.6g} to {high:,.6g}"
    scale = f"{bottom:,.6g} to {top:,.6g}"
    note = f"values {low:,.6g} to {high:,.6g} at the scale of {scale}"
    remedy = (
        "results on them say little; convert them to the scale of the training images, or train"
        " with images such as these"
    )
    kept = (min(high, top) - max(low, bottom)) / (top - bottom) * 256
    if kept < FEW:
        levels_left = f"{max(0, int(kept)) + 1} of 256 levels are left of them"
        return [f"{said}, but the scale is {scale}: {levels_left}; {remedy}"], note
    if (beyond := float(np.mean((values < bottom) | (values > top)))) > CLIPPED:
        clipped = f"{beyond:.0%} of them lie beyond it"
        return [f"{said}, but the scale is {scale}: {clipped}; {remedy}"], note
    return [], ""


def _spread(rows: Rows, most: int) -> list[int]:
    """Up to `most` of the rows, evenly spaced."""
    places = np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.int64)
    return [int(row) for row in rows[np.unique(places)]]


def _look_at(files: Readable, rows: list[int], look: Callable[[int, Image.Image], None]) -> None:
    """Call `look` for each image that can be opened; others are named when their turn comes."""
    for row in rows:
        try:
            with open_image(files.read(row)) as image:
                look(row, image)
        except Exception:  # whatever a damaged file makes Pillow raise
            continue


def _finite(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Up to PIXELS of the finite values of an image."""
    flat = values.reshape(-1)
    flat = flat[:: max(1, len(flat) // PIXELS)].astype(np.float64)
    return flat[np.isfinite(flat)]


def _raw_mode(image: Image.Image) -> str:
    """How Pillow calls the stored pixels."""
    tiles = getattr(image, "tile", None)
    return str(tiles[0][3]) if tiles else ""


def _may_hold_many(name: str) -> bool:
    suffix = suffix_of(name)
    return suffix in MULTI_FRAME or suffix not in IMAGE_SUFFIXES
