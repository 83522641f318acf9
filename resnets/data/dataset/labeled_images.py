"""Images with labels: in memory as one tensor, or as files read when needed."""

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
        """(N,) int64 class of each image, or (N, K) uint8 sets of labels."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them, or a column for each."""

    @property
    def description(self) -> str:
        """For protocols: "cifar10.tar.xz test, 10,000 images"."""

    @property
    def channels(self) -> int:
        """Planes stored: 1 when all images are grey, 3, or those of stacks."""

    @property
    def unreadable(self) -> BadSamples:
        """What is known so far of its images that cannot be read."""

    def __len__(self) -> int:
        """N."""

    def read(self, index: int, view: Crop) -> NDArray[Any]:
        """One view of one image, (size, size, channels) of the view; DataError names the file."""


@dataclass(frozen=True, eq=False)
class TensorSplit:
    """A set that lives in memory.

    images: (N, H, W, C) uint8. prepared: (size, resize, interpolation) when the images were read
    as the centre `size` x `size` at shorter side `resize`, None when they are as stored.
    unreadable: files that are not among these, because they could not be read. summary: what was
    understood of the set that it is a split of. files: those the images were read from, if any,
    and `kept` the index there of each image.
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
        """Number of images."""
        return len(self.labels)

    @property
    def channels(self) -> int:
        """Planes stored."""
        return self.images.shape[3]

    def read(self, index: int, view: Crop) -> NDArray[np.uint8]:
        """One view of one image, (size, size, channels) of the view."""
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
        """Number of images."""
        return len(self.labels)

    def read(self, index: int, view: Crop) -> NDArray[Any]:
        """One view of one image, decoded now; DataError names a file that cannot be."""
        if self.value_range is not None:
            view = replace(view, levels=self.value_range)
        return decode(self.files.read(index), view, self.files.name(index))


def with_summary(split: Split, summary: DataSummary) -> Split:
    """The split with what was understood of its set."""
    if isinstance(split, TensorSplit | FileSplit):
        return replace(split, summary=summary)
    return split
