"""STL-10 in its original binary format (Coates et al. 2011): 96 px, 10 classes, 13,000 images.

train_X.bin contains images as (3, 96, 96) in column-major order, train_y.bin one byte from 1 to 10
per image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resnets.data.dataset.source import ArrayPart, Source
from resnets.data.errors import DataError
from resnets.data.files.folder import read_file
from resnets.data.files.walk import count_unread

FOLDER, NAMES = "stl10_binary", "class_names.txt"
SIDE = 96  # px
PIXELS = 3 * SIDE * SIDE
UNLABELED, FOLDS = "unlabeled_X.bin", "fold_indices.txt"


def find_stl10(folder: Path) -> Path | None:
    """Return the folder of the files, `folder` itself or stl10_binary/ in it, or None."""
    places = (folder, folder / FOLDER)
    return next((each for each in places if (each / "train_X.bin").is_file()), None)


def open_stl10(folder: Path, name: str, root: Path | None = None) -> Source:
    """Open the data set in `folder`. Raises DataError for a missing or damaged file.

    root: the folder that the user gave, whose other files are counted; default `folder`. Unlabeled
    images and the folds of the training images are not read; notes say so.
    """
    text = read_file(folder / NAMES) if (folder / NAMES).is_file() else b""
    classes = tuple(text.decode("utf-8", "replace").split()) or tuple(map(str, range(1, 11)))
    notes = []
    if (folder / UNLABELED).is_file():
        count = (folder / UNLABELED).stat().st_size // PIXELS
        notes.append(f"{UNLABELED}: {count:,} images without labels, not used")
    if (folder / FOLDS).is_file():
        notes.append(f"{FOLDS}: the ten folds of the training images are not used")
    parts = [f"{title}_{what}.bin" for title in ("train", "test") for what in "Xy"]
    read = [folder / each for each in (NAMES, UNLABELED, FOLDS, *parts)]
    return Source(
        name,
        classes,
        _read_part("train", folder, len(classes)),
        test=lambda: _read_part("test", folder, len(classes)),
        notes=tuple(notes),
        skipped=count_unread(root or folder, read),
    )


def _read_part(title: str, folder: Path, count: int) -> ArrayPart:
    pixels, labels = (
        np.frombuffer(read_file(folder / f"{title}_{what}.bin"), np.uint8) for what in "Xy"
    )
    if not len(labels) or len(pixels) != len(labels) * PIXELS:
        raise DataError(
            f"{folder}/{title}_X.bin: {len(pixels):,} bytes are not the {len(labels):,} images of"
            f" {SIDE}x{SIDE} px that {title}_y.bin labels; cut short or damaged, fetch both again"
        )
    if labels.min() < 1 or labels.max() > count:
        raise DataError(
            f"{folder}/{title}_y.bin: labels {labels.min()} to {labels.max()}, not 1 to {count}"
        )
    images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 3, 2, 1)  # columns come first
    return ArrayPart(title, np.ascontiguousarray(images), labels.astype(np.int64) - 1)
