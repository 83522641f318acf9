"""Contenders of input_pipeline.py: endless batches of training images of a folder.

Each yields float tensors (64, 3, 224, 224); those called uint8 are not normalized.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sized
from pathlib import Path

import numpy as np
import torch

from resnets.config import AugmentSpec, DataSpec, Preprocess
from resnets.data import Preprocessor, TrainStream, open_data, order
from resnets.data.dataset.quarantine_list import Quarantine
from resnets.data.dataset.read_ahead import BatchPlan, read_ahead
from resnets.data.loading.pack_write import pack as write_pack
from resnets.data.sources.open import find_source
from resnets.data.transforms.augment import train_views
from resnets.utils.machine import environment

REFERENCE = "torchvision v1"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE, BATCH = 224, 64
Batches = Iterator[torch.Tensor]


def iter_batches(dataset: object, normalized: bool) -> Batches:
    """Yield batches of a DataLoader, and normalize them if the data set does not."""
    from torch.utils.data import DataLoader

    mean, std = (255 * torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    while True:
        for images, _ in DataLoader(dataset, BATCH, shuffle=True, drop_last=True):
            yield images if normalized else images.float().sub_(mean).div_(std)


def torchvision_v1(folder: Path) -> Batches:
    from torchvision import transforms as T
    from torchvision.datasets import ImageFolder

    steps = [T.RandomResizedCrop(SIZE), T.RandomHorizontalFlip(), T.ToTensor()]
    return iter_batches(ImageFolder(folder, T.Compose([*steps, T.Normalize(MEAN, STD)])), True)


def torchvision_v2(folder: Path) -> Batches:
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_image
    from torchvision.transforms import v2 as T

    steps = [T.RandomResizedCrop(SIZE, antialias=True), T.RandomHorizontalFlip()]
    steps += [T.ToDtype(torch.float32, scale=True), T.Normalize(MEAN, STD)]

    def read(path: str) -> torch.Tensor:
        return decode_image(path, ImageReadMode.RGB)

    return iter_batches(ImageFolder(folder, T.Compose(steps), loader=read), True)


def opencv(folder: Path) -> Batches:
    import cv2
    from torchvision.datasets import ImageFolder

    cv2.setNumThreads(0)

    def read(path: str) -> torch.Tensor:
        data = np.fromfile(path, np.uint8)
        return crop_by_opencv(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))

    return iter_batches(ImageFolder(folder, loader=read), False)


def simplejpeg(folder: Path) -> Batches:
    """Decode at a reduced scale if the crop stays large enough; OpenCV resizes."""
    import cv2
    import simplejpeg as codec
    from torchvision.datasets import ImageFolder

    cv2.setNumThreads(0)

    def read(path: str) -> torch.Tensor:
        data = Path(path).read_bytes()
        height, width, *_ = codec.decode_jpeg_header(data)
        top, left, high, wide = random_crop(height, width)
        scale = max(SIZE / high, SIZE / wide)  # at which the crop still has SIZE pixels
        pixels = codec.decode_jpeg(
            data,
            min_height=min(height, int(np.ceil(height * scale))),
            min_width=min(width, int(np.ceil(width * scale))),
            min_factor=2,
        )
        decoded_scale = pixels.shape[0] / height
        box = [int(each * decoded_scale) for each in (top, left, high, wide)]
        return crop_by_opencv(pixels, box)

    return iter_batches(ImageFolder(folder, loader=read), False)


def dali(folder: Path) -> Batches:
    """DALI without a GPU: libjpeg-turbo decodes, its own operators do the rest."""
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ModuleNotFoundError as error:
        packages = "nvidia-dali-cuda120 nvidia-nvimgcodec-cu12"
        raise ImportError(f"pip install {packages}") from error
    mean, std = ([255 * value for value in values] for values in (MEAN, STD))

    @pipeline_def(batch_size=BATCH, num_threads=1, device_id=None)
    def steps() -> object:
        files, _ = fn.readers.file(file_root=str(folder), random_shuffle=True)
        images = fn.decoders.image_random_crop(
            files, random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
        )
        return fn.crop_mirror_normalize(
            fn.resize(images, size=[SIZE, SIZE], antialias=True),
            mirror=fn.random.coin_flip(),
            mean=mean,
            std=std,
            dtype=types.FLOAT,
            output_layout="CHW",
        )

    pipeline = steps()
    pipeline.build()
    while True:
        (images,) = pipeline.run()
        yield torch.from_numpy(np.asarray(images.as_tensor()))


def decoding_alone(folder: Path) -> Batches:
    """Only decode complete images with libjpeg-turbo: a limit, not a pipeline."""
    import simplejpeg as codec

    paths = itertools.cycle(sorted(each for each in folder.rglob("*") if each.is_file()))
    while True:
        for path in itertools.islice(paths, BATCH):
            codec.decode_jpeg(path.read_bytes())
        yield torch.empty(0)


def random_crop(height: int, width: int) -> tuple[int, int, int, int]:
    from torchvision.transforms import RandomResizedCrop

    image = torch.empty((3, height, width), device="meta")
    return RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])


def crop_by_opencv(pixels: np.ndarray, box: list[int] | None = None) -> torch.Tensor:
    import cv2

    top, left, high, wide = box or random_crop(*pixels.shape[:2])
    interpolation = cv2.INTER_AREA if min(high, wide) >= SIZE else cv2.INTER_LINEAR
    crop = pixels[top : top + high, left : left + wide]
    resized = cv2.resize(crop, (SIZE, SIZE), interpolation=interpolation)
    if torch.rand(()) < 0.5:
        resized = cv2.flip(resized, 1)
    return torch.from_numpy(resized).permute(2, 0, 1)


def resnets_stream(source: Path, uint8: bool = False) -> Batches:
    """The data pipeline of `resnets train` with one decoding thread."""
    environment.tune_malloc()
    spec = DataSpec(
        source=str(source),
        size=SIZE,
        workers=1,
        val_fraction=0.0,
        test_fraction=0.0,
        normalize="imagenet",
        in_memory="never",
        augment=AugmentSpec(crop="random-resized", scale=(0.08, 1.0), flip=True),
    )
    preprocessor = Preprocessor(Preprocess(size=SIZE, resize=SIZE, mean=MEAN, std=STD))
    split, cpu = open_data(spec).train, torch.device("cpu")
    if uint8:  # as they are copied to a GPU, which flips and normalizes
        plans = iter_plans(split, spec, preprocessor)
        return (pixels for _, pixels in read_ahead(split, plans, 1))
    stream = TrainStream(split, spec, preprocessor, BATCH, 0, cpu)
    return (batch.images for batch in stream.batches())


def iter_plans(split: Sized, spec: DataSpec, preprocessor: Preprocessor) -> Iterator[BatchPlan]:
    for start in itertools.count(0, BATCH):
        epochs, rows = order.positions(len(split), 0, start, BATCH)
        views = train_views(spec.augment, preprocessor, 0, epochs, rows)
        yield BatchPlan(rows, epochs, views)


def pack(folder: Path, out: Path, size: int) -> None:
    """Pack a folder of class folders, as `resnets data pack` does."""
    spec = DataSpec(source=str(folder))
    write_pack(find_source(spec), out, size, quarantine=Quarantine.of(spec))


CONTENDERS: dict[str, Callable[[Path, Path], Batches]] = {
    REFERENCE: lambda folder, _: torchvision_v1(folder),
    "torchvision.io + v2": lambda folder, _: torchvision_v2(folder),
    "OpenCV": lambda folder, _: opencv(folder),
    "simplejpeg + OpenCV": lambda folder, _: simplejpeg(folder),
    "DALI on the CPU": lambda folder, _: dali(folder),
    "resnets": lambda folder, _: resnets_stream(folder),
    "resnets, uint8": lambda folder, _: resnets_stream(folder, uint8=True),
    "resnets, packed": lambda _, packed: resnets_stream(packed),
    "resnets, packed, uint8": lambda _, packed: resnets_stream(packed, uint8=True),
    "libjpeg-turbo alone": lambda folder, _: decoding_alone(folder),
}
