"""The peers of input_pipeline.py: endless batches of normalised training pictures of a folder."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE, BATCH = 224, 64
Batches = Iterator[torch.Tensor]


def loader(dataset: object, normalized: bool) -> Batches:
    """Endless batches as everybody loads them; what is not normalised yet is, batch by batch."""
    from torch.utils.data import DataLoader

    mean, std = (255 * torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    while True:
        for images, _ in DataLoader(dataset, BATCH, shuffle=True, drop_last=True):
            yield images if normalized else images.float().sub_(mean).div_(std)


def torchvision_v1(folder: Path) -> Batches:
    from torchvision import transforms as T
    from torchvision.datasets import ImageFolder

    steps = [T.RandomResizedCrop(SIZE), T.RandomHorizontalFlip(), T.ToTensor()]
    return loader(ImageFolder(folder, T.Compose([*steps, T.Normalize(MEAN, STD)])), True)


def torchvision_v2(folder: Path) -> Batches:
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2 as T

    steps = [T.RandomResizedCrop(SIZE, antialias=True), T.RandomHorizontalFlip()]
    steps += [T.ToDtype(torch.float32, scale=True), T.Normalize(MEAN, STD)]

    def read(path: str) -> torch.Tensor:
        return decode_image(path, ImageReadMode.RGB)

    return loader(ImageFolder(folder, T.Compose(steps), loader=read), True)


def opencv(folder: Path) -> Batches:
    import cv2
    from torchvision.datasets import ImageFolder

    cv2.setNumThreads(0)

    def read(path: str) -> torch.Tensor:
        data = np.fromfile(path, np.uint8)
        return crop_by_opencv(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))

    return loader(ImageFolder(folder, loader=read), False)


def simplejpeg(folder: Path) -> Batches:
    """Scaled decoding where the crop stays large enough; OpenCV resizes."""
    import cv2
    import simplejpeg as codec
    from torchvision.datasets import ImageFolder

    cv2.setNumThreads(0)

    def read(path: str) -> torch.Tensor:
        data = Path(path).read_bytes()
        height, width, *_ = codec.decode_jpeg_header(data)
        top, left, high, wide = random_crop(height, width)
        least = max(SIZE / high, SIZE / wide)  # what scaling leaves of the crop is enough
        pixels = codec.decode_jpeg(
            data,
            min_height=min(height, int(np.ceil(height * least))),
            min_width=min(width, int(np.ceil(width * least))),
            min_factor=2,
        )
        scale = pixels.shape[0] / height
        box = [int(each * scale) for each in (top, left, high, wide)]
        return crop_by_opencv(pixels, box)

    return loader(ImageFolder(folder, loader=read), False)


def decoding_alone(folder: Path) -> Batches:
    """Whole pictures decoded by libjpeg-turbo, and nothing done with them: a limit, not a peer."""
    import simplejpeg as codec

    paths = itertools.cycle(sorted(each for each in folder.rglob("*") if each.is_file()))
    while True:
        for path in itertools.islice(paths, BATCH):
            codec.decode_jpeg(path.read_bytes())
        yield torch.empty(0)


def random_crop(height: int, width: int) -> tuple[int, int, int, int]:
    from torchvision.transforms import RandomResizedCrop

    picture = torch.empty((3, height, width), device="meta")
    return RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3])


def crop_by_opencv(pixels: np.ndarray, box: list[int] | None = None) -> torch.Tensor:
    import cv2

    top, left, high, wide = box or random_crop(*pixels.shape[:2])
    shrinks = min(high, wide) >= SIZE
    part = pixels[top : top + high, left : left + wide]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    small = cv2.resize(part, (SIZE, SIZE), interpolation=how)
    if torch.rand(()) < 0.5:
        small = cv2.flip(small, 1)
    return torch.from_numpy(small).permute(2, 0, 1)
