"""CIFAR-10 and CIFAR-100 as their authors store them: Python or binary batches.

Python batches are pickles; they are read by an unpickler that can build arrays and nothing else.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnets.data.errors import DataError
from resnets.data.files import read_file
from resnets.data.parts import ArrayPart, Source

PIXELS = 3 * 32 * 32
ARRAY_GLOBALS = frozenset(
    (module, name)
    for module, names in {
        "numpy": ("ndarray", "dtype"),
        "numpy.core.multiarray": ("_reconstruct",),
        "numpy._core.multiarray": ("_reconstruct",),
        "_codecs": ("encode",),
    }.items()
    for name in names
)


@dataclass(frozen=True)
class _Layout:
    """Files of one variant; `label_bytes` precede each picture of a binary one, 0 = pickles."""

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
    """The folder with the batches, `folder` itself or one below it, and their layout."""
    for layout in LAYOUTS:
        for place in (folder, folder / layout.folder):
            if (place / layout.names).is_file() and (place / layout.train[0]).is_file():
                return place, layout
    return None


def open_cifar(place: Path, layout: _Layout, name: str) -> Source:
    """The set in `place`; CIFAR-100's fine classes. DataError names a missing or damaged file."""
    classes = _class_names(place / layout.names, layout)
    train = _read_part("train", place, layout.train, layout)
    return Source(
        name, classes, train, test=lambda: _read_part("test", place, (layout.test,), layout)
    )


def _read_part(title: str, place: Path, names: tuple[str, ...], layout: _Layout) -> ArrayPart:
    batches = [_read_batch(place / name, layout.label_bytes) for name in names]
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
    if (
        not isinstance(pixels, np.ndarray)
        or labels is None
        or pixels.shape != (len(labels), PIXELS)
    ):
        raise DataError(f"{path}: not a CIFAR batch; fetch it again")
    return pixels, np.asarray(labels, np.int64)


def _class_names(path: Path, layout: _Layout) -> tuple[str, ...]:
    if layout.label_bytes:
        return tuple(read_file(path).decode("utf-8").split())
    names = _unpickle(path)
    return tuple(names.get("label_names") or names.get("fine_label_names") or ())


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays and plain containers; refuses every other global."""

    def find_class(self, module: str, name: str) -> Any:
        """Look up one of the few globals an array needs."""
        if (module, name) not in ARRAY_GLOBALS:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in it")
        return super().find_class(module, name)


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        # The original batches were written by Python 2, whose strings are bytes.
        content = _ArrayUnpickler(io.BytesIO(read_file(path)), encoding="latin1").load()
    except DataError:
        raise
    except Exception as error:  # damaged pickles raise anything
        raise DataError(f"{path}: not a CIFAR batch ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a CIFAR batch; fetch it again")
    return content
