"""Views of an image at test time, and the average of their scores.

The paper tests with ten crops where it compares with others (section 3.4, Tables 2 and 3) and
fully convolutionally at five scales for its best results (Tables 4 and 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from resnets.config import ConfigError, Preprocess
from resnets.data import DataError, FileSplit, Preprocessor, Split, TensorSplit
from resnets.data.decode.decode import Crop, center_box, decode_whole, grid_box, scaled_size
from resnets.data.decode.exif import Box
from resnets.models import ImageClassifier
from resnets.models.vgg import POOLED, VGG
from resnets.utils.machine.precision import autocast

ViewKind = Literal["center", "ten-crop", "dense"]
Average = Literal["probabilities", "logits"]
PAPER_SIZE, PAPER_SCALES = 224, (224, 256, 384, 480, 640)  # section 3.4
CROPS = {"center": 1, "ten-crop": 5, "dense": 1}  # crops at each scale, before flips
DESCRIPTIONS = {
    "center": "center crop",
    "ten-crop": "corners and center",
    "dense": "whole image up to 4:1",
}
MAX_ASPECT = 4  # longer over shorter side of a dense view; bounds the memory


@dataclass(frozen=True)
class Views:
    """Views of each image, at each of `scales` (shorter sides in px; empty = the model's own).

    "center": the center crop. "ten-crop": the four corners and the center, and their mirror images
    (Krizhevsky et al. 2012, section 4.1). "dense": the whole rescaled image, to which the model is
    applied fully convolutionally; of an image longer than 4:1 the middle. `flip` adds the mirror
    image of each view.
    """

    kind: ViewKind = "center"
    scales: tuple[int, ...] = ()
    flip: bool = False

    def __post_init__(self) -> None:
        if len(set(self.scales)) < len(self.scales) or any(side < 1 for side in self.scales):
            raise ConfigError(
                f"--scales {','.join(map(str, self.scales))}: shorter sides in pixels, each once,"
                " such as 224,256,384"
            )
        if self.flip and self.kind == "ten-crop":
            raise ConfigError(
                "--flip: cannot be combined with ten-crop, which already includes mirror images; "
                "omit it"
            )

    @property
    def flipped(self) -> bool:
        """Whether the mirror image of each crop is a view too."""
        return self.flip or self.kind == "ten-crop"

    def sides(self, preprocess: Preprocess) -> tuple[int, ...]:
        """Shorter sides in px for a model with this preprocessing.

        The defaults of dense views are the paper's five, in proportion to the training size.
        """
        if self.scales:
            return self.scales
        if self.kind == "dense":
            return tuple(round(side * preprocess.size / PAPER_SIZE) for side in PAPER_SCALES)
        return (preprocess.resize,)

    def count(self, preprocess: Preprocess) -> int:
        """Number of views per image, flips included."""
        return len(self.sides(preprocess)) * CROPS[self.kind] * (1 + self.flipped)

    def check(self, model: ImageClassifier) -> None:
        """Raise ConfigError if a scale is too small for the model."""
        spec: Preprocess = model.preprocess.spec
        if self.kind == "dense":
            smallest = model.spec.input_size if isinstance(model, VGG) else 1
            need = "fully connected layers span"
        else:
            smallest, need = spec.size, "crops have"
        if min(self.sides(spec)) < smallest:
            raise ConfigError(
                f"--scales {min(self.sides(spec))}: {model.spec.name}'s {need} {smallest} px;"
                " give no smaller scale"
            )

    def describe(self, preprocess: Preprocess, average: Average) -> str:
        """Describe the views for a protocol.

        >>> Views(flip=True).describe(Preprocess(size=32, resize=40), "logits")
        '2 views (center crop at shorter side 40 px, each flipped; logits averaged), 32x32 px'
        """
        sides, count = self.sides(preprocess), self.count(preprocess)
        words = []
        if count > 1 or sides != (preprocess.size,):
            kind = DESCRIPTIONS[self.kind]
            side = f"side{'s' if len(sides) > 1 else ''} {', '.join(map(str, sides))} px"
            words = [f"{kind} at shorter {side}" + (", each flipped" if self.flipped else "")]
        if count > 1:
            words.append(f"{average} averaged")
        text = f"{count} view{'s' if count > 1 else ''}"
        text += f" ({'; '.join(words)})" if words else ""
        if self.kind == "dense":
            return f"{text}, fully convolutional, logits averaged over positions"
        return f"{text}, {preprocess.size}x{preprocess.size} px"


def average_scores(logits: Tensor, average: Average, activation: str = "softmax") -> Tensor:
    """Average the logits (V, ..., K) of V views or models; returns logits (..., K).

    "probabilities" averages after the softmax, as Krizhevsky et al. 2012 (section 4.1) do over
    crops and Simonyan and Zisserman 2015 (sections 3.2, 4.2) over flips and scales, and returns the
    logarithm; "logits" averages before it. With `activation` "sigmoid", "probabilities" returns the
    logits of the mean of the sigmoids.
    """
    if average == "logits" or len(logits) == 1:
        return logits.mean(0)
    if activation == "sigmoid":
        # log p - log(1 - p) of the mean p; the number of views cancels.
        return F.logsigmoid(logits).logsumexp(0) - F.logsigmoid(-logits).logsumexp(0)
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def compute_logits(model: Callable[[Tensor], Tensor], images: Tensor, *, precision: str) -> Tensor:
    """Return logits (B, K) float32 of normalized `images` (B, C, H, W), computed in `precision`.

    `precision` is one that `pick_precision` returns.
    """
    with autocast(images.device, precision):
        logits = model(images.contiguous(memory_format=torch.channels_last))
    return logits.float()


Pixels = NDArray[np.uint8]


def read_views(split: Split, index: int, views: Views, preprocess: Preprocess) -> list[Pixels]:
    """Read the views of image `index` without flips, each (H, W, C), ordered by scale, then crop.

    Crops are (size, size, C); ten-crop gives five per scale: top left, top right, bottom left,
    bottom right, center. A dense view is the whole image. Raises DataError for an unreadable image.
    """
    sides, spec = views.sides(preprocess), preprocess
    if views.kind == "center":  # the same path as prediction
        return [
            split.read(
                index,
                Crop(
                    spec.size,
                    spec.channels,
                    box,
                    spec.interpolation,
                    spec.value_range,
                    spec.keep_bits,
                ),
            )
            for box in (center_box(spec.size, side) for side in sides)
        ]
    if spec.has_stacks:
        raise ConfigError(
            f"eval.views: {views.kind!r} is for gray and RGB images; stacks have center crops only"
        )
    image = load_image(split, index).convert("L" if spec.channels == 1 else "RGB")
    if views.kind == "dense":
        image = image.crop(_dense_box(*image.size))
        whole: Box = (0, 0, *image.size)
        crops = [(scaled_size(*image.size, side), whole) for side in sides]
    else:
        square = (spec.size, spec.size)
        crops = [
            (square, box)
            for side in sides
            for box in _corners_and_center(*image.size, side, spec.size)
        ]
    method = Image.Resampling[spec.interpolation.upper()]
    return [
        np.array(image.resize(size, method, box)).reshape(*size[::-1], spec.channels)
        for size, box in crops
    ]


def load_image(split: Split, index: int) -> Image.Image:
    """Load the whole upright image at its stored size; DataError for an unreadable one."""
    if isinstance(split, TensorSplit):
        pixels = split.images[index].numpy()
        return Image.fromarray(pixels[:, :, 0] if split.channels == 1 else pixels)
    if isinstance(split, FileSplit):
        data, name = split.files.read(index), split.files.name(index)
        return Image.fromarray(decode_whole(data, name, split.value_range))
    raise DataError(
        f"{split.description}: does not store whole images; evaluate the set it was made from"
    )


def image_name(split: Split, index: int) -> str:
    """Return the name of an image in messages: its path, or its number if it has none."""
    if isinstance(split, FileSplit):
        return split.files.name(index)
    if isinstance(split, TensorSplit) and split.files is not None:
        return split.files.name(split.kept[index])
    return f"image {index}"


def _corners_and_center(width: int, height: int, side: int, size: int) -> Iterator[Box]:
    """Yield the five crops at shorter side `side`, in coordinates of the stored image."""
    wide, high = scaled_size(width, height, side)
    right, bottom = wide - size, high - size
    middle = (round(right / 2), round(bottom / 2))
    for left, top in ((0, 0), (right, 0), (0, bottom), (right, bottom), middle):
        box = grid_box(width, height, side, (left, top, left + size, top + size))
        yield box[0], box[1], min(box[2], width), min(box[3], height)  # rounding may pass the edge


def _dense_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Return the box of the center of an image longer than 4:1, or of the whole image."""
    wide, high = min(width, MAX_ASPECT * height), min(height, MAX_ASPECT * width)
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


Forward = Callable[[Tensor], Tensor]


def fully_convolutional(model: ImageClassifier) -> Forward:
    """Return `model` as a function from images (B, C, H, W) of any size to logits (B, K).

    The logits are the mean over all positions of the class score map (Sermanet et al. 2014;
    Simonyan and Zisserman 2015, section 3.2). A linear head commutes with that mean, so a model
    with global pooling is fully convolutional already. VGG's first linear layer becomes a
    convolution over the window of features of one training image.
    """
    return _convolutional_vgg(model) if isinstance(model, VGG) else model


def _convolutional_vgg(model: VGG) -> Forward:
    window = max(1, model.spec.input_size // 2 ** len(model.spec.depths))  # features of one image
    # (window, 7): share of each of `window` rows in each of the 7 that the model pools them to, the
    # identity at 224 px. Pooling and linear layer together are one kernel.
    share = F.adaptive_avg_pool1d(torch.eye(window)[None], POOLED)[0].to(model.fc1.weight)
    weight = model.fc1.weight.detach().unflatten(1, (-1, POOLED, POOLED))  # (4096, C, 7, 7)
    kernel = torch.einsum("ocij,yi,xj->ocyx", weight, share, share)

    def forward(images: Tensor) -> Tensor:
        features = model.stages(images)[model.stage_names[-1]]
        x = F.relu(F.conv2d(features, kernel, model.fc1.bias), inplace=True)  # (B, 4096, H', W')
        x = F.relu(model.fc2(x.movedim(1, -1)), inplace=True)  # linear at each position
        return model.head(x).mean((1, 2))

    return forward


def normalize(preprocessor: Preprocessor, images: Tensor) -> Tensor:
    """Normalize images of any size, (B, C, H, W) uint8 to float32.

    A mean image of another size is resized to that of the images.
    """
    mean = preprocessor.mean_image
    if mean is not None and mean.shape[1:] != images.shape[2:]:
        size = (images.shape[2], images.shape[3])
        mean = F.interpolate(mean[None], size, mode="bilinear", antialias=True)[0]
        preprocessor = Preprocessor(preprocessor.spec, mean)
    return preprocessor.normalize(images)
