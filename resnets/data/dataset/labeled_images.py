"""Splits: images with labels, in memory as one tensor, or as files that are read on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data.decode.bad_samples import BadSamples
from resnets.data.decode.decode import Crop, decode, render_pixels
from resnets.data.decode.pixel_values import Levels
from resnets.data.files.folder import Files

if TYPE_CHECKING:
    from resnets.data.dataset.summary import DataSummary


class Split(Protocol):
    """A training, validation or test set of N images."""

    @property
    def labels(self) -> Tensor:
        """Classes (N,) int64, or multi-hot labels (N, K) uint8."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them, or has one column per class."""

    @property
    def description(self) -> str:
        """Description for protocols, such as "cifar10.tar.xz test, 10,000 images"."""

    @property
    def channels(self) -> int:
        """Number of stored channels: 1 if all images are gray, 3, or more."""

    @property
    def unreadable(self) -> BadSamples:
        """Images that could not be read so far."""

    def __len__(self) -> int:
        """Return N."""

    def read(self, index: int, view: Crop) -> NDArray[Any]:
        """Return a crop of an image, (size, size, channels) of `view`; may raise DataError."""


@dataclass(frozen=True, eq=False)
class TensorSplit:
    """Images in memory.

    Attributes:
        images: (N, H, W, C) uint8.
        labels: (N,) int64, or (N, K) uint8.
        prepared: (size, resize, interpolation) if the images are center crops of `size` x `size` px
            at shorter side `resize`; None if they are as stored.
        unreadable: Files that could not be read; they are not among the images.
        summary: How the data set was interpreted.
        files: Files that the images were read from, if any.
        kept: Index of each image in `files`.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    description: str
    prepared: tuple[int, int, str] | None = None
    unreadable: BadSamples = field(default_factory=BadSamples)
    summary: DataSummary | None = None
    files: Files | None = None
    kept: Sequence[int] = ()

    def __post_init__(self) -> None:
        assert self.images.dtype == torch.uint8
        assert self.images.ndim == 4
        assert len(self.images) == len(self.labels)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def channels(self) -> int:
        """Number of stored channels."""
        return self.images.shape[3]

    def read(self, index: int, view: Crop) -> NDArray[np.uint8]:
        """Return a crop of an image, (size, size, channels) of `view`."""
        return render_pixels(self.images[index].numpy(), view)


@dataclass(frozen=True, eq=False)
class FileSplit:
    """Images that are decoded on demand; `files` has one entry for each of `labels` (N,).

    value_range: see `DataSpec`.
    """

    files: Files
    labels: Tensor
    classes: tuple[str, ...]
    description: str
    channels: int = 3
    unreadable: BadSamples = field(default_factory=BadSamples)
    value_range: Levels | None = None
    summary: DataSummary | None = None

    def __post_init__(self) -> None:
        assert len(self.files) == len(self.labels)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def read(self, index: int, view: Crop) -> NDArray[Any]:
        """Decode a crop of an image; raises DataError, which names the file, if unreadable."""
        if self.value_range is not None:
            view = replace(view, levels=self.value_range)
        return decode(self.files.read(index), view, self.files.name(index))


def with_summary(split: Split, summary: DataSummary) -> Split:
    """Return the split with the summary of its data set."""
    if isinstance(split, TensorSplit | FileSplit):
        return replace(split, summary=summary)
    return split
