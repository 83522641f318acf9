"""Streaming: images are read block by block, in an order that is random within a buffer.

A block is read at once: a row group of a Parquet file, or consecutive members of a tar file. An
epoch reads the blocks in random order, several in parallel, and delays each image by a random
number of positions, so that about `buffer` images are waiting at any time. The order is a pure
function of (seed, epoch): batch k is the same whenever it is requested, and each image is read
exactly once per epoch. The blocks in memory replace a shuffle buffer, so resuming only has to read
these blocks again (about `buffer` images).

Rank r of R reads positions r, r + R, ... of the order. The samples of step k therefore do not
depend on R, and if R divides `NUM_LANES` each rank reads its own share of the blocks (except the
last few of an epoch, which all ranks read).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.config import DataSpec
from resnets.data import order
from resnets.data.dataset.labeled_images import FileSplit
from resnets.data.dataset.labels import Labels
from resnets.data.dataset.source import Rows
from resnets.data.decode.bad_samples import BadSamples
from resnets.data.decode.decode import image_header
from resnets.data.errors import DataError

NUM_LANES = 16  # blocks that are read in parallel
NUM_SEQUENTIAL = 4  # blocks kept when images are read in stored order
NUM_PROBES = 32  # headers read to check whether all images are gray


class Blocks(Protocol):
    """Stored images that are read one block at a time; thread-safe."""

    def load(self, block: int) -> list[bytes]:
        """Return all encoded images of a block; raises DataError if they cannot be read."""

    def name(self, block: int, position: int) -> str:
        """Return the name of an image, for messages."""

    def identities(self, where: NDArray[np.int64]) -> tuple[Sequence[str], str]:
        """Return permanent names of the images (N, 2) of (block, position), and their kind."""


class BlockFiles:
    """`Files` that cache the most recently used blocks, up to `limit` images.

    where: (N, 2) block of each image, and its position in the block.
    """

    def __init__(self, blocks: Blocks, where: NDArray[np.int64], limit: int) -> None:
        self.blocks, self.where, self.limit = blocks, where, limit
        self._loaded: OrderedDict[int, Future[list[bytes]]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.where)

    def name(self, index: int) -> str:
        """Return the name of the image for messages."""
        return self.blocks.name(*self.where[index].tolist())

    def read(self, index: int) -> bytes:
        """Return the encoded bytes; raise DataError if they cannot be read."""
        block, position = self.where[index].tolist()
        data = self._load_block(block)[position]
        if not data:
            raise DataError(f"{self.name(index)}: contains no image")
        return data

    def identities(self) -> tuple[Sequence[str], str]:
        """Return permanent names of the images, and their kind ("sample key")."""
        return self.blocks.identities(self.where)

    def take(self, rows: NDArray[np.int64]) -> BlockFiles:
        """Return the files of `rows`, renumbered from 0."""
        return BlockFiles(self.blocks, self.where[rows], self.limit)

    def _load_block(self, block: int) -> list[bytes]:
        """Return the images of a block; one thread loads it while others wait for it."""
        with self._lock:
            loaded = self._loaded.get(block)
            future = self._loaded[block] = loaded or Future()
            self._loaded.move_to_end(block)
        if loaded is None:
            try:
                future.set_result(self.blocks.load(block))
            except Exception as error:  # stored, because the block's other images fail, too
                future.set_exception(error)
            self._evict()
        return future.result()

    def _evict(self) -> None:
        """Remove the least recently used blocks."""
        with self._lock:
            sizes = {block: _num_images(future) for block, future in self._loaded.items()}
            total = sum(sizes.values())
            for block in list(self._loaded)[:-1]:
                if total <= self.limit:
                    return
                if self._loaded[block].done():
                    total -= sizes[block]
                    del self._loaded[block]


def _num_images(future: Future[list[bytes]]) -> int:
    return len(future.result()) if future.done() and future.exception() is None else 1


@dataclass(frozen=True, eq=False)
class StreamSplit(FileSplit):
    """A split of `BlockFiles`, in an order that is random within `buffer`.

    `permutation` replaces `order.permutation`.
    """

    buffer: int = 0

    def permutation(self, n: int, seed: int, epoch: int) -> NDArray[np.int64]:
        """Return the order (n,) of an epoch, read-only."""
        assert n == len(self)
        return _permutation(self, seed, epoch)


@lru_cache(maxsize=4)
def _permutation(split: StreamSplit, seed: int, epoch: int) -> NDArray[np.int64]:
    assert isinstance(split.files, BlockFiles)
    return stream_order(split.files.where[:, 0], split.buffer, seed, epoch)


def stream_order(block: NDArray[np.int64], buffer: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return rows (N,) of images in `block` (N,), shuffled as described in the module docstring.

    Blocks are assigned in random order to `NUM_LANES` lanes. Each lane delays its images by up to
    buffer / NUM_LANES positions. The order interleaves the lanes: the k-th images of all lanes come
    before any (k + 1)-th.
    """
    numbers, block_index = np.unique(block, return_inverse=True)
    random = order.random_bits(seed, epoch, numbers, order.STREAM_BLOCKS)
    rank = np.empty(len(numbers), np.int64)  # (blocks,) in random order
    rank[np.argsort(random, kind="stable")] = np.arange(len(numbers))
    lanes = min(NUM_LANES, len(numbers))
    lane, rows = rank[block_index] % lanes, np.arange(len(block))
    rows_in_order = np.lexsort((rows, rank[block_index], lane))
    position = _positions_in_lane(lane[rows_in_order])
    delay = buffer / lanes * order.uniform(seed, epoch, rows_in_order, order.STREAM_BUFFER)
    rows_in_order = rows_in_order[np.lexsort((position + delay, lane[rows_in_order]))]
    result = rows_in_order[
        np.lexsort((lane[rows_in_order], _positions_in_lane(lane[rows_in_order])))
    ]
    result.setflags(write=False)
    return result


def _positions_in_lane(lane: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position (N,) of each image within its lane; lanes (N,) are sorted."""
    return np.arange(len(lane)) - np.searchsorted(lane, lane)


@dataclass(frozen=True, eq=False)
class StreamPart:
    """A part of a stored data set that is read in blocks; `where` as in `BlockFiles`, sorted.

    block_size: number of images of the largest block, if the part contains only some images of
    each. groups: as in `FilePart`.
    """

    title: str
    blocks: Blocks
    where: NDArray[np.int64]
    labels: Labels
    block_size: int = 0
    groups: Sequence[str] | None = None

    @property
    def files(self) -> BlockFiles:
        """All images of the part; a few blocks are cached in memory."""
        return BlockFiles(self.blocks, self.where, NUM_SEQUENTIAL * self._largest)

    @property
    def _largest(self) -> int:
        """Number of images of the largest block."""
        return max(self.block_size, int(np.bincount(self.where[:, 0]).max(initial=0)))

    def open(
        self, rows: Rows, classes: tuple[str, ...], description: str, spec: DataSpec, training: bool
    ) -> StreamSplit:
        """Return the images of `rows`, which are streamed regardless of `spec.in_memory`."""
        limit = NUM_SEQUENTIAL * self._largest
        if training:  # the blocks of the buffer, and some more for the last images of each
            limit += NUM_LANES * self._largest + spec.shuffle_buffer + spec.shuffle_buffer // 4
        files = BlockFiles(self.blocks, self.where[rows], limit)
        return StreamSplit(
            files,
            torch.from_numpy(self.labels[rows]),
            classes,
            description,
            channels=1 if _all_gray(files) else 3,
            unreadable=BadSamples(
                description, len(files), spec.max_unreadable if training else None
            ),
            buffer=spec.shuffle_buffer,
        )


def _all_gray(files: BlockFiles) -> bool:
    """Return whether the first readable images are all gray."""
    found = []
    for row in range(min(NUM_PROBES, len(files))):
        try:
            found.append(image_header(files.read(row), files.name(row))[2])
        except DataError:  # reported when the image is read
            continue
    return bool(found) and all(found)
