"""Read files into one uint8 tensor if the images are small enough, otherwise keep the files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.config import ConfigError, DataSpec
from resnets.data.dataset.labeled_images import FileSplit, Split, TensorSplit
from resnets.data.dataset.labels import Labels
from resnets.data.decode.bad_samples import BadSamples
from resnets.data.decode.decode import Crop, center_box, decode, decode_whole, image_header
from resnets.data.errors import DataError
from resnets.data.files.folder import Files
from resnets.data.order import evenly_spaced
from resnets.data.prefetch import prefetch
from resnets.utils.machine.cpu_count import cores
from resnets.utils.printable import format_count, show_progress

MEMORY_LIMIT = 2 << 30  # maximum bytes of pixels in memory with "auto"
NUM_PROBES = 32  # headers read to check whether all sizes are equal
CHUNK = 256  # images per task of the thread pool


@dataclass(frozen=True)
class _HeaderProbe:
    """Headers of evenly spaced images: their common (height, width), and if all are gray."""

    size: tuple[int, int] | None
    gray: bool


class _SizeMismatchError(Exception):
    """An image does not have the size of the first image."""


def has_random_scaling(spec: DataSpec) -> bool:
    """True if training crops are cut from the stored image at a random scale."""
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
    """Return a TensorSplit if `spec.in_memory` and the images allow it, else a FileSplit.

    With `spec.size`, and without random scaling in training, images are read at that size;
    otherwise images of equal size are read as stored. "auto" keeps at most 2 GiB of pixels in
    memory. Unreadable images are logged and skipped; raises DataError if there are too many for
    training.
    """
    unreadable = BadSamples(description, len(files), spec.max_unreadable if training else None)
    if spec.has_stacks:
        label_tensor, channels = torch.from_numpy(labels), spec.channels or 1
        return FileSplit(
            files, label_tensor, classes, description, channels, unreadable, spec.value_range
        )
    if spec.in_memory != "never":
        prepared = None
        if spec.size is not None and not (training and has_random_scaling(spec)):
            size = spec.test_size or spec.size
            prepared = (size, spec.resize or size, "bilinear")
            pixels = _read_at_size(files, spec, prepared, unreadable)
        else:
            pixels = _read_as_stored(files, spec, unreadable)
        if pixels is not None:
            readable = [row for row in range(len(files)) if row not in unreadable]
            images, label_tensor = torch.from_numpy(pixels), torch.from_numpy(labels[readable])
            return TensorSplit(
                images,
                label_tensor,
                classes,
                description,
                prepared,
                unreadable,
                None,
                files,
                readable,
            )
    if spec.in_memory == "always":
        raise ConfigError(
            f"data.in_memory: 'always', but the images of {description} differ in size;"
            " set data.size and no random scaling, or 'auto'"
        )
    channels = 1 if _probe_headers(files).gray else 3
    label_tensor = torch.from_numpy(labels)
    levels = spec.value_range
    return FileSplit(files, label_tensor, classes, description, channels, unreadable, levels)


def _read_at_size(
    files: Files, spec: DataSpec, prepared: tuple[int, int, str], unreadable: BadSamples
) -> NDArray[np.uint8] | None:
    """Read center crops (size, resize, interpolation); None if they do not fit in memory."""
    size, resize, interpolation = prepared
    if not _fits_memory(spec, len(files), size, size):
        return None
    view = Crop(size, 3, center_box(size, resize), interpolation, spec.value_range)

    def read(index: int) -> NDArray[np.uint8]:
        return decode(files.read(index), view, files.name(index))

    return _read_all(files, (size, size), read, spec.workers, unreadable)


def _read_as_stored(
    files: Files, spec: DataSpec, unreadable: BadSamples
) -> NDArray[np.uint8] | None:
    """Read all images at their own size; None if sizes differ or they do not fit in memory."""
    size = _probe_headers(files).size
    if size is None or not _fits_memory(spec, len(files), *size):
        return None

    def read(index: int) -> NDArray[np.uint8]:
        pixels = decode_whole(files.read(index), files.name(index), spec.value_range)
        if pixels.shape[:2] != size:
            raise _SizeMismatchError
        return pixels

    try:
        return _read_all(files, size, read, spec.workers, unreadable)
    except _SizeMismatchError:
        return None


def _fits_memory(spec: DataSpec, count: int, height: int, width: int) -> bool:
    return spec.in_memory == "always" or count * height * width * 3 <= MEMORY_LIMIT


def _probe_headers(files: Files) -> _HeaderProbe:
    rows = evenly_spaced(len(files), NUM_PROBES).tolist()
    headers = []
    for row in rows:
        try:
            headers.append(image_header(files.read(row), files.name(row)))
        except DataError:  # reported when the image is read
            continue
    sizes = {(height, width) for width, height, _ in headers}
    gray = bool(headers) and all(gray for *_, gray in headers)
    return _HeaderProbe(sizes.pop() if len(sizes) == 1 else None, gray)


def _read_all(
    files: Files,
    size: tuple[int, int],
    read: Callable[[int], NDArray[np.uint8]],
    workers: int,
    unreadable: BadSamples,
) -> NDArray[np.uint8]:
    """Read RGB images with a thread pool, skipping unreadable ones; (N, H, W, 1) if all gray."""
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
    title = f"reading {format_count(count, 'image')}"
    done = prefetch(work, chunks, workers=workers, ahead=2 * workers)
    gray = [is_gray for _, is_gray in show_progress(done, title, len(chunks))]
    readable = [row for row in range(count) if row not in unreadable]
    for index, row in enumerate(readable):
        if index < row:  # in place, because the images may fill most of the memory
            pixels[index] = pixels[row]
    pixels = pixels[: len(readable)]
    return np.ascontiguousarray(pixels[..., :1]) if all(gray) else pixels
