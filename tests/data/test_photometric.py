"""Color jitter, grayscale, blur, vertical flip and right angles against torchvision's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from resnets.config import AugmentSpec, Preprocess
from resnets.data import order
from resnets.data.transforms.augment import BatchAugment
from resnets.data.transforms.photometric import (
    JITTER,
    Photometric,
    adjust_hue,
    blur_size,
    gaussian_blur,
)
from resnets.data.transforms.preprocess import Preprocessor

SIZE, COUNT = 24, 64
PLAIN = Preprocess(size=SIZE, resize=SIZE, mean=(0.0,) * 3, std=(1 / 255,) * 3)
EPOCHS, IDS = np.arange(COUNT) // 7, np.arange(COUNT)
ADJUST = {
    "brightness": reference.adjust_brightness,
    "contrast": reference.adjust_contrast,
    "saturation": reference.adjust_saturation,
    "hue": reference.adjust_hue,
}


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """(N, S, S, 3) uint8, smooth."""
    rng = np.random.default_rng(1)
    small = [Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)) for _ in range(COUNT)]
    big = [each.resize((SIZE, SIZE), Image.Resampling.BICUBIC) for each in small]
    return torch.from_numpy(np.stack([np.asarray(each) for each in big]))


def planes(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2)


def largest(ours: Tensor, theirs: Tensor) -> int:
    return int((ours.int() - theirs.int()).abs().max())


def test_hue_is_torchvisions(photographs: Tensor) -> None:
    shifts = torch.linspace(-0.5, 0.5, COUNT)
    ours = adjust_hue(planes(photographs), shifts.view(-1, 1, 1, 1))
    for row, shift in enumerate(shifts.tolist()):
        theirs = reference.adjust_hue(planes(photographs)[row], shift)
        assert largest(ours[row], theirs) <= 1


def test_blur_is_torchvisions(photographs: Tensor) -> None:
    sigmas = torch.linspace(0.1, 2.0, COUNT)
    size = blur_size(2.0)
    ours = gaussian_blur(planes(photographs), sigmas, size)
    for row, sigma in enumerate(sigmas.tolist()):
        theirs = reference.gaussian_blur(planes(photographs)[row], [size, size], [sigma, sigma])
        assert largest(ours[row], theirs) <= 1


@pytest.mark.parametrize("kind", JITTER)
def test_one_jitter_at_a_time_is_torchvisions(photographs: Tensor, kind: str) -> None:
    widths = [0.5 * (name == kind) for name in JITTER]
    change = Photometric(AugmentSpec(color_jitter=tuple(widths)), seed=3)
    factors, _ = change.draw_jitter(EPOCHS, IDS)
    ours = change(photographs.clone(), EPOCHS, IDS)
    amounts = factors[:, JITTER.index(kind)].astype(np.float32).tolist()
    assert len(set(amounts)) == COUNT
    for row, amount in enumerate(amounts):
        theirs = ADJUST[kind](planes(photographs)[row], amount)
        assert largest(planes(ours)[row], theirs) <= 1


def test_jitter_comes_in_the_drawn_order(photographs: Tensor) -> None:
    change = Photometric(AugmentSpec(color_jitter=(0.4, 0.4, 0.4, 0.1)), seed=5)
    factors, turns = change.draw_jitter(EPOCHS, IDS)
    assert len({tuple(row) for row in turns.tolist()}) > 12  # of 24 orders
    ours = planes(change(photographs.clone(), EPOCHS, IDS))
    for row in range(COUNT):
        image = planes(photographs)[row]
        for kind in turns[row]:
            image = ADJUST[JITTER[kind]](image, float(np.float32(factors[row, kind])))
        # A rounding of one, in one step, is enlarged by the next.
        assert (ours[row].float() - image.float()).abs().mean() < 1
        assert largest(ours[row], image) <= 8


def test_grayscale_is_torchvisions(photographs: Tensor) -> None:
    change = Photometric(AugmentSpec(grayscale=0.4), seed=2)
    ours = planes(change(photographs.clone(), EPOCHS, IDS))
    chosen = order.uniform(2, EPOCHS, IDS, order.STREAM_GRAYSCALE) < 0.4
    assert 0 < chosen.sum() < COUNT
    for row, gray in enumerate(chosen):
        plain = planes(photographs)[row]
        wanted = reference.rgb_to_grayscale(plain, num_output_channels=3) if gray else plain
        assert largest(ours[row], wanted) <= int(gray)


def test_planes_of_bgr_change_alike(photographs: Tensor) -> None:
    spec = AugmentSpec(color_jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.3, blur=0.3)
    rgb = Photometric(spec, 1)(photographs.clone(), EPOCHS, IDS)
    bgr = Photometric(spec, 1, bgr=True)(photographs.flip(3).contiguous(), EPOCHS, IDS)
    assert torch.equal(rgb, bgr.flip(3))


def test_all_eight_views_of_a_square_occur(photographs: Tensor) -> None:
    spec = AugmentSpec(flip=True, vertical_flip=True, rotate90=True)
    augment = BatchAugment(spec, Preprocessor(PLAIN), 4, torch.device("cpu"))
    count = 400
    rows, epochs = torch.zeros(count, dtype=torch.int64), np.arange(count)
    batch = augment(augment.pad(photographs[:1]), rows, epochs, np.zeros(count, np.int64))
    turns = (order.uniform(4, epochs, np.zeros(count, int), order.STREAM_TURN) * 4).astype(int)
    up = order.uniform(4, epochs, np.zeros(count, int), order.STREAM_VERTICAL) < 0.5
    left = order.uniform(4, epochs, np.zeros(count, int), order.STREAM_FLIP) < 0.5
    for row in range(count):
        wanted = planes(photographs)[0].float()
        wanted = reference.horizontal_flip(wanted) if left[row] else wanted
        wanted = reference.vertical_flip(wanted) if up[row] else wanted
        assert torch.equal(batch[row].round(), wanted.rot90(int(turns[row]), (1, 2)))
    assert len(torch.unique(batch.flatten(1), dim=0)) == 8


def test_each_field_changes_what_training_sees(photographs: Tensor) -> None:
    plain = AugmentSpec()
    for changes in (
        {"vertical_flip": True},
        {"rotate90": True},
        {"color_jitter": (0.2, 0.0, 0.0, 0.0)},
        {"grayscale": 0.5},
        {"blur": 0.5},
    ):
        found = []
        for spec in (plain, replace(plain, **changes)):
            augment = BatchAugment(spec, Preprocessor(PLAIN), 0, torch.device("cpu"))
            rows = torch.arange(COUNT)
            found.append(augment(augment.pad(photographs), rows, EPOCHS, IDS))
        assert not torch.equal(*found)
