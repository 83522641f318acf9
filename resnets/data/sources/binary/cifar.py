"""CIFAR-10 and CIFAR-100 in their original formats: Python or binary batches.

Python batches are pickles; `resnets.data.files.unpickle` reads them without executing anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnets.data.dataset.source import ArrayPart, Source
from resnets.data.errors import DataError
from resnets.data.files.folder import read_file
from resnets.data.files.pickle_machine import PickleError
from resnets.data.files.unpickle import unpickle
from resnets.data.files.unpickle_numpy import ARRAYS
from resnets.data.files.walk import count_unread

PIXELS = 3 * 32 * 32
MAX_LABELS = 100


@dataclass(frozen=True)
class _Layout:
    """The files of a variant; `label_bytes` precede each binary image (0 for pickles)."""

    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int


_TEN = tuple(f"data_batch_{number}" for number in range(1, 6))
LAYOUTS = (
    _Layout("cifar-10-batches-py", _TEN, "test_batch", "batches.meta", 0),
    _Layout("cifar-100-python", ("train",), "test", "meta", 0),
    _Layout(
        "cifar-10-batches-bin",
        tuple(f"{name}.bin" for name in _TEN),
        "test_batch.bin",
        "batches.meta.txt",
        1,
    ),
    _Layout("cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt", 2),
)


def find_cifar(folder: Path) -> tuple[Path, _Layout] | None:
    """Return the folder of the batches (`folder` or one inside it) and their layout, or None.

    Raises DataError if there are several, such as CIFAR-10 and CIFAR-100.
    """
    found = [
        (directory, layout)
        for layout in LAYOUTS
        for directory in (folder, folder / layout.folder)
        if (directory / layout.names).is_file() and (directory / layout.train[0]).is_file()
    ]
    if len(found) > 1:
        names = ", ".join(layout.folder for _, layout in found)
        raise DataError(
            f"{folder}: contains several data sets ({names}); give the folder of one of them"
        )
    return found[0] if found else None


def open_cifar(folder: Path, layout: _Layout, name: str, root: Path | None = None) -> Source:
    """Open the data set in `folder`; CIFAR-100 with its fine classes.

    root: the folder that the user gave, whose other files are counted; default `folder`. Raises
    DataError for a missing or damaged file.
    """
    classes = _read_class_names(folder / layout.names, layout)
    train = _read_part("train", folder, layout.train, layout)
    if len(train.labels) and int(train.labels.max()) >= len(classes):
        raise DataError(
            f"{folder}: has labels up to {train.labels.max()}, but {len(classes)} class names"
        )
    read = [folder / each for each in (*layout.train, layout.test, layout.names)]
    return Source(
        name,
        classes,
        train,
        test=lambda: _read_part("test", folder, (layout.test,), layout),
        skipped=count_unread(root or folder, read),
    )


def _read_part(title: str, folder: Path, names: tuple[str, ...], layout: _Layout) -> ArrayPart:
    batches = [_read_batch(folder / name, layout.label_bytes) for name in names]
    images = np.concatenate([pixels for pixels, _ in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in batches])
    return ArrayPart(title, np.ascontiguousarray(images.transpose(0, 2, 3, 1)), labels)


def _read_batch(path: Path, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    if label_bytes:
        data = np.frombuffer(read_file(path), np.uint8)
        if len(data) == 0 or len(data) % (label_bytes + PIXELS):
            raise DataError(f"{path}: cut short or damaged; fetch it again")
        rows = data.reshape(-1, label_bytes + PIXELS)
        return rows[:, label_bytes:], rows[:, label_bytes - 1].astype(np.int64)
    batch = _unpickle(path)
    labels = batch.get("labels", batch.get("fine_labels"))
    pixels = batch.get("data")
    labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or not isinstance(labels, list)
        or pixels.shape != (len(labels), PIXELS)
        or not all(type(label) is int and 0 <= label < MAX_LABELS for label in labels)
    ):
        raise DataError(f"{path}: not a CIFAR batch; fetch it again")
    return pixels, np.asarray(labels, np.int64)


def _read_class_names(path: Path, layout: _Layout) -> tuple[str, ...]:
    if layout.label_bytes:
        try:
            return tuple(read_file(path).decode("utf-8").split())
        except UnicodeDecodeError:
            raise DataError(f"{path}: class names are not UTF-8; download it again") from None
    meta = _unpickle(path)
    names = meta.get("label_names") or meta.get("fine_label_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: contains no class names; download it again")
    return tuple(names)


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        # The original batches were written by Python 2, whose strings are bytes.
        content = unpickle(read_file(path), ARRAYS)
    except PickleError as error:
        raise DataError(f"{path}: not a CIFAR batch ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a CIFAR batch; fetch it again")
    return content
