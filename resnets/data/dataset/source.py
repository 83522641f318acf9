"""A stored set before it is split: its parts as the source brings them, not yet opened."""

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
from resnets.data.files.walk import LeftOut

Rows = NDArray[np.int64]

VAL_NAMES = ("val", "valid", "validation")
PART_NAMES = frozenset({"train", "test", *VAL_NAMES})


class Part(Protocol):
    """A part of a stored set: `title` as the source calls it ("train"), its `labels`.

    Labels are (N,) int64, or (N, K) where images have sets of them (`data.dataset.labels`).
    """

    @property
    def title(self) -> str:
        """What the source calls it; empty when the set has one part only."""

    @property
    def labels(self) -> Labels:
        """(N,) int64, or (N, K) uint8."""

    @property
    def files(self) -> Files | None:
        """Its encoded images, one for each label; None where it holds pixels."""

    def open(
        self, rows: Rows, classes: tuple[str, ...], description: str, spec: DataSpec, training: bool
    ) -> Split:
        """The images of `rows` as a split."""


@dataclass(frozen=True, eq=False)
class ArrayPart:
    """Pixels that are in memory already: images (N, H, W, C) uint8."""

    title: str
    images: NDArray[np.uint8]
    labels: Labels
    files: None = None

    def open(
        self, rows: Rows, classes: tuple[str, ...], description: str, spec: DataSpec, training: bool
    ) -> Split:
        """The images of `rows`, as stored."""
        images, labels = torch.from_numpy(self.images[rows]), torch.from_numpy(self.labels[rows])
        return TensorSplit(images, labels, classes, description)


@dataclass(frozen=True, eq=False)
class FilePart:
    """Encoded images, one for each label.

    ids: (N,) their identities, where those are not their paths below the class folders
    (`data.dataset.image_identity`). content: (N,) their content keys
    (`data.dataset.image_hash`), where the source states them. stems: (N,) as ids, of the paths
    without suffix. groups: (N,) names of the groups that they belong to, where a column of the
    set's table says them.
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
        """The images of `rows`, in memory where the spec and their sizes allow."""
        files, labels = self.files.take(rows), self.labels[rows]
        return load_files(files, labels, classes, description, spec, training=training)


@dataclass(frozen=True)
class Source:
    """A stored set: `test` opens its test part, None where it brings none.

    test_title, test_images: what the test part is called and how many images it has, where that is
    known without opening it. left_out: files of the set that are in no part, counted. notes: what
    else was understood of it, a line each. warnings: where that may be wrong.
    value_range: what values of more than 8 bits were scaled by already (`DataSpec`).
    """

    name: str
    classes: tuple[str, ...]
    train: Part
    val: Part | None = None
    test: Callable[[], Part] | None = None
    test_title: str = "its own"
    test_images: int | None = None
    left_out: LeftOut = field(default_factory=LeftOut)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    value_range: tuple[float, float] | None = None

    @property
    def multilabel(self) -> bool:
        """Whether an image may have any set of the classes."""
        return is_multilabel(self.train.labels)


def by_role(name: str, classes: tuple[str, ...], parts: Mapping[str, Part], where: str) -> Source:
    """The set whose parts are called train, test, and val (or valid, validation).

    With val but no test (ImageNet's layout) val is the test set. A single part, whatever it is
    called, is what shares are held out from. DataError where several lack a train part.
    """
    if len(parts) == 1:
        return Source(name, classes, next(iter(parts.values())))
    if len({is_multilabel(part.labels) for part in parts.values()}) > 1:
        single = next(title for title, part in parts.items() if not is_multilabel(part.labels))
        raise DataError(
            f"{where}: the images of {single} have one label each, those of other parts sets of"
            " labels; set data.labels=multi to read all of them as sets"
        )
    if "train" not in parts:
        raise DataError(f"{where}: has the parts {', '.join(sorted(parts))}, but no train")
    several = [title for title in VAL_NAMES if title in parts]
    if len(several) > 1:
        names = " and ".join(several)
        raise DataError(f"{where}: its parts {names} are both validation; rename or join them")
    val = parts[several[0]] if several else None
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
