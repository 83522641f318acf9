"""Mixup, cutmix and random erasing against plain implementations and their published statistics."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from scipy.stats import beta
from torch.testing import assert_close

from resnets.config import AugmentSpec, ConfigError, DataSpec, Preprocess
from resnets.data import Batch, TrainStream, fit_preprocess, open_data
from resnets.data.transforms.augment import BatchAugment
from resnets.data.transforms.erase import Erase
from resnets.data.transforms.mix import cut_box, mix, partners
from resnets.data.transforms.preprocess import Preprocessor

CPU = torch.device("cpu")


def batch_of(count: int, size: int = 16) -> Batch:
    """Image k is k everywhere, and of class k."""
    numbers = torch.arange(count)
    images = numbers.float().view(-1, 1, 1, 1).expand(count, 3, size, size)
    layout = torch.channels_last
    return Batch(images.contiguous(memory_format=layout), numbers, numbers + 100)


def mixed(spec: AugmentSpec, steps: int, batch: Batch, seed: int = 0) -> list[Batch]:
    return [mix(spec, seed, step, batch) for step in range(steps)]


def test_mixup_adds_images_by_their_share() -> None:
    batch = batch_of(10)
    before = batch.images.clone()
    for out in mixed(AugmentSpec(mixup=1.0), 20, batch):
        wanted = out.target_weight * out.targets + (1 - out.target_weight) * out.other_targets
        assert_close(out.images, wanted.view(-1, 1, 1, 1).expand_as(out.images))
        assert torch.equal(out.targets, batch.targets)
        assert torch.equal(out.ids, batch.ids)
        assert out.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.images, before)


@pytest.mark.parametrize("channels", [1, 3])
def test_mixing_keeps_strides(channels: int) -> None:
    """A compiled net is compiled anew for other strides, of a single plane too."""
    images = torch.rand(4, 8, 8, channels).permute(0, 3, 1, 2)
    batch = replace(batch_of(4), images=images)
    for spec in (AugmentSpec(mixup=1.0), AugmentSpec(cutmix=1.0)):
        assert {out.images.stride() for out in mixed(spec, 3, batch)} == {images.stride()}


def test_the_share_of_cutmix_is_the_area_that_is_left() -> None:
    batch = batch_of(10)
    before = batch.images.clone()
    for out in mixed(AugmentSpec(cutmix=1.0), 50, batch):
        own = (out.images == out.targets.view(-1, 1, 1, 1)).all(1)  # (B, H, W)
        partner = (out.images == out.other_targets.view(-1, 1, 1, 1)).all(1)
        assert (own ^ partner).all()
        assert_close(own.float().mean((1, 2)), out.target_weight)
        rows, columns = partner[0].any(1), partner[0].any(0)
        assert torch.equal(partner[0], rows[:, None] & columns)  # one rectangle
    assert torch.equal(batch.images, before)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    shares = [
        out.target_weight[0].item() for out in mixed(AugmentSpec(mixup=alpha), 2000, batch_of(2, 1))
    ]
    deciles = np.arange(0.1, 1, 0.1)
    assert_close(np.quantile(beta.cdf(shares, alpha, alpha), deciles), deciles, rtol=0, atol=0.04)


def test_a_batch_is_mixed_as_often_as_asked_and_one_way() -> None:
    spec = AugmentSpec(mixup=0.2, cutmix=1.0, mix_probability=0.8)
    batch = replace(batch_of(4), images=torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8))
    outs = mixed(spec, 2000, batch)
    plain = [out for out in outs if out.other_targets is None]
    assert all(out.images is batch.images and out.target_weight is None for out in plain)
    assert len(plain) == pytest.approx(400, abs=55)  # 3 standard deviations
    cut = [
        out
        for out in outs
        if out.other_targets is not None and set(out.images.unique().tolist()) <= {0, 1, 2, 3}
    ]
    assert len(cut) / (2000 - len(plain)) == pytest.approx(0.5, abs=0.06)
    assert all(out.other_targets is None for out in mixed(AugmentSpec(), 5, batch))


def test_draws_depend_on_seed_and_step_alone() -> None:
    spec = AugmentSpec(mixup=1.0)
    shares = [out.target_weight[0].item() for out in mixed(spec, 50, batch_of(4))]
    assert shares == [out.target_weight[0].item() for out in mixed(spec, 50, batch_of(8, 4))]
    assert len(set(shares)) == 50
    assert shares[7] != mix(spec, 1, 7, batch_of(4)).target_weight[0].item()


def test_partners_are_mutual_and_never_copies_of_the_same_image() -> None:
    for count, repeats in ((8, 1), (12, 3), (64, 2)):
        other = partners(count, repeats)
        assert torch.equal(other[other], torch.arange(count))
        assert not (other == torch.arange(count)).any()
        half = partners(count // 2, repeats)  # what half of the batch, on one device, would take
        if count // 2 % (2 * repeats) == 0:
            assert torch.equal(half, other[: count // 2])
    for count, repeats in ((7, 1), (10, 3), (11, 3), (256, 3)):
        for start in range(repeats):  # copies need not begin with the batch
            image = (torch.arange(count) + start) // repeats
            other = partners(count, repeats)
            assert sorted(set(other.tolist()))[-1] < count
            assert not (image[other] == image).any()


def test_a_cut_is_clipped_at_the_border() -> None:
    assert cut_box(10, 20, 0.75, 0.5, 0.5) == (3, 8, 5, 15)
    assert cut_box(10, 20, 0.75, 0.0, 0.999) == (0, 3, 14, 20)
    top, bottom, left, right = cut_box(10, 20, 1.0, 0.3, 0.3)
    assert (bottom - top) * (right - left) == 0


def erased(images: torch.Tensor, probability: float, seed: int = 3, epoch: int = 0):
    count, channels, size, _ = images.shape
    erase = Erase(probability, seed, size, channels)
    return erase(images.clone(), np.full(count, epoch), np.arange(count))


def test_erasing_fills_rectangles_with_normal_noise() -> None:
    images = torch.full((400, 3, 32, 32), 7.0).to(memory_format=torch.channels_last)
    out = erased(images, 0.25)
    gone = (out != 7).all(1)
    touched = gone.flatten(1).any(1)
    assert touched.float().mean() == pytest.approx(0.25, abs=0.07)
    for mask in gone[touched]:
        assert torch.equal(mask, mask.any(1)[:, None] & mask.any(0))
    shares = gone[touched].float().mean((1, 2))
    assert shares.min() >= 0.02 - 0.01
    assert shares.max() <= 1 / 3 + 0.03
    assert shares.mean() == pytest.approx(0.17, abs=0.03)
    noise = out[:, 0][gone]
    assert noise.mean() == pytest.approx(0, abs=0.05)
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert torch.equal(erased(images, 0.0), images)


def test_erasing_an_image_does_not_depend_on_its_batch() -> None:
    images = torch.zeros(50, 3, 16, 16)
    together = erased(images, 1.0)
    erase = Erase(1.0, 3, 16, 3)
    for row in (0, 31):
        alone = erase(images[:1].clone(), np.array([0]), np.array([row]))
        assert torch.equal(alone[0], together[row])
    assert not torch.equal(erased(images, 1.0, epoch=1), together)
    assert not torch.equal(erased(images, 1.0, seed=4), together)


def test_ratios_of_erased_rectangles_are_as_published() -> None:
    boxes = Erase(1.0, 0, 64, 3).boxes(np.zeros(3000, int), np.arange(3000), 64, 64)
    tall, wide = np.array([box[2:4] for _, box in boxes]).T
    assert len(boxes) > 2990
    logs = np.log(tall / wide)
    assert abs(logs).max() < np.log(1 / 0.3) + 0.15
    assert abs(logs.mean()) < 0.05
    places = np.array([box for _, box in boxes])
    assert (places[:, 0] + tall <= 64).all()
    assert (places[:, 1] + wide <= 64).all()


ALL = AugmentSpec(
    crop="pad", flip=True, mixup=0.2, cutmix=1.0, mix_probability=0.9, random_erase=0.5
)


def test_a_stream_mixes_and_resumes_where_it_stopped() -> None:
    spec = DataSpec(augment=replace(ALL, repeats=3))
    train = open_data(spec).train
    stream = TrainStream(train, spec, fit_preprocess(train, spec, 3), 12, 1, CPU)
    stored = stream.split.images.clone()
    whole = list(islice(stream.batches(), 12))
    assert any(batch.other_targets is None for batch in whole)
    for batch in whole:
        runs = batch.ids.view(4, 3)
        assert (runs == runs[:, :1]).all()
        if batch.other_targets is not None:
            labels = train.labels[batch.ids]
            assert torch.equal(batch.targets, labels)
            assert torch.equal(batch.other_targets, labels[partners(12, 3)])
    for start in (5, 11):
        again = next(stream.batches(start))
        assert torch.equal(again.images, whole[start].images)
        assert (again.target_weight is None) == (whole[start].target_weight is None)
    assert torch.equal(stream.split.images, stored)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"mixup": -0.1}, "data.augment.mixup"),
        ({"cutmix": -1.0}, "data.augment.cutmix"),
        ({"mix_probability": 1.5}, "data.augment.mix_probability"),
        ({"random_erase": -0.5}, "data.augment.random_erase"),
        ({"repeats": 0}, "data.augment.repeats"),
    ],
)
def test_invalid_settings_are_refused(change: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        BatchAugment(AugmentSpec(**change), Preprocessor(Preprocess()), 0, CPU)
