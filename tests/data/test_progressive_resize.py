"""Progressive resizing: which size when, and that smaller images stay right."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.testing import assert_close

from resnets.config import AugmentSpec, ConfigError, DataSpec
from resnets.data import TrainStream, eval_batches, fit_preprocess, open_data
from resnets.data.transforms.preprocess import size_at

CPU = torch.device("cpu")
PAD = AugmentSpec(crop="pad", pad=2, flip=True)
GROWN = DataSpec(size=16, grow_from=8, grow_step=4, grow_between=(0.25, 0.75), augment=PAD)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """20 JPEGs of smooth content in two classes."""
    root: Path = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(20):
        folder = root / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
        small.resize((80 + number, 64)).save(folder / f"{number}.jpg")
    return str(root)


def stream(spec: DataSpec, seed: int = 2) -> TrainStream:
    train = open_data(spec).train
    return TrainStream(train, spec, fit_preprocess(train, spec, 3), 4, seed, CPU)


def test_the_size_grows_linearly_in_steps() -> None:
    sizes = [size_at(GROWN, 16, step, 100) for step in range(100)]
    assert sizes[:25] == [8] * 25
    assert sizes[75:] == [16] * 25
    assert sorted(sizes) == sizes
    assert sorted(set(sizes)) == [8, 12, 16]
    assert sizes.count(12) == 25  # half a step of growth on either side
    assert size_at(GROWN, 16, 0, None) == 16
    assert size_at(replace(GROWN, grow_from=None), 16, 0, 100) == 16


def test_sizes_of_the_published_schedule() -> None:
    """FFCV's 16-epoch ImageNet recipe: 160 px until epoch 11, 192 px from epoch 13, by 32."""
    spec = DataSpec(size=192, grow_from=160, grow_between=(11 / 16, 13 / 16), grow_step=32)
    assert [size_at(spec, 192, epoch, 16) for epoch in range(16)] == [160] * 12 + [192] * 4


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("step", [1, 5, 32])
def test_the_end_is_full_size_for_any_step(step: int, share: float) -> None:
    spec = DataSpec(size=30, grow_from=13, grow_step=step, grow_between=(share, share))
    sizes = {size_at(spec, 30, k, 10) for k in range(10)}
    assert sizes == ({13, 30} if share else {30})
    slow = replace(spec, grow_between=(0.0, 1.0))
    assert all(13 <= size_at(slow, 30, k, 10) <= 30 for k in range(11))
    assert size_at(slow, 30, 10, 10) == 30


@pytest.mark.parametrize("normalize", ["per-pixel-mean", "channel"])
def test_images_in_memory_are_cropped_then_resized(normalize: str) -> None:
    train = stream(replace(GROWN, normalize=normalize))
    for step, size in ((0, 8), (50, 12), (90, 16)):
        full = next(train.batches(step))
        small = next(train.batches(step, 100))
        assert small.images.shape == (4, 3, size, size)
        assert small.images.is_contiguous(memory_format=torch.channels_last)
        wanted = F.interpolate(full.images, (size, size), mode="bilinear", antialias=True)
        assert_close(small.images, wanted)
        assert torch.equal(small.ids, full.ids)


@pytest.mark.parametrize(
    "augment",
    [
        AugmentSpec(crop="random-resized", scale=(0.35, 1.0), flip=True, random_erase=0.0),
        AugmentSpec(crop="scale-jitter", scale=(48, 60), flip=True, pca_color=0.1),
    ],
)
@pytest.mark.parametrize("normalize", ["per-pixel-mean", "channel"])
def test_the_decoder_cuts_the_same_part_at_fewer_pixels(
    photos: str, augment: AugmentSpec, normalize: str
) -> None:
    spec = DataSpec(source=photos, size=48, grow_from=24, grow_step=8, augment=augment)
    spec = replace(spec, normalize=normalize)
    train = stream(spec)
    for step, size in ((0, 24), (70, 40), (99, 48)):
        small = next(train.batches(step, 100))
        assert small.images.shape == (4, 3, size, size)
        full = next(train.batches(step)).images
        wanted = F.interpolate(full, (size, size), mode="bilinear", antialias=True)
        assert (small.images - wanted).abs().mean() < 0.02 * wanted.std()


def test_files_and_memory_grow_alike(photos: str) -> None:
    spec = replace(GROWN, source=photos, size=32, grow_from=16)
    memory, files = stream(spec), stream(replace(spec, in_memory="never", workers=3))
    for one, two in islice(zip(memory.batches(48, 100), files.batches(48, 100), strict=True), 4):
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.targets, two.targets)


def test_a_grown_batch_is_the_same_whenever_it_is_read(photos: str) -> None:
    augment = AugmentSpec(crop="random-resized", flip=True, mixup=0.2, cutmix=1.0, random_erase=0.5)
    spec = DataSpec(source=photos, size=32, grow_from=16, grow_step=8, augment=augment, workers=1)
    whole = list(islice(stream(spec).batches(0, 12), 12))
    assert sorted({batch.images.shape[2] for batch in whole}) == [16, 24, 32]
    again = stream(replace(spec, workers=4))
    for start in (0, 5, 11, 6):
        assert torch.equal(next(again.batches(start, 12)).images, whole[start].images)


def test_training_and_test_may_differ_in_size(photos: str) -> None:
    augment = AugmentSpec(crop="random-resized", flip=True)
    spec = DataSpec(source=photos, size=32, test_size=40, resize=48, augment=augment)
    for normalize in ("per-pixel-mean", "channel"):
        train = stream(replace(spec, normalize=normalize))
        same = stream(replace(spec, normalize=normalize, test_size=None, resize=None))
        batch, wanted = next(train.batches()).images, next(same.batches()).images
        assert batch.shape == (4, 3, 32, 32)
        assert (batch - wanted).abs().mean() < 0.15 * wanted.std()  # means of two crops differ
    grown = stream(replace(spec, grow_from=16, grow_step=8))
    assert {next(grown.batches(step, 100)).images.shape[2] for step in (0, 50, 99)} == {16, 24, 32}


def test_evaluation_stays_at_full_size(photos: str) -> None:
    spec = DataSpec(source=photos, size=32, grow_from=16)
    splits = open_data(spec)
    preprocessor = fit_preprocess(splits.train, spec, 3)
    batch = next(eval_batches(splits.test(), preprocessor, 4, CPU))
    assert batch.images.shape[2:] == (32, 32)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"grow_from": 0}, "data.grow_from: 0 "),
        ({"grow_from": 17}, r"data.grow_from: 17 px is not in 1..16"),
        ({"grow_between": (0.8, 0.3)}, "data.grow_between"),
        ({"grow_between": (0.5, 1.3)}, "data.grow_between"),
        ({"grow_step": 0}, "data.grow_step"),
    ],
)
def test_invalid_settings_are_refused(change: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        stream(replace(GROWN, **change))
