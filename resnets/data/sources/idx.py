"""Sets stored as IDX files, MNIST's format."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnets.data.dataset.parts import ArrayPart, Source
from resnets.data.errors import DataError
from resnets.data.files.open import read_file

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
IDX_UBYTE = 0x08  # IDX type code of unsigned bytes
IDX_KINDS = {
    0x09: "signed bytes",
    0x0B: "16-bit integers",
    0x0C: "32-bit integers",
    0x0D: "32-bit floats",
    0x0E: "64-bit floats",
}


def has_idx(folder: Path) -> bool:
    """Whether the folder holds MNIST-like IDX files."""
    return any(folder.glob("train-images*idx3-ubyte*"))


def open_idx(folder: Path, name: str, classes: tuple[str, ...] | None = None) -> Source:
    """A folder of IDX files: train-images, train-labels and, as the test set, t10k-images, -labels.

    Files may be gzipped. Without `classes` a class is called by its number.
    """
    train = _idx_part(folder, "train", "train")
    named = classes or tuple(str(label) for label in range(int(train.labels.max()) + 1))
    has_test = any(folder.glob("t10k-images*idx3-ubyte*"))
    return Source(
        name, named, train, test=(lambda: _idx_part(folder, "test", "t10k")) if has_test else None
    )


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes, gzipped or not; DataError when it is anything else."""
    raw = read_file(path)
    try:
        data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch it again") from error
    if len(data) < 4 or data[:2] != bytes(2) or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{path}: not an IDX file of unsigned bytes")
    if data[2] != IDX_UBYTE:
        kind = IDX_KINDS.get(data[2], f"type {data[2]:#04x}")
        raise DataError(
            f"{path}: an IDX file of {kind}, not of unsigned bytes; scale its values to 0 to 255"
        )
    shape = np.frombuffer(data, ">u4", data[3], 4).astype(int).tolist()
    start = 4 + 4 * data[3]
    if len(data) - start != math.prod(shape):
        raise DataError(
            f"{path}: cut short or damaged: {len(data) - start} bytes of pixels where its header"
            f" promises {math.prod(shape)}; fetch it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _idx_part(folder: Path, title: str, prefix: str) -> ArrayPart:
    images = read_idx(_idx_file(folder, f"{prefix}-images", "idx3"))
    labels = read_idx(_idx_file(folder, f"{prefix}-labels", "idx1"))
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{folder}: {prefix}-images {images.shape} and {prefix}-labels {labels.shape}"
            " do not belong together"
        )
    return ArrayPart(title, images[..., None].copy(), labels.astype(np.int64))


def _idx_file(folder: Path, stem: str, kind: str) -> Path:
    found = sorted(folder.glob(f"{stem}*{kind}-ubyte*"))
    if not found:
        raise DataError(f"{folder}: no {stem}-{kind}-ubyte or {stem}-{kind}-ubyte.gz in it")
    return found[0]
