"""Content keys: 64 bits that tell whether two images are the same bytes.

A key is BLAKE2b of the whole file; of arrays, of the pixels. Nothing less tells files apart: scans
without compression have one size, and margins that are equal however much of them is read. 0 means
not known: the file cannot be read, or reading keys would cost too much.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from resnets.data.dataset.in_memory import cores
from resnets.data.dataset.source import ArrayPart, FilePart, Part
from resnets.data.errors import DataError
from resnets.data.files.folder import Files, FolderFiles, open_regular
from resnets.data.files.tar import TarFiles

Keys: TypeAlias = NDArray[np.uint64]

MOST = 200_000  # images whose keys are read; more would take minutes before the first step
MOST_BYTES = 128 << 30  # and bytes of them, for the same reason
SAMPLE = 64  # files by whose sizes the bytes of all are estimated
BLOCK = 1 << 20  # bytes that are read at a time
SHOWN_FROM = 5_000  # images from which on a bar is shown
CHUNK = 16  # images read by one task of the pool


def content_keys(part: Part) -> Keys | None:
    """(N,) uint64 keys of a part's images; None where reading them would cost too much.

    That is where the set is streamed, or its images lie in files that are too many or too large
    (`affordable`).
    """
    if isinstance(part, FilePart) and part.content is not None:
        return part.content
    if part.files is None:
        return pixel_keys(part)
    if isinstance(part, FilePart) and affordable(part.files):
        return file_keys(part.files)
    return None


def affordable(files: Files) -> bool:
    """Whether keys of files are read: of at most 200,000, of about 128 GiB in all."""
    if not 0 < len(files) <= MOST:
        return len(files) == 0
    rows = np.unique(np.linspace(0, len(files) - 1, SAMPLE).astype(np.int64)).tolist()
    return sum(_size(files, row) for row in rows) / len(rows) * len(files) <= MOST_BYTES


def file_keys(files: Files) -> Keys:
    """(N,) uint64 keys of files, read by a pool of threads; 0 for one that cannot be read."""
    keys = np.zeros(len(files), np.uint64)

    def work(start: int) -> None:
        for row in range(start, min(start + CHUNK, len(files))):
            try:
                keys[row] = _key(files, row)
            except (DataError, OSError):  # named when its turn comes
                continue

    starts = range(0, len(files), CHUNK)
    with ThreadPoolExecutor(2 * cores()) as pool:
        for _ in _progress(pool.map(work, starts), len(starts), len(files)):
            pass
    return keys


def key_of(blocks: Iterable[bytes | memoryview]) -> int:
    """The key of a file that is read in blocks; never 0."""
    digest = hashlib.blake2b(digest_size=8)
    for block in blocks:
        digest.update(block)
    return int.from_bytes(digest.digest(), "little") or 1


def pixel_keys(part: Part) -> Keys:
    """(N,) uint64 keys of images that are arrays: of their pixels."""
    assert isinstance(part, ArrayPart)
    images = np.ascontiguousarray(part.images)
    shape = repr(images.shape[1:]).encode()
    keys = [hashlib.blake2b(image.data, digest_size=8, key=shape[:64]).digest() for image in images]
    found = np.frombuffer(b"".join(keys), "<u8").astype(np.uint64)
    return np.maximum(found, np.uint64(1))


def _key(files: Files, row: int) -> int:
    """The key of a file, a block of which is in memory at a time where it lies open to that."""
    if isinstance(files, FolderFiles):
        with open_regular(files.root / files.paths[row]) as stream:
            return key_of(iter(partial(os.read, stream.fileno(), BLOCK), b""))
    if isinstance(files, TarFiles):
        start, size = files.spans[row].tolist()
        return key_of(_span(files.stream.fileno(), start, start + size))
    return key_of([files.read(row)])


def _span(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        block = os.pread(descriptor, min(BLOCK, end - start), start)
        if not block:
            raise OSError("the archive ends within a member")
        start += len(block)
        yield block


def _size(files: Files, row: int) -> int:
    """Bytes of a file; 0 where it cannot be read."""
    try:
        if isinstance(files, FolderFiles):
            return (files.root / files.paths[row]).stat().st_size
        return int(files.spans[row, 1]) if isinstance(files, TarFiles) else len(files.read(row))
    except (DataError, OSError):
        return 0


def _progress(done: Iterator[None], total: int, count: int) -> Iterator[None]:
    """Show progress on the terminal for large sets; nothing where stderr is piped."""
    console = Console(stderr=True)
    hidden = count < SHOWN_FROM or not sys.stderr.isatty()
    title = f"comparing {count:,} images"
    return iter(track(done, title, total, console=console, transient=True, disable=hidden))
