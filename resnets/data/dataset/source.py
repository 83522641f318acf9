"""A stored data set before it is split: its parts as they are in the source, not yet opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.config import DataSpec
from resnets.data.dataset.in_memory import load_files
from resnets.data.dataset.labeled_images import Split, TensorSplit
from resnets.data.dataset.labels import Labels, is_multilabel
from resnets.data.errors import DataError
from resnets.data.files.folder import Files
from resnets.data.files.walk import SkippedFiles

Rows = NDArray[np.int64]

VAL_NAMES = ("val", "valid", "validation")
PART_NAMES = frozenset({"train", "test", *VAL_NAMES})


class Part(Protocol):
    """A part of a stored data set: its `title` in the source ("train") and its `labels`.

    Labels are (N,) int64, or multi-hot (N, K) uint8 (`data.dataset.labels`).
    """

    @property
    def title(self) -> str:
        """Name of the part in the source; empty if the data set has only one part."""

    @property
    def labels(self) -> Labels:
        """(N,) int64, or (N, K) uint8."""

    @property
    def files(self) -> Files | None:
        """Encoded images, one per label; None if the part contains pixels."""

    def open(
        self, rows: Rows, classes: tuple[str, ...], description: str, spec: DataSpec, training: bool
    ) -> Split:
        """Return the images of `rows` as a split."""


def image_name(part: Part, row: int) -> str:
    """Return the name of an image for messages; for arrays it is the part's title and the row."""
    return f"{part.title} image {row}".strip() if part.files is None else part.files.name(row)


@dataclass(frozen=True, eq=False)
class ArrayPart:
    """Pixels in memory: images (N, H, W, C) uint8."""

    title: str
    images: NDArray[np.uint8]
    labels: Labels
    files: None = None

    def open(
        self, rows: Rows, classes: tuple[str, ...], description: str, spec: DataSpec, training: bool
    ) -> Split:
        """Return the images of `rows` as stored."""
        images, labels = torch.from_numpy(self.images[rows]), torch.from_numpy(self.labels[rows])
        return TensorSplit(images, labels, classes, description)


@dataclass(frozen=True, eq=False)
class FilePart:
    """Encoded images, one per label.

    Attributes:
        ids: (N,) identities, if they are not the paths below the class folders
            (`data.dataset.image_identity`).
        content: (N,) content keys (`data.dataset.image_hash`), if the source stores them.
        stems: (N,) identities computed from the paths without suffix.
        groups: (N,) names of groups of related images, from a column of the table.
    """

    title: str
    files: Files
    labels: Labels
    ids: NDArray[np.uint64] | None = None
    content: NDArray[np.uint64] | None = None
    stems: NDArray[np.uint64] | None = None
    groups: Sequence[str] | None = None

    def open(
        self, rows: Rows, classes: tuple[str, ...], description: str, spec: DataSpec, training: bool
    ) -> Split:
        """Return the images of `rows`, in memory if the spec and their sizes allow it."""
        files, labels = self.files.take(rows), self.labels[rows]
        return load_files(files, labels, classes, description, spec, training=training)


@dataclass(frozen=True)
class Source:
    """A stored data set.

    Attributes:
        test: Function that opens the test part; None if there is none.
        test_title: Name of the test part.
        test_images: Number of test images, if known without opening the part.
        skipped: Files that are in no part.
        notes: Lines about how the source was interpreted.
        warnings: Lines about possible misinterpretations.
        value_range: Range that values of more than 8 bits were already scaled from (`DataSpec`).
    """

    name: str
    classes: tuple[str, ...]
    train: Part
    val: Part | None = None
    test: Callable[[], Part] | None = None
    test_title: str = "its own"
    test_images: int | None = None
    skipped: SkippedFiles = field(default_factory=SkippedFiles)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    value_range: tuple[float, float] | None = None

    @property
    def multilabel(self) -> bool:
        """True if images have multi-hot labels."""
        return is_multilabel(self.train.labels)


def source_from_parts(
    name: str, classes: tuple[str, ...], parts: Mapping[str, Part], where: str
) -> Source:
    """Create a source from parts named train, test, and val (or valid, validation).

    If there is val but no test (ImageNet's layout), val is the test split. If there is a single
    part, of any name, the other splits are held out of it. Raises DataError if there are several
    parts but no train.
    """
    if len(parts) == 1:
        return Source(name, classes, next(iter(parts.values())))
    if len({is_multilabel(part.labels) for part in parts.values()}) > 1:
        single = next(title for title, part in parts.items() if not is_multilabel(part.labels))
        raise DataError(
            f"{where}: {single} has one label per image, other splits have several; set "
            "data.labels=multi for multi-label training"
        )
    if "train" not in parts:
        raise DataError(
            f"{where}: contains the splits {', '.join(sorted(parts))}, but no train split"
        )
    val_titles = [title for title in VAL_NAMES if title in parts]
    if len(val_titles) > 1:
        names = " and ".join(val_titles)
        raise DataError(
            f"{where}: the splits {names} are both validation splits; rename or merge them"
        )
    val = parts[val_titles[0]] if val_titles else None
    test = parts.get("test", val)
    assert test is not None
    return Source(
        name,
        classes,
        parts["train"],
        None if test is val else val,
        lambda: test,
        test.title,
        len(test.labels),
    )
