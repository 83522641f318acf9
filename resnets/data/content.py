"""Content keys: 64 bits that tell whether two images are the same bytes.

A key is BLAKE2b of the file's size, its first and its last 32 KiB; of arrays, of the pixels. 0
means not known: the file cannot be read, or reading keys would cost too much.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from resnets.data.errors import DataError
from resnets.data.files import Files, FolderFiles, TarFiles, open_regular
from resnets.data.memory import cores
from resnets.data.parts import ArrayPart, FilePart, Part

Keys: TypeAlias = NDArray[np.uint64]

END = 32 << 10  # bytes of a file's start and end that its key is made of
MOST = 200_000  # images whose keys are read; more would take minutes before the first step
SHOWN_FROM = 5_000  # images from which on a bar is shown
CHUNK = 256  # images read by one task of the pool


def content_keys(part: Part) -> Keys | None:
    """(N,) uint64 keys of a part's images; None where reading them would cost too much.

    That is where the set is streamed, or has more than 200,000 images that lie in files.
    """
    if isinstance(part, FilePart) and part.content is not None:
        return part.content
    if part.files is None:
        return pixel_keys(part)
    if isinstance(part, FilePart) and len(part.labels) <= MOST:
        return file_keys(part.files)
    return None


def file_keys(files: Files) -> Keys:
    """(N,) uint64 keys of files, read by a pool of threads; 0 for one that cannot be read."""
    keys = np.zeros(len(files), np.uint64)

    def work(start: int) -> None:
        for row in range(start, min(start + CHUNK, len(files))):
            try:
                keys[row] = key_of(*_ends(files, row))
            except (DataError, OSError):  # named when its turn comes
                continue

    starts = range(0, len(files), CHUNK)
    with ThreadPoolExecutor(2 * cores()) as pool:
        for _ in _progress(pool.map(work, starts), len(starts), len(files)):
            pass
    return keys


def key_of(size: int, head: bytes | memoryview, tail: bytes | memoryview) -> int:
    """The key of a file of `size` bytes by its first and last 32 KiB; never 0."""
    digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=8)
    digest.update(head)
    digest.update(tail)
    return int.from_bytes(digest.digest(), "little") or 1


def pixel_keys(part: Part) -> Keys:
    """(N,) uint64 keys of images that are arrays: of their pixels."""
    assert isinstance(part, ArrayPart)
    images = np.ascontiguousarray(part.images)
    shape = repr(images.shape[1:]).encode()
    keys = [hashlib.blake2b(image.data, digest_size=8, key=shape[:64]).digest() for image in images]
    found = np.frombuffer(b"".join(keys), "<u8").astype(np.uint64)
    return np.maximum(found, np.uint64(1))


def _ends(files: Files, row: int) -> tuple[int, bytes | memoryview, bytes | memoryview]:
    """Size, first and last 32 KiB of a file, without reading what lies between if need be."""
    if isinstance(files, FolderFiles):
        with open_regular(files.root / files.paths[row]) as stream:
            size = os.fstat(stream.fileno()).st_size
            return _read_ends(stream.fileno(), 0, size)
    if isinstance(files, TarFiles):
        start, size = files.spans[row].tolist()
        return _read_ends(files.stream.fileno(), start, size)
    data = files.read(row)
    return len(data), data[:END], data[max(END, len(data) - END) :]


def _read_ends(descriptor: int, start: int, size: int) -> tuple[int, bytes, bytes]:
    head = os.pread(descriptor, min(END, size), start)
    rest = min(END, size - len(head))
    return size, head, os.pread(descriptor, rest, start + size - rest) if rest > 0 else b""


def _progress(done: Iterator[None], total: int, count: int) -> Iterator[None]:
    """Show progress on the terminal for large sets; nothing where stderr is piped."""
    console = Console(stderr=True)
    hidden = count < SHOWN_FROM or not sys.stderr.isatty()
    title = f"comparing {count:,} images"
    return iter(track(done, title, total, console=console, transient=True, disable=hidden))
