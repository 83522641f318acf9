"""Convert images to the model's input, identically in training, evaluation and prediction."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from resnets.config import ConfigError, DataSpec, Preprocess
from resnets.config.ranges import check_ranges
from resnets.data.dataset.labeled_images import Split, TensorSplit
from resnets.data.dataset.read_ahead import BatchPlan, read_ahead
from resnets.data.dataset.stream import StreamSplit
from resnets.data.decode.arrays import to_array, to_pixels
from resnets.data.decode.decode import Crop, center_box, decode, reading_image, render
from resnets.data.errors import DataError
from resnets.data.files.folder import read_file
from resnets.data.order import evenly_spaced
from resnets.utils.machine.environment import copy_to_device

ImageInput = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_GRAY_MEAN, IMAGENET_GRAY_STD = (0.449,), (0.226,)  # averages of the above
MAX_SAMPLES = 10_000  # images for the statistics of a set that is not in memory
CHUNK = 100  # images summed at a time, in float64
MIN_STD = 1 / 255


@dataclass(frozen=True, eq=False)
class Preprocessor:
    """Applies a `Preprocess`.

    mean_image: (C, size, size) float32 in 0..1 if `spec.mean_image`, else None. Means and
    deviations are in the order of the model's channels, after `spec.channel_order` is applied.
    """

    spec: Preprocess
    mean_image: Tensor | None = None

    def __post_init__(self) -> None:
        spec = self.spec
        check_ranges(spec, "preprocess.", {"channels": "[1, inf)", "size": "[1, inf)"})
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            if len(values) not in (1, spec.channels):
                raise ConfigError(
                    f"preprocess.{name}: {len(values)} values for {spec.channels} channels"
                )
        if spec.resize < spec.size:
            raise ConfigError(
                f"data.resize: {spec.resize} px is less than the {spec.size} px the model sees"
            )
        if spec.mean_image != (self.mean_image is not None):
            raise DataError("preprocess: a mean image is named but missing, or the reverse")

    @property
    def view(self) -> Crop:
        """The center view of evaluation and prediction."""
        spec = self.spec
        box = center_box(spec.size, spec.resize)
        return Crop(
            spec.size, spec.channels, box, spec.interpolation, spec.value_range, spec.keep_bits
        )

    def to_tensor(self, image: ImageInput) -> Tensor:
        """Convert an image to uint8 (C, size, size): a path, PIL image, array or tensor.

        Arrays are as `data.decode.arrays.to_pixels` understands them; gray ones may be uint16.
        For stacks (channels other than 1 and 3, more bits than 8) only paths are supported.
        """
        if isinstance(image, str | os.PathLike):
            pixels = decode(read_file(Path(image)), self.view, str(image))
        elif self.spec.has_stacks:
            raise DataError(
                f"the model takes stacks of {self.spec.channels} channels; give the path of a TIFF"
                " or .npy file"
            )
        else:
            with open_given(image) as opened:
                pixels = render(opened, self.view)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalize (B, C, H, W) uint8 to float32 on its device: (x / 255 - mean) / std."""
        images = images.flip(1) if self.spec.channel_order == "bgr" else images
        mean, scale = self.mean_and_scale(images.device)
        return (images.float() - mean) * scale

    def mean_and_scale(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return mean (C, 1, 1) or (C, size, size) in 0..255, and 1 / (255 std) (C, 1, 1)."""
        mean = torch.tensor(self.spec.mean)[:, None, None]
        std = torch.tensor(self.spec.std)[:, None, None]
        mean = mean if self.mean_image is None else self.mean_image
        return copy_to_device(mean * 255, device), copy_to_device(1 / (255 * std), device)

    def __call__(self, image: ImageInput | Sequence[ImageInput]) -> Tensor:
        """Return the model's input: float32 (C, size, size), or (B, C, size, size) for a list."""
        if isinstance(image, Sequence) and not isinstance(image, str):
            return self.normalize(torch.stack([self.to_tensor(each) for each in image]))
        return self.normalize(self.to_tensor(image)[None])[0]


def fit_preprocess(split: Split, spec: DataSpec, channels: int) -> Preprocessor:
    """Return the preprocessing for a model of `channels` channels trained on `split`.

    `spec.normalize`: "per-pixel-mean" subtracts the training set's mean image (the paper, section
    4.2) and keeps the scale 0..1; "channel" normalizes each channel to mean 0, deviation 1;
    "imagenet" uses ImageNet's constants. A set that is not in memory is measured on at most 10,000
    evenly spaced images (the first of a stream). Raises ConfigError if images differ in size and
    `spec.size` is None.
    """
    size = spec.tested_at or _common_size(split)
    if spec.normalize == "imagenet" and channels not in (1, 3):
        raise ConfigError(
            f"data.normalize: 'imagenet' has no statistics of {channels} channels; give 'channel'"
        )
    preprocess = Preprocess(
        size=size,
        resize=spec.resize or size,
        channels=channels,
        keep_bits=spec.keep_bits,
        mean=IMAGENET_MEAN if channels == 3 else IMAGENET_GRAY_MEAN,
        std=IMAGENET_STD if channels == 3 else IMAGENET_GRAY_STD,
        value_range=spec.value_range,
    )
    if spec.normalize == "imagenet":
        return Preprocessor(preprocess)
    total, squares, count = _sum_pixels(split, Preprocessor(preprocess), spec.workers)
    if spec.normalize == "per-pixel-mean":
        image = (total / (255 * count)).float()
        means = tuple(image.mean((1, 2)).tolist())
        fitted = replace(preprocess, mean=means, std=(1.0,) * channels, mean_image=True)
        return Preprocessor(fitted, image)
    pixels = count * size * size * 255
    mean = total.sum((1, 2)) / pixels
    std = (squares / (255 * pixels) - mean**2).clamp(min=MIN_STD**2).sqrt()
    return Preprocessor(replace(preprocess, mean=tuple(mean.tolist()), std=tuple(std.tolist())))


def prepare(split: Split, preprocessor: Preprocessor) -> Split:
    """Resize a TensorSplit once to the model's size and channels; FileSplits are unchanged.

    Raises ConfigError if the images were already cut to a size other than the model's.
    """
    spec = preprocessor.spec
    if not isinstance(split, TensorSplit):
        return split
    model_view = (spec.size, spec.resize, spec.interpolation)
    resize = spec.resize
    if split.prepared is not None:
        if split.prepared != model_view:
            raise ConfigError(
                f"data: the images of {split.description} were read at (size, resize)"
                f" {split.prepared}, but the model wants {model_view}; set data.size and"
                " data.resize, or data.in_memory to 'never'"
            )
        resize = spec.size  # they are cut already; only their channels may differ
    stored = split.images.shape[1:]
    if stored == (spec.size, spec.size, spec.channels) and resize == spec.size:
        return split
    view = Crop(spec.size, spec.channels, center_box(spec.size, resize), spec.interpolation)
    images = torch.cat(list(_read_chunks(split, np.arange(len(split)), view, 0)))
    return replace(split, images=images, prepared=model_view)


def _read_chunks(
    split: Split, rows: NDArray[np.int64], view: Crop, workers: int
) -> Iterator[Tensor]:
    """Yield one view of the images of `rows`, in chunks (n, size, size, C)."""
    chunks = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
    plans = (BatchPlan(chunk, np.zeros_like(chunk), [view] * len(chunk)) for chunk in chunks)
    return (pixels for _, pixels in read_ahead(split, plans, workers))


def sample_batches(
    split: Split, preprocessor: Preprocessor, workers: int = 0, limit: int = 5_000
) -> Iterator[Tensor]:
    """Yield batches (B, C, S, S), normalized, of at most `limit` evenly spaced images of `split`.

    Images are as in evaluation; of a stream they are the first of its order.
    """
    split = prepare(split, preprocessor)
    rows = _sample_rows(split, limit)
    if isinstance(split, TensorSplit):
        chunks: Iterator[Tensor] = iter(split.images[torch.from_numpy(rows)].split(CHUNK))
    else:
        chunks = _read_chunks(split, rows, preprocessor.view, workers)
    for pixels in chunks:
        yield preprocessor.normalize(pixels.permute(0, 3, 1, 2))


def _sum_pixels(
    split: Split, preprocessor: Preprocessor, workers: int
) -> tuple[Tensor, Tensor, int]:
    """Return the sums of pixels (C, S, S) and squares (C,), float64, and the number of images."""
    split = prepare(split, preprocessor)
    if isinstance(split, TensorSplit):
        chunks = iter(split.images.split(CHUNK))
    else:
        rows = _sample_rows(split, MAX_SAMPLES)
        chunks = _read_chunks(split, rows, preprocessor.view, workers)
    total, squares = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    count = 0
    for pixels in chunks:
        count += len(pixels)
        values = pixels.double()
        total = total + values.sum(0)
        squares = squares + values.square_().sum((0, 1, 2))
    return total.permute(2, 0, 1), squares, count


def _sample_rows(split: Split, limit: int) -> NDArray[np.int64]:
    """Return at most `limit` evenly spaced rows, or the first of a stream's order.

    The first of that order lie in few blocks.
    """
    if isinstance(split, StreamSplit):
        return split.permutation(len(split), 0, 0)[:limit]
    return evenly_spaced(len(split), limit)


def _common_size(split: Split) -> int:
    """Return the shorter side of the images of a set in memory, which all have one size."""
    if isinstance(split, TensorSplit):
        return min(split.images.shape[1:3])
    raise ConfigError(
        f"data.size: the images of {split.description} stay in files or differ in size;"
        " say the size of the model's input in px, for instance 224"
    )


@contextmanager
def open_given(
    image: Image.Image | NDArray[Any] | Tensor, name: str = "the image given"
) -> Iterator[Image.Image]:
    """Open an image that is in memory; errors of reading it are DataError, also in the context.

    A PIL image is copied, and stays as it is; `Image.open` reads its file only now.
    """
    opened = image if isinstance(image, Image.Image) else _from_array(image, name)
    if 0 in opened.size:
        raise DataError(f"{name}: has no pixels; its size is {opened.width} x {opened.height} px")
    with reading_image(name):
        yield opened.copy() if opened is image else opened


def _from_array(image: NDArray[Any] | Tensor, name: str) -> Image.Image:
    values = to_array(image)
    gray = values[:, :, 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.dtype == np.uint16 and gray.ndim == 2:  # scaled by `Preprocess.value_range`
        return Image.fromarray(gray)
    pixels = to_pixels(values, name)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def check_growth(spec: DataSpec, size: int) -> None:
    """Raise ConfigError if training images of `size` px cannot grow as `spec` specifies."""
    start, (begin, end) = spec.grow_from, spec.grow_between
    if start is not None and start > size:
        raise ConfigError(f"data.grow_from: {start} px is not in 1..{size}, the size of the model")
    if not 0 <= begin <= end <= 1:
        raise ConfigError(f"data.grow_between: {spec.grow_between} must be shares 0 <= a <= b <= 1")


def size_at(spec: DataSpec, size: int, step: int, total: int | None) -> int:
    """Return the training image size in px at step `step` of `total`; `size` if constant.

    It is linear between the two shares of the run, rounded to whole `grow_step` above `grow_from`.
    From the second share on it is `size`, and also if `total` is None.
    """
    if spec.grow_from is None or total is None:
        return size
    begin, end = (share * total for share in spec.grow_between)
    if step >= end:
        return size
    growth = max(0.0, step - begin) / max(1.0, end - begin) * (size - spec.grow_from)
    return min(size, spec.grow_from + int(growth / spec.grow_step + 0.5) * spec.grow_step)


def resize_images(images: Tensor, size: int) -> Tensor:
    """Resize (B, C, H, W) float to (B, C, size, size), antialiased and bilinear."""
    if images.shape[2] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def resize_preprocessor(preprocessor: Preprocessor, size: int) -> Preprocessor:
    """Return the preprocessor for images of `size` px, with the mean image resized."""
    spec, image = preprocessor.spec, preprocessor.mean_image
    if size == spec.size:
        return preprocessor
    image = None if image is None else resize_images(image[None], size)[0]
    spec = replace(spec, size=size, resize=max(size, spec.resize))
    return replace(preprocessor, spec=spec, mean_image=image)
