"""Splits: images with labels, in memory as one tensor, or as files that are read when needed."""

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
        """(N,) int64 class of each image, or (N, K) uint8 multi-hot labels."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index of them, or a column for each."""

    @property
    def description(self) -> str:
        """For protocols: "cifar10.tar.xz test, 10,000 images"."""

    @property
    def channels(self) -> int:
        """Stored channels: 1 if all images are gray, 3, or those of stacks."""

    @property
    def unreadable(self) -> BadSamples:
        """Images that could not be read so far."""

    def __len__(self) -> int:
        """Return N."""

    def read(self, index: int, view: Crop) -> NDArray[Any]:
        """Return a view of an image, (size, size, channels) of the view; or raise DataError."""


@dataclass(frozen=True, eq=False)
class TensorSplit:
    """A set in memory.

    images: (N, H, W, C) uint8. prepared: (size, resize, interpolation) if the images were read as
    the center `size` x `size` at shorter side `resize`, None if they are as stored. unreadable:
    files that could not be read and are not among the images. summary: what was understood of the
    set. files: the files the images were read from, if any, and `kept` the index of each image in
    them.
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
        """Stored channels."""
        return self.images.shape[3]

    def read(self, index: int, view: Crop) -> NDArray[np.uint8]:
        """Return a view of an image, (size, size, channels) of the view."""
        return render_pixels(self.images[index].numpy(), view)


@dataclass(frozen=True, eq=False)
class FileSplit:
    """A set that is decoded when needed; `files` has one entry for each of `labels` (N,).

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
        """Decode a view of an image; raise DataError, which names the file, if unreadable."""
        if self.value_range is not None:
            view = replace(view, levels=self.value_range)
        return decode(self.files.read(index), view, self.files.name(index))


def with_summary(split: Split, summary: DataSummary) -> Split:
    """Return the split with the summary of its set."""
    if isinstance(split, TensorSplit | FileSplit):
        return replace(split, summary=summary)
    return split
