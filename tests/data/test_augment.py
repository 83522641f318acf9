"""Augmentation of whole batches against plain, per-image implementations."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from torchvision.transforms import functional as reference

from resnets.config import AugmentSpec, ConfigError, Preprocess
from resnets.data import order
from resnets.data.decode.decode import Crop, render
from resnets.data.transforms.augment import (
    PCA_VALUES,
    BatchAugment,
    jitter_box,
    resized_box,
    train_views,
)
from resnets.data.transforms.preprocess import Preprocessor

CPU = torch.device("cpu")
PLAIN = Preprocess(size=12, resize=12, mean=(0.0,) * 3, std=(1 / 255,) * 3)  # values stay 0..255


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), np.uint8))


def augmented(
    spec: AugmentSpec, preprocessor: Preprocessor, images: torch.Tensor, epochs, ids, seed=9
) -> torch.Tensor:
    augment = BatchAugment(spec, preprocessor, seed, CPU)
    return augment(augment.pad(images), torch.from_numpy(ids), epochs, ids)


def naive_crop(image: np.ndarray, pad: int, seed: int, epoch: int, sample: int) -> np.ndarray:
    """Zero-pad, crop and flip one image (H, W, C) of any type."""
    size = len(image)
    wide = np.zeros((size + 2 * pad, size + 2 * pad, image.shape[2]), image.dtype)
    wide[pad : pad + size, pad : pad + size] = image
    top = int(order.uniform(seed, epoch, sample, order.STREAM_CROP_Y) * (2 * pad + 1))
    left = int(order.uniform(seed, epoch, sample, order.STREAM_CROP_X) * (2 * pad + 1))
    crop = wide[top : top + size, left : left + size]
    return crop[:, ::-1] if order.uniform(seed, epoch, sample, order.STREAM_FLIP) < 0.5 else crop


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_pad_crop_flip_is_bitwise_the_naive_one(images: torch.Tensor, pad: int) -> None:
    ids = np.array([3, 19, 3, 0, 7, 11, 4, 4])
    epochs = np.array([0, 0, 1, 1, 1, 2, 2, 70])
    spec = AugmentSpec(crop="pad", pad=pad, flip=True)
    batch = augmented(spec, Preprocessor(PLAIN), images, epochs, ids)
    assert batch.shape == (8, 3, 12, 12)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for place, (epoch, sample) in enumerate(zip(epochs, ids, strict=True)):
        wanted = naive_crop(images[sample].numpy(), pad, 9, epoch, sample)
        assert_close(
            batch[place].permute(1, 2, 0).round().byte().numpy(), wanted.copy(), rtol=0, atol=0
        )


def test_every_crop_and_both_flips_occur(images: torch.Tensor) -> None:
    spec = AugmentSpec(crop="pad", pad=1, flip=True)
    ids = np.zeros(500, np.int64)
    batch = augmented(spec, Preprocessor(PLAIN), images, np.arange(500), ids)
    assert len(torch.unique(batch.flatten(1), dim=0)) == 3 * 3 * 2


@pytest.mark.parametrize("crop", ["pad", "none"])
def test_alternate_flips_show_each_image_both_ways_in_two_epochs(
    images: torch.Tensor, crop: str
) -> None:
    spec = AugmentSpec(crop=crop, pad=0, flip=True, flip_rule="alternate")
    ids = np.arange(20)
    epochs = [
        augmented(spec, Preprocessor(PLAIN), images, np.full(20, epoch), ids) for epoch in range(4)
    ]
    assert torch.equal(epochs[0], epochs[2])
    assert torch.equal(epochs[1], epochs[3])
    assert torch.equal(epochs[1], epochs[0].flip(3))
    stored = images.permute(0, 3, 1, 2)
    unflipped = (epochs[0].round().byte() == stored).flatten(1).all(1)
    assert 3 < unflipped.sum() < 17  # the first epoch is random


def test_mean_is_subtracted_where_pixels_were_and_padding_is_zero(images: torch.Tensor) -> None:
    mean = torch.rand(3, 12, 12)
    spec = replace(PLAIN, mean_image=True, std=(1.0, 0.5, 2.0))
    ids, epochs = np.arange(20), np.full(20, 5)
    batch = augmented(
        AugmentSpec(crop="pad", flip=True), Preprocessor(spec, mean), images, epochs, ids
    )
    centered = (images.numpy() / 255 - mean.permute(1, 2, 0).numpy()) / np.array(spec.std)
    wanted = np.stack([naive_crop(centered[row], 4, 9, 5, row) for row in ids])
    assert_close(batch.permute(0, 2, 3, 1).double().numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert (batch == 0).any()  # padding is in view, and exactly zero


def test_without_augmentation_training_sees_what_evaluation_sees(images: torch.Tensor) -> None:
    mean = torch.rand(3, 12, 12)
    for spec, mean_image in (
        (PLAIN, None),
        (replace(PLAIN, mean_image=True, channel_order="bgr"), mean),
    ):
        preprocessor = Preprocessor(spec, mean_image)
        batch = augmented(AugmentSpec(), preprocessor, images, np.zeros(20, int), np.arange(20))
        assert_close(batch, preprocessor.normalize(images.permute(0, 3, 1, 2)), rtol=0, atol=0)


def test_a_sample_does_not_depend_on_its_batch(images: torch.Tensor) -> None:
    spec = AugmentSpec(crop="pad", flip=True, pca_color=0.1, policy="rand", random_erase=0.5)
    spec = replace(
        spec, vertical_flip=True, rotate90=True, color_jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.2,
        blur=0.5, blur_sigma=(0.1, 1.0),
    )  # fmt: skip
    ids, epochs = np.arange(20), np.full(20, 2)
    together = augmented(spec, Preprocessor(PLAIN), images, epochs, ids)
    for row in (0, 13):
        alone = augmented(spec, Preprocessor(PLAIN), images, epochs[:1], ids[row : row + 1])
        assert_close(alone[0], together[row], rtol=0, atol=0)
    other = augmented(spec, Preprocessor(PLAIN), images, epochs, ids, seed=10)
    assert not torch.equal(other, together)


def test_pca_color_has_the_published_covariance() -> None:
    count = 20_000
    gray = torch.full((1, 1, 1, 3), 128, dtype=torch.uint8)
    spec = replace(PLAIN, size=1, resize=1, mean=(128 / 255,) * 3, std=(1.0,) * 3)
    augment = BatchAugment(AugmentSpec(pca_color=0.1), Preprocessor(spec), 1, CPU)
    rows = torch.zeros(count, dtype=torch.int64)
    shift = augment(augment.pad(gray), rows, np.zeros(count, int), np.arange(count)).flatten(1)
    values, vectors = np.linalg.eigh(np.cov(shift.numpy().T))
    assert_close(np.sqrt(values[::-1]), 0.1 * np.array(PCA_VALUES), rtol=0.03, atol=0)
    brightness = np.abs(vectors[:, -1])  # the first component moves all colours alike
    assert_close(brightness, np.array([0.5675, 0.5808, 0.5836]), rtol=0, atol=5e-3)
    assert abs(shift.mean()) < 1e-3


def photograph(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width)
    small = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("shape", [(120, 90), (90, 130), (64, 64)])
@pytest.mark.parametrize(
    ("side", "down", "across"), [(32, 0, 0.999), (51, 0.3, 0.6), (80, 0.999, 0)]
)
def test_scale_jitter_is_resize_then_crop(shape, side: int, down: float, across: float) -> None:
    image = photograph(*shape)
    ours = render(image.copy(), Crop(32, 3, jitter_box(32, side, down, across)))
    scaled = reference.resize(image, side)
    top, left = int((scaled.height - 31) * down), int((scaled.width - 31) * across)
    wanted = np.asarray(reference.crop(scaled, top, left, 32, 32)).astype(int)
    difference = np.abs(ours - wanted)  # Pillow keeps boxes as float32, so exact halves may turn
    assert difference.max() <= 2
    assert difference.mean() < 0.2


def test_scale_jitter_covers_its_range() -> None:
    spec = AugmentSpec(crop="scale-jitter", scale=(40, 60))
    preprocessor = Preprocessor(replace(PLAIN, size=32, resize=32))
    ids = np.arange(3000)
    views = train_views(spec, preprocessor, 0, np.zeros(3000, int), ids)
    boxes = np.array([view.box(600, 600) for view in views])
    sides = np.round(32 * 600 / (boxes[:, 2] - boxes[:, 0]))
    assert sorted(set(sides)) == list(range(40, 61))
    assert boxes.min() == 0
    assert boxes.max() == pytest.approx(600)
    again = train_views(spec, preprocessor, 0, np.array([0]), ids[7:8])
    assert again[0].box(600, 400) == views[7].box(600, 400)


@pytest.mark.parametrize(
    ("width", "height"), [(500, 375), (100, 400), (30, 30), (2000, 20), (1, 1)]
)
def test_resized_crop_keeps_area_and_ratio_within_bounds(width: int, height: int) -> None:
    spec = AugmentSpec(crop="random-resized", scale=(0.35, 1.0))
    views = train_views(spec, Preprocessor(PLAIN), 0, np.zeros(300, int), np.arange(300))
    boxes = np.array([view.box(width, height) for view in views])
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= width
    assert boxes[:, 3].max() <= height
    wide, tall = (boxes[:, 2:] - boxes[:, :2]).T
    rounding = 1 / min(wide.min(), tall.min())
    assert (np.abs(np.log(wide / tall)) <= math.log(4 / 3) + 2 * rounding).all()
    if (width, height) == (500, 375):
        share = wide * tall / (width * height)
        assert share.min() == pytest.approx(0.35, abs=0.02)
        assert share.max() > 0.9
        assert 0.55 < share.mean() < 0.7


def test_resized_crop_takes_the_center_when_no_try_fits() -> None:
    box = resized_box((1.0, 1.0), np.full((3, 4), 0.99))
    assert box(400, 100) == pytest.approx((133.333, 0, 266.667, 100), abs=1e-2)


@pytest.mark.parametrize(
    ("spec", "channels", "word"),
    [
        (AugmentSpec(crop="scale-jitter"), 3, "data.augment.scale"),
        (AugmentSpec(crop="scale-jitter", scale=(480, 256)), 3, "data.augment.scale"),
        (AugmentSpec(crop="random-resized", scale=(0.0, 2.0)), 3, "data.augment.scale"),
        (AugmentSpec(pca_color=0.1), 1, "data.augment.pca_color"),
        (AugmentSpec(grayscale=0.1), 1, "data.augment.grayscale"),
        (AugmentSpec(color_jitter=(0, 0, 0, 0.1)), 1, "data.augment.color_jitter"),
        (AugmentSpec(color_jitter=(0, 0, 0, 0.6)), 3, "data.augment.color_jitter"),
        (AugmentSpec(blur=1.0, blur_sigma=(2, 90)), 3, "data.augment.blur_sigma"),
    ],
)
def test_invalid_settings_are_refused(spec: AugmentSpec, channels: int, word: str) -> None:
    values = (1.0,) * channels
    preprocessor = Preprocessor(Preprocess(channels=channels, mean=values, std=values))
    with pytest.raises(ConfigError, match=word):
        BatchAugment(spec, preprocessor, 0, CPU)
