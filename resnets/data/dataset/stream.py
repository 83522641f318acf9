"""Streaming: images read block by block, in an order that is random within a buffer.

A block is what is read at once: a row group of a Parquet file, or neighbours in a tar. An epoch
takes the blocks in random order, some side by side, and puts each of their images off by a random
number of places, so that about `buffer` images are waiting at any time. That order is a pure
function of (seed, epoch): batch k is the same whenever asked for, and no image comes twice or
never. What a shuffle buffer would hold are the blocks kept here, so resuming costs reading those
again (about `buffer` images) and nothing else.

Rank r of R is to take positions r, r + R, ... of the order. The samples of step k then do not
depend on R, and where R divides `LANES` each rank reads its own R-th of the blocks (but for the
last few of an epoch, which all share).
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

LANES = 16  # blocks that are read side by side
FEW = 4  # blocks kept where images are read in the order they are stored in
PROBES = 32  # headers read to guess whether all images are grey


class Blocks(Protocol):
    """Stored images that are read a block at a time; safe to use from several threads."""

    def load(self, block: int) -> list[bytes]:
        """All images of a block, encoded; DataError when they cannot be had."""

    def name(self, block: int, place: int) -> str:
        """What messages call an image."""

    def identities(self, where: NDArray[np.int64]) -> tuple[Sequence[str], str]:
        """What images (N, 2) of block and place are called for good, and what that is."""


class BlockFiles:
    """`Files` that keep the blocks in use, up to `limit` images of them.

    where: (N, 2) block of each image and its place in it.
    """

    def __init__(self, blocks: Blocks, where: NDArray[np.int64], limit: int) -> None:
        self.blocks, self.where, self.limit = blocks, where, limit
        self._held: OrderedDict[int, Future[list[bytes]]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many there are."""
        return len(self.where)

    def name(self, index: int) -> str:
        """What messages call the image."""
        return self.blocks.name(*self.where[index].tolist())

    def read(self, index: int) -> bytes:
        """The encoded bytes; DataError when they cannot be had."""
        block, place = self.where[index].tolist()
        data = self._block(block)[place]
        if not data:
            raise DataError(f"{self.name(index)}: contains no image")
        return data

    def identities(self) -> tuple[Sequence[str], str]:
        """What the images are called for good, and what that is ("sample key")."""
        return self.blocks.identities(self.where)

    def take(self, rows: NDArray[np.int64]) -> BlockFiles:
        """The files of `rows`, renumbered from 0."""
        return BlockFiles(self.blocks, self.where[rows], self.limit)

    def _block(self, block: int) -> list[bytes]:
        """One thread loads a block; those that want it too wait for it."""
        with self._lock:
            known = self._held.get(block)
            future = self._held[block] = known or Future()
            self._held.move_to_end(block)
        if known is None:
            try:
                future.set_result(self.blocks.load(block))
            except Exception as error:  # kept: the block's other images fail alike
                future.set_exception(error)
            self._trim()
        return future.result()

    def _trim(self) -> None:
        """Drop the least recently used blocks."""
        with self._lock:
            held = {block: _count(future) for block, future in self._held.items()}
            total = sum(held.values())
            for block in list(self._held)[:-1]:
                if total <= self.limit:
                    return
                if self._held[block].done():
                    total -= held[block]
                    del self._held[block]


def _count(future: Future[list[bytes]]) -> int:
    return len(future.result()) if future.done() and future.exception() is None else 1


@dataclass(frozen=True, eq=False)
class StreamSplit(FileSplit):
    """A set whose `files` are `BlockFiles`, taken in an order that is random within `buffer`.

    `permutation` takes the place of `order.permutation`.
    """

    buffer: int = 0

    def permutation(self, n: int, seed: int, epoch: int) -> NDArray[np.int64]:
        """The order (n,) of an epoch, read-only."""
        assert n == len(self)
        return _permutation(self, seed, epoch)


@lru_cache(maxsize=4)
def _permutation(split: StreamSplit, seed: int, epoch: int) -> NDArray[np.int64]:
    assert isinstance(split.files, BlockFiles)
    return stream_order(split.files.where[:, 0], split.buffer, seed, epoch)


def stream_order(block: NDArray[np.int64], buffer: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Rows (N,) of images in `block` (N,), mixed as the module says.

    Blocks, in random order, are dealt to `LANES` lanes. Each lane puts its images off by up to
    buffer / LANES places, and the order takes one of each lane in turn: the k-th of all lanes
    before any (k + 1)-th.
    """
    numbers, of = np.unique(block, return_inverse=True)
    chance = order.random_bits(seed, epoch, numbers, order.STREAM_BLOCKS)
    turn = np.empty(len(numbers), np.int64)  # of each block, in the random order of all
    turn[np.argsort(chance, kind="stable")] = np.arange(len(numbers))
    lanes = min(LANES, len(numbers))
    lane, rows = turn[of] % lanes, np.arange(len(block))
    line = np.lexsort((rows, turn[of], lane))
    place = _places(lane[line])
    late = buffer / lanes * order.uniform(seed, epoch, line, order.STREAM_BUFFER)
    line = line[np.lexsort((place + late, lane[line]))]
    mixed = line[np.lexsort((lane[line], _places(lane[line])))]
    mixed.setflags(write=False)
    return mixed


def _places(lane: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place (N,) of each within its lane, of lanes (N,) that are sorted."""
    return np.arange(len(lane)) - np.searchsorted(lane, lane)


@dataclass(frozen=True, eq=False)
class StreamPart:
    """A part of a stored set that is read in blocks; `where` as in `BlockFiles`, sorted.

    block_size: images of the largest block, where the part has only some images of each. groups: as
    of `FilePart`.
    """

    title: str
    blocks: Blocks
    where: NDArray[np.int64]
    labels: Labels
    block_size: int = 0
    groups: Sequence[str] | None = None

    @property
    def files(self) -> BlockFiles:
        """All of its images, a few blocks of them kept."""
        return BlockFiles(self.blocks, self.where, FEW * self._largest)

    @property
    def _largest(self) -> int:
        """Images of the largest block."""
        return max(self.block_size, int(np.bincount(self.where[:, 0]).max(initial=0)))

    def open(
        self, rows: Rows, classes: tuple[str, ...], description: str, spec: DataSpec, training: bool
    ) -> StreamSplit:
        """The images of `rows`. They stay where they are, whatever `spec.in_memory` says."""
        limit = FEW * self._largest
        if training:  # the blocks of the buffer, and some slack for the last images of each
            limit += LANES * self._largest + spec.shuffle_buffer + spec.shuffle_buffer // 4
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
    """Whether the first images that can be read are grey, all of them."""
    found = []
    for row in range(min(PROBES, len(files))):
        try:
            found.append(image_header(files.read(row), files.name(row))[2])
        except DataError:  # named when its turn comes
            continue
    return bool(found) and all(found)
