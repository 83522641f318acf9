"""Reading a set of files: into one uint8 tensor where that pays, else kept as files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from resnets.config import ConfigError, DataSpec
from resnets.data.dataset.labeled_images import FileSplit, Split, TensorSplit
from resnets.data.dataset.labels import Labels
from resnets.data.decode.bad_samples import BadSamples
from resnets.data.decode.decode import Crop, center_box, decode, decode_whole, image_header
from resnets.data.errors import DataError
from resnets.data.files.folder import Files
from resnets.data.prefetch import prefetch
from resnets.utils.cpu_count import cores
from resnets.utils.printable import Console, format_count

MEMORY_LIMIT = 2 << 30  # bytes of pixels that "auto" keeps in memory
PROBES = 32  # headers read to guess whether all images share one size
CHUNK = 256  # images decoded by one task of the pool

T = TypeVar("T")


@dataclass(frozen=True)
class _Probe:
    """What evenly spaced headers say: the common (height, width) or None; whether all are grey."""

    size: tuple[int, int] | None
    gray: bool


class _UnlikeError(Exception):
    """An image of another size than the first."""


def random_scaling(spec: DataSpec) -> bool:
    """Whether training crops are cut from the stored image at a random scale."""
    return spec.augment.crop in ("scale-jitter", "random-resized")


def load_files(
    files: Files,
    labels: Labels,
    classes: tuple[str, ...],
    description: str,
    spec: DataSpec,
    *,
    training: bool,
) -> Split:
    """A TensorSplit where `spec.in_memory` and the images allow it, else a FileSplit.

    With `spec.size`, and no random scaling in training, images are read straight at that size;
    otherwise images of one size are read as stored. "auto" keeps at most 2 GiB of pixels.
    Unreadable images are named and left out of memory; DataError when training has too many.
    """
    unreadable = BadSamples(description, len(files), spec.max_unreadable if training else None)
    if spec.has_stacks:
        known, channels = torch.from_numpy(labels), spec.channels or 1
        return FileSplit(files, known, classes, description, channels, unreadable, spec.value_range)
    if spec.in_memory != "never":
        prepared = None
        if spec.size is not None and not (training and random_scaling(spec)):
            size = spec.test_size or spec.size
            prepared = (size, spec.resize or size, "bilinear")
            pixels = _read_at_size(files, spec, prepared, unreadable)
        else:
            pixels = _read_as_stored(files, spec, unreadable)
        if pixels is not None:
            kept = [row for row in range(len(files)) if row not in unreadable]
            images, known = torch.from_numpy(pixels), torch.from_numpy(labels[kept])
            return TensorSplit(
                images, known, classes, description, prepared, unreadable, None, files, kept
            )
    if spec.in_memory == "always":
        raise ConfigError(
            f"data.in_memory: 'always', but the images of {description} differ in size;"
            " set data.size and no random scaling, or 'auto'"
        )
    channels = 1 if _probe(files).gray else 3
    given = torch.from_numpy(labels)
    levels = spec.value_range
    return FileSplit(files, given, classes, description, channels, unreadable, levels)


def _read_at_size(
    files: Files, spec: DataSpec, prepared: tuple[int, int, str], unreadable: BadSamples
) -> NDArray[np.uint8] | None:
    """Centre views (size, resize, interpolation), or None where they do not fit."""
    size, resize, interpolation = prepared
    if not _fits(spec, len(files), size, size):
        return None
    view = Crop(size, 3, center_box(size, resize), interpolation, spec.value_range)

    def read(index: int) -> NDArray[np.uint8]:
        return decode(files.read(index), view, files.name(index))

    return _fill(files, (size, size), read, spec.workers, unreadable)


def _read_as_stored(
    files: Files, spec: DataSpec, unreadable: BadSamples
) -> NDArray[np.uint8] | None:
    """All images at their own size, or None where they differ or do not fit."""
    size = _probe(files).size
    if size is None or not _fits(spec, len(files), *size):
        return None

    def read(index: int) -> NDArray[np.uint8]:
        pixels = decode_whole(files.read(index), files.name(index), spec.value_range)
        if pixels.shape[:2] != size:
            raise _UnlikeError
        return pixels

    try:
        return _fill(files, size, read, spec.workers, unreadable)
    except _UnlikeError:
        return None


def _fits(spec: DataSpec, count: int, height: int, width: int) -> bool:
    return spec.in_memory == "always" or count * height * width * 3 <= MEMORY_LIMIT


def _probe(files: Files) -> _Probe:
    rows = np.unique(np.linspace(0, len(files) - 1, PROBES).astype(int)).tolist()
    headers = []
    for row in rows:
        try:
            headers.append(image_header(files.read(row), files.name(row)))
        except DataError:  # named when its turn comes
            continue
    sizes = {(height, width) for width, height, _ in headers}
    gray = bool(headers) and all(gray for *_, gray in headers)
    return _Probe(sizes.pop() if len(sizes) == 1 else None, gray)


def _fill(
    files: Files,
    size: tuple[int, int],
    read: Callable[[int], NDArray[np.uint8]],
    workers: int,
    unreadable: BadSamples,
) -> NDArray[np.uint8]:
    """Readable RGB images, by a pool of threads; (N, H, W, 1) when all of them are grey."""
    count = len(files)
    pixels = np.empty((count, *size, 3), np.uint8)

    def work(start: int) -> bool:
        for index in range(start, min(start + CHUNK, count)):
            try:
                pixels[index] = read(index)
            except DataError as error:
                unreadable.add(index, error)
                pixels[index] = 0
        red, green, blue = np.moveaxis(pixels[start : start + CHUNK], -1, 0)
        return np.array_equal(red, green) and np.array_equal(red, blue)

    workers = workers or cores()
    chunks = range(0, count, CHUNK)
    done = prefetch(work, chunks, workers=workers, ahead=2 * workers)
    gray = [is_gray for _, is_gray in _progress(done, len(chunks), count)]
    kept = [row for row in range(count) if row not in unreadable]
    for place, row in enumerate(kept):
        if place < row:  # in place: the set may fill most of the memory
            pixels[place] = pixels[row]
    pixels = pixels[: len(kept)]
    return np.ascontiguousarray(pixels[..., :1]) if all(gray) else pixels


def _progress(done: Iterator[T], total: int, images: int) -> Iterator[T]:
    """Show progress on the terminal; nothing where stderr is piped."""
    console = Console(stderr=True)
    shown = sys.stderr.isatty()
    title = f"reading {format_count(images, 'image')}"
    return iter(track(done, title, total, console=console, transient=True, disable=not shown))
