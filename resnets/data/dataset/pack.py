"""Packed data sets: all images, decoded and resized, in one memory-mapped file.

Version 1. Numbers are little-endian.

    bytes 0..7      magic, "RESNPACK"
    8..11           version, uint32
    12..15          zero
    16..23, 24..31  offset and length of the index in bytes, uint64; it ends the file
    32..63          SHA-256 of the index
    64..            the images, back to back, each a binary PGM (gray) or PPM (RGB) file
    at its offset   the index, JSON in UTF-8

The index: `name` (of the original data set), `size` (shorter side in px to which larger images were
resized), `classes`, and `parts`: "train" and, if they exist, "val" and "test". A part has its
`title`, the `start` of its first image, and for each image in order its name (`names`), class
(`labels`), length (`bytes`) and CRC-32 (`crc32`). An image of length 0 was in quarantine or
unreadable during packing; it keeps its row, and is skipped when the data set is opened. `ids` and
`content` are the original images' identities and content keys, N uint64 each in base64, so that the
same images are held out as from the original data set; older packs lack them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mmap
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.data.dataset.source import FilePart, Source
from resnets.data.errors import DataError
from resnets.utils.errors import reading
from resnets.utils.suggest import suggest_path

MAGIC, VERSION = b"RESNPACK", 1
HEADER = struct.Struct("<8sIIQQ32s")
SUFFIX = ".pack"
ROLES = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class PackFiles:
    """Images of a packed data set; spans: (N, 2) offset and size of each in bytes."""

    path: Path
    memory: memoryview
    names: Sequence[str]
    spans: NDArray[np.int64]
    crc32: NDArray[np.uint32]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def name(self, index: int) -> str:
        """Return pack and image, "set.pack:train/cat/1.jpg"."""
        return f"{self.path}:{self.names[index]}"

    def read(self, index: int) -> memoryview:
        """Return the image as a PGM or PPM file, without copying it."""
        offset, size = self.spans[index].tolist()
        return self.memory[offset : offset + size]

    def is_stored(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether each of `rows` is stored; False if it was skipped during packing."""
        return self.spans[rows, 1] > 0

    def take(self, rows: NDArray[np.int64]) -> PackFiles:
        """Return the images of `rows`, renumbered from 0."""
        names = [self.names[row] for row in rows]
        return PackFiles(self.path, self.memory, names, self.spans[rows], self.crc32[rows])


def is_pack(path: Path) -> bool:
    """True if a file is a packed data set, or has the suffix of one."""
    if path.suffix == SUFFIX:
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def open_pack(path: Path) -> Source:
    """Open a packed data set; raises DataError if it is truncated or its index is damaged.

    Images are not read; `verify_images` checks them.
    """
    with reading(path, DataError, "as a packed data set", "pack the set again"):
        return _read_source(path, *_open_index(path))


def _read_source(path: Path, index: dict[str, Any], memory: memoryview) -> Source:
    try:
        parts = {role: _read_part(path, memory, part) for role, part in index["parts"].items()}
        name, classes = f"{index['name']} packed at {index['size']} px", tuple(index["classes"])
        train, val, test = (parts.get(role) for role in ROLES)
        value_range = index.get("value_range")
        levels = None if value_range is None else (float(value_range[0]), float(value_range[1]))
    except (KeyError, TypeError, ValueError) as error:  # an undamaged index of another writer
        raise DataError(
            f"{path}: the index does not follow format version {VERSION} ({error!r})"
        ) from None
    if train is None:
        raise DataError(f"{path}: the index has no training split; pack the data set again")
    open_test = None if test is None else lambda: test
    return Source(name, classes, train, val, open_test, value_range=levels)


def verify_images(path: Path) -> tuple[int, Iterator[tuple[str, bool]]]:
    """Return the number of images, and an iterator over (name, whether its checksum is correct).

    Raises the same DataError as `open_pack`.
    """
    open_pack(path)
    index, memory = _open_index(path)
    parts = [_read_part(path, memory, part).files for part in index["parts"].values()]

    def check() -> Iterator[tuple[str, bool]]:
        for files in parts:
            assert isinstance(files, PackFiles)
            for row, known in enumerate(files.crc32.tolist()):
                yield files.name(row), zlib.crc32(files.read(row)) == known

    return sum(map(len, parts)), check()


def _read_part(path: Path, memory: memoryview, part: dict[str, Any]) -> FilePart:
    names, sizes = part["names"], np.array(part["bytes"], np.int64)
    labels, crc32 = np.array(part["labels"], np.int64), np.array(part["crc32"], np.uint32)
    if not len(names) == len(sizes) == len(labels) == len(crc32):
        raise ValueError("columns of different length")
    starts = part["start"] + np.cumsum(sizes) - sizes
    return FilePart(
        part["title"],
        PackFiles(path, memory, names, np.stack([starts, sizes], 1), crc32),
        labels,
        _decode_numbers(part.get("ids"), len(names)),
        _decode_numbers(part.get("content"), len(names)),
    )


def encode_numbers(numbers: NDArray[np.uint64]) -> str:
    """Encode numbers (N,) for the index."""
    return base64.b64encode(numbers.astype("<u8").tobytes()).decode("ascii")


def _decode_numbers(text: str | None, count: int) -> NDArray[np.uint64] | None:
    if text is None:
        return None
    numbers = np.frombuffer(base64.b64decode(text, validate=True), "<u8").astype(np.uint64)
    if len(numbers) != count:
        raise ValueError("columns of different length")
    return numbers


def _open_index(path: Path) -> tuple[dict[str, Any], memoryview]:
    """Return the verified index, and the whole file as memory."""
    again = "copy it again, or pack the set again"
    if not path.is_file():
        hint = suggest_path(path) or "; make it with `resnets data pack`"
        raise DataError(f"{path}: no such file{hint}")
    try:
        with path.open("rb") as file:
            head = file.read(HEADER.size)
            if not head.startswith(MAGIC):
                raise DataError(f"{path}: not a packed data set; make one with `resnets data pack`")
            memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it") from error
    if len(head) < HEADER.size:
        raise DataError(f"{path}: cut short after {len(head)} bytes; {again}")
    _, version, _, offset, length, checksum = HEADER.unpack(head)
    if version != VERSION:
        raise DataError(
            f"{path}: has version {version} of the format, but this resnets reads version "
            f"{VERSION}; pack the data set again"
        )
    if len(memory) != offset + length:
        raise DataError(
            f"{path}: has {len(memory):,} bytes, but its header states {offset + length:,}; {again}"
        )
    text = memory[offset:]
    if hashlib.sha256(text).digest() != checksum:
        raise DataError(f"{path}: its index is damaged (SHA-256 differs); {again}")
    index = json.loads(bytes(text))
    if not isinstance(index, dict):
        raise DataError(f"{path}: its index is not a JSON object; {again}")
    return index, memory
