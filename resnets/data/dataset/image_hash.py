"""Content keys: 64-bit hashes that are equal for identical images.

A key is the BLAKE2b hash of the whole file, or of the pixels of arrays. Hashing only a part is not
sufficient, because uncompressed scans have equal sizes and equal margins. 0 means unknown: the file
cannot be read, or reading all files would take too long.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from resnets.data.dataset.source import ArrayPart, FilePart, Part
from resnets.data.errors import DataError
from resnets.data.files.folder import Files, FolderFiles, open_regular
from resnets.data.files.tar import TarFiles
from resnets.data.order import evenly_spaced
from resnets.utils.machine.cpu_count import cores
from resnets.utils.printable import show_progress

Keys: TypeAlias = NDArray[np.uint64]

MAX_IMAGES = 200_000  # above, hashing would take minutes before the first step
MAX_BYTES = 128 << 30  # in all, for the same reason
NUM_SAMPLES = 64  # files from whose sizes the total is estimated
BLOCK = 1 << 20  # bytes read at a time
PROGRESS_FROM = 5_000  # images from which progress is shown
CHUNK = 16  # images read by one task of the pool


def content_keys(part: Part) -> Keys | None:
    """Return (N,) uint64 keys of a part's images; None if reading them would take too long.

    This applies to streamed data sets, and to too many or too large files (`can_hash`).
    """
    if isinstance(part, FilePart) and part.content is not None:
        return part.content
    if part.files is None:
        return pixel_keys(part)
    if isinstance(part, FilePart) and can_hash(part.files):
        return file_keys(part.files)
    return None


def can_hash(files: Files) -> bool:
    """True if keys of the files are computed: for at most 200,000 files of about 128 GiB."""
    if not 0 < len(files) <= MAX_IMAGES:
        return len(files) == 0
    rows = evenly_spaced(len(files), NUM_SAMPLES).tolist()
    return sum(_file_size(files, row) for row in rows) / len(rows) * len(files) <= MAX_BYTES


def file_keys(files: Files) -> Keys:
    """Return (N,) uint64 keys of files, read by a thread pool; 0 for unreadable files."""
    keys = np.zeros(len(files), np.uint64)

    def work(start: int) -> None:
        for row in range(start, min(start + CHUNK, len(files))):
            try:
                keys[row] = _hash_file(files, row)
            except (DataError, OSError):  # errors are reported when the image is used
                continue

    starts, title = range(0, len(files), CHUNK), f"comparing {len(files):,} images"
    with ThreadPoolExecutor(2 * cores()) as pool:
        done = pool.map(work, starts)
        hidden = len(files) < PROGRESS_FROM
        for _ in show_progress(done, title, len(starts), hidden=hidden):
            pass
    return keys


def hash_blocks(blocks: Iterable[bytes | memoryview]) -> int:
    """Return the key of a file that is read in blocks; never 0."""
    digest = hashlib.blake2b(digest_size=8)
    for block in blocks:
        digest.update(block)
    return int.from_bytes(digest.digest(), "little") or 1


def pixel_keys(part: Part) -> Keys:
    """Return (N,) uint64 keys of arrays of pixels."""
    assert isinstance(part, ArrayPart)
    images = np.ascontiguousarray(part.images)
    shape = repr(images.shape[1:]).encode()
    keys = [hashlib.blake2b(image.data, digest_size=8, key=shape[:64]).digest() for image in images]
    found = np.frombuffer(b"".join(keys), "<u8").astype(np.uint64)
    return np.maximum(found, np.uint64(1))


def _hash_file(files: Files, row: int) -> int:
    """Return the key of a file, reading it block by block where possible."""
    if isinstance(files, FolderFiles):
        with open_regular(files.root / files.paths[row]) as stream:
            return hash_blocks(iter(partial(os.read, stream.fileno(), BLOCK), b""))
    if isinstance(files, TarFiles):
        start, size = files.spans[row].tolist()
        return hash_blocks(_iter_span(files.stream.fileno(), start, start + size))
    return hash_blocks([files.read(row)])


def _iter_span(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        block = os.pread(descriptor, min(BLOCK, end - start), start)
        if not block:
            raise OSError("the archive ends within a member")
        start += len(block)
        yield block


def _file_size(files: Files, row: int) -> int:
    """Return the size of a file in bytes; 0 if it cannot be read."""
    try:
        if isinstance(files, FolderFiles):
            return (files.root / files.paths[row]).stat().st_size
        return int(files.spans[row, 1]) if isinstance(files, TarFiles) else len(files.read(row))
    except (DataError, OSError):
        return 0
