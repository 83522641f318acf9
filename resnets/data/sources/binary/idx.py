"""Data sets in IDX files, the format of MNIST."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnets.data.dataset.source import ArrayPart, Source
from resnets.data.errors import DataError
from resnets.data.files.folder import read_file
from resnets.data.files.walk import count_unread

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
IDX_NAME = re.compile(
    r"(?P<prefix>(?:.+-)?)(?P<split>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte"
    r"(?:\.gz)?"
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
    """True if the folder contains MNIST-like IDX files."""
    return any(key.split == "train" for key in _find_idx_files(folder))


def open_idx(folder: Path, name: str, classes: tuple[str, ...] | None = None) -> Source:
    """Open a folder of IDX files: train-images and -labels; t10k-images and -labels are the test.

    Files may be gzipped, be named train-images.idx3-ubyte, and each be in a folder of the same
    name, as some unpackers create. Files of EMNIST are named emnist-NAME-train-..., with class
    names in emnist-NAME-mapping.txt. Without `classes` or such a file, classes are named by their
    numbers. Raises DataError if the folder contains several data sets.
    """
    files = _find_idx_files(folder)
    prefixes = sorted({key.prefix for key in files if key.split == "train"})
    if len(prefixes) > 1:
        shown = ", ".join(prefix or "train" for prefix in prefixes)
        raise DataError(
            f"{folder}: contains several data sets ({shown}); put each into its own folder"
        )
    (prefix,) = prefixes
    train = _read_part(folder, files, "train", prefix, "train")
    mapping = folder / f"{prefix}mapping.txt"
    names, notes = classes, tuple[str, ...]()
    if names is None and prefix and mapping.is_file():
        name_of_label = _read_mapping(mapping)
        train, names = _apply_mapping(train, name_of_label, mapping), tuple(name_of_label.values())
        notes = (f"classes from {mapping.name}; images are as stored; EMNIST's are transposed",)
    names = names or tuple(str(label) for label in range(int(train.labels.max()) + 1))
    tests = [key.split for key in files if key.prefix == prefix and key.split != "train"]
    splits = ("train", *tests[:1])
    read = [file for key, file in files.items() if key.prefix == prefix and key.split in splits]

    def test() -> ArrayPart:
        part = _read_part(folder, files, "test", prefix, tests[0])
        return _apply_mapping(part, name_of_label, mapping) if notes else part

    skipped = count_unread(folder, [*read, *([mapping] if notes else [])])
    return Source(name, names, train, test=test if tests else None, notes=notes, skipped=skipped)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped or not; raises DataError for any other file."""
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


class _Key(NamedTuple):
    prefix: str  # "", or "emnist-letters-"
    split: str
    kind: str  # "images" or "labels"


def _find_idx_files(folder: Path) -> dict[_Key, Path]:
    """Find the IDX files of a folder, or in subfolders of their names; plain before gzipped."""
    found: dict[_Key, Path] = {}
    for path in sorted(folder.glob("*ubyte*"), key=lambda path: (path.is_dir(), path.name)):
        files = sorted(path.glob("*ubyte*")) if path.is_dir() else [path]
        for file in files:
            name = IDX_NAME.fullmatch(file.name)
            if name is not None and not file.is_dir():
                found.setdefault(_Key(name["prefix"], name["split"], name["kind"]), file)
    return found


def _read_part(
    folder: Path, files: Mapping[_Key, Path], title: str, prefix: str, split: str
) -> ArrayPart:
    for kind in ("images", "labels"):
        if _Key(prefix, split, kind) not in files:
            number = "3" if kind == "images" else "1"
            name = f"{prefix}{split}-{kind}-idx{number}-ubyte"
            raise DataError(f"{folder}: no {name} or {name}.gz in it")
    images, labels = (read_idx(files[_Key(prefix, split, kind)]) for kind in ("images", "labels"))
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{folder}: {split}-images {images.shape} and {split}-labels {labels.shape}"
            " do not belong together"
        )
    return ArrayPart(title, images[..., None].copy(), labels.astype(np.int64))


def _read_mapping(file: Path) -> dict[int, str]:
    """Read the names of EMNIST's labels: lines of a label and the codes of its characters."""
    name_of_label: dict[int, str] = {}
    for number, line in enumerate(read_file(file).decode("ascii", "replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) < 2 or not all(map(str.isdecimal, words)):
            raise DataError(f"{file}: line {number}: expected a label and the codes of its letters")
        name_of_label[int(words[0])] = chr(int(words[1]))
    if len(set(name_of_label.values())) < len(name_of_label):
        raise DataError(f"{file}: gives the same name to two labels")
    return dict(sorted(name_of_label.items()))


def _apply_mapping(part: ArrayPart, name_of_label: Mapping[int, str], file: Path) -> ArrayPart:
    """Return the part with labels as indices into the named ones: EMNIST's letters begin at 1."""
    labels = np.array(list(name_of_label), np.int64)
    if unknown := sorted(set(part.labels.tolist()) - set(name_of_label)):
        raise DataError(f"{file}: does not name the label {unknown[0]}")
    return replace(part, labels=np.searchsorted(labels, part.labels))
