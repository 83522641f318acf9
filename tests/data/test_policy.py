"""Policies: each operation against Pillow's as timm and torchvision call it, and their odds."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm
from torchvision.transforms import InterpolationMode, v2

from resnets.config import AugmentSpec, ConfigError, DataSpec, Preprocess
from resnets.data import TrainStream, fit_preprocess, open_data
from resnets.data.transforms.augment import BatchAugment
from resnets.data.transforms.operations import OPERATIONS, Scene, autocontrast
from resnets.data.transforms.policy import RAND, TRIVIAL, Policy
from resnets.data.transforms.preprocess import Preprocessor

CPU = torch.device("cpu")
SIZE, FILL = 48, (10, 20, 30)
TIMM = dict(
    zip(
        RAND,
        [
            "AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing",
            "SolarizeIncreasing", "SolarizeAdd", "ColorIncreasing", "ContrastIncreasing",
            "BrightnessIncreasing", "SharpnessIncreasing", "ShearX", "ShearY",
            "TranslateXRel", "TranslateYRel",
        ],
        strict=True,
    )
)  # fmt: skip
TORCHVISION = {
    name: {"color": "Color", "autocontrast": "AutoContrast"}.get(name)
    or name.title().replace("_", "")
    for name in TRIVIAL
}
WARPS = {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"}
ROUNDED = {"autocontrast", "color", "contrast"}


def photograph(seed: int, channels: int = 3) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(20, 230, (6, 6, 3), np.uint8))
    image = small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return image if channels == 3 else image.convert("L")


def tensor(images: list[Image.Image]) -> torch.Tensor:
    """(B, C, S, S) in channels_last memory."""
    arrays = [np.array(image).reshape(SIZE, SIZE, -1) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def apply(name: str, images: torch.Tensor, strengths, **options) -> torch.Tensor:
    scene = Scene(torch.tensor(FILL[: images.shape[1]], dtype=torch.uint8), **options)
    strength = torch.tensor(strengths, dtype=torch.float32).view(-1, 1, 1, 1)
    before = images.clone()
    changed = OPERATIONS[name](images, strength, scene)
    assert torch.equal(images, before)
    assert changed.dtype == torch.uint8
    assert changed.shape == images.shape
    return changed


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", RAND)
def test_operations_of_rand_are_those_of_timm(name: str, channels: int, monkeypatch) -> None:
    amounts = np.array([-0.97, -0.5, -0.02, 0.31, 0.7, 0.99])
    images = [photograph(seed, channels) for seed in range(len(amounts))]
    strengths = np.broadcast_to(RAND[name](amounts, SIZE), amounts.shape)
    ours = apply(name, tensor(images), strengths)
    hparams = {"img_mean": FILL[0] if channels == 1 else FILL, "interpolation": Image.BILINEAR}
    for place, (amount, image) in enumerate(zip(amounts, images, strict=True)):
        monkeypatch.setattr(timm, "_randomly_negate", lambda v, amount=amount: v * np.sign(amount))
        operation = timm.AugmentOp(TIMM[name], 1.0, 10 * abs(amount), hparams)
        wanted = np.asarray(operation(image)).reshape(SIZE, SIZE, channels)
        off = np.abs(ours[place].permute(1, 2, 0).numpy().astype(int) - wanted)
        assert off.max() <= (1 if name in ROUNDED | WARPS else 0)


@pytest.mark.parametrize("name", TRIVIAL)
def test_operations_of_trivial_are_those_of_torchvision(name: str) -> None:
    bins, sign = np.array([0, 7, 16, 30, 7, 29]), np.array([1, 1, 1, 1, -1, -1])
    images = [photograph(seed) for seed in range(len(bins))]
    reference = v2.TrivialAugmentWide()
    table, signed = reference._AUGMENTATION_SPACE[TORCHVISION[name]]
    magnitudes = table(31, SIZE, SIZE)
    strengths = np.broadcast_to(TRIVIAL[name](sign * bins / 30, SIZE), bins.shape)
    ours = apply(name, tensor(images), strengths, mode="nearest")
    for place, image in enumerate(images):
        magnitude = 0.0 if magnitudes is None else float(magnitudes[bins[place]])
        # Our maps are timm's: to the left and up. torchvision's move to the right and down.
        turned = -1 if name in WARPS - {"rotate"} and not name.startswith("shear") else 1
        magnitude *= sign[place] * turned if signed else 1
        changed = reference._apply_image_or_video_transform(
            image,
            TORCHVISION[name],
            magnitude,
            interpolation=InterpolationMode.NEAREST,
            fill={Image.Image: list(FILL)},
        )
        off = np.abs(ours[place].permute(1, 2, 0).numpy().astype(int) - np.asarray(changed))
        if name in WARPS | {"solarize"}:  # a few pixels, or one value, fall to the other side
            assert (off > 0).mean() < 0.02
        else:
            assert off.max() <= (1 if name in ROUNDED else 0)


def test_every_operation_is_of_its_own_strength_and_planes_may_be_reversed() -> None:
    images = tensor([photograph(seed) for seed in range(4)])
    for name in RAND:
        strengths = RAND[name](np.array([-0.9, 0.2, 0.5, 0.9]), SIZE)
        strengths = np.broadcast_to(strengths, (4,))
        together = apply(name, images, strengths)
        for place in range(4):
            alone = apply(name, images[place : place + 1], strengths[place : place + 1])
            assert torch.equal(alone[0], together[place])
        reverse = OPERATIONS[name](
            images.flip(1),
            torch.tensor(strengths.copy(), dtype=torch.float32).view(-1, 1, 1, 1),
            Scene(torch.tensor(FILL[::-1], dtype=torch.uint8), bgr=True),
        )
        assert torch.equal(reverse.flip(1), together)


def test_rand_has_the_odds_and_strengths_of_its_source() -> None:
    policy = Policy(AugmentSpec(policy="rand"), 0, (0.5, 0.25, 0.0))
    assert policy.scene.fill.tolist() == [128, 64, 0]
    count = 30_000
    kinds, strengths = policy.draw(np.zeros(count, int), np.arange(count), 0, 100)
    again, _ = policy.draw(np.zeros(count, int), np.arange(count), 1, 100)
    assert (kinds >= 0).mean() == pytest.approx(0.5, abs=0.01)
    share = np.bincount(kinds[kinds >= 0], minlength=15) / (kinds >= 0).sum()
    assert len(share) == 15
    assert share == pytest.approx(np.full(15, 1 / 15), abs=0.008)
    assert np.corrcoef(kinds, again)[0, 1] == pytest.approx(0, abs=0.02)
    rotate = strengths[kinds == list(RAND).index("rotate")]
    assert np.abs(rotate).mean() == pytest.approx(21, abs=0.15)
    assert np.abs(rotate).std() == pytest.approx(1.5, abs=0.15)
    assert (rotate > 0).mean() == pytest.approx(0.5, abs=0.05)
    assert np.abs(rotate).max() <= 30


def test_trivial_draws_one_operation_of_any_strength() -> None:
    policy = Policy(AugmentSpec(policy="trivial", policy_ops=3), 0, (0.5, 0.5, 0.5))
    assert policy.layers == 1
    kinds, strengths = policy.draw(np.zeros(30_000, int), np.arange(30_000), 0, 100)
    share = np.bincount(kinds, minlength=14) / 30_000
    assert share == pytest.approx(np.full(14, 1 / 14), abs=0.008)
    rotate = strengths[kinds == list(TRIVIAL).index("rotate")]
    assert sorted(set(np.abs(rotate.round(2)))) == pytest.approx(np.linspace(0, 135, 31), abs=0.01)
    bits = strengths[kinds == list(TRIVIAL).index("posterize")]
    assert set(bits) == {2, 3, 4, 5, 6, 7, 8}


@pytest.mark.parametrize("kind", ["rand", "trivial"])
def test_a_changed_image_does_not_depend_on_its_batch(kind: str) -> None:
    images = tensor([photograph(seed) for seed in range(24)]).permute(0, 2, 3, 1)
    policy = Policy(AugmentSpec(policy=kind), 1, (0.5,) * 3)
    ids, epochs = np.arange(24), np.full(24, 3)
    together = policy(images.clone(), epochs, ids)
    changed = (together != images).flatten(1).any(1)
    assert 10 <= changed.sum() <= 23
    for row in (0, 7, 19):
        alone = policy(images[row : row + 1].clone(), epochs[:1], ids[row : row + 1])
        assert torch.equal(alone[0], together[row])
    elsewhere = Policy(policy.spec, 2, (0.5,) * 3)
    assert not torch.equal(policy(images.clone(), epochs + 1, ids), together)
    assert not torch.equal(elsewhere(images.clone(), epochs, ids), together)


def test_padding_stays_zero_and_the_stored_set_as_it_was() -> None:
    """Operations come before the mean is taken off and before the padding, which they never see."""
    images = tensor([photograph(seed) for seed in range(16)]).permute(0, 2, 3, 1).contiguous()
    mean = torch.rand(3, SIZE, SIZE)
    known = Preprocess(size=SIZE, resize=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3, mean_image=True)
    spec = AugmentSpec(policy="trivial", crop="pad", pad=4)
    augment = BatchAugment(spec, Preprocessor(known, mean), 5, CPU)
    stored = augment.pad(images)
    before = stored.clone()
    ids, epochs = np.arange(16), np.zeros(16, int)
    rows = torch.arange(16)
    out = augment(stored, rows, epochs, ids)
    assert torch.equal(stored, before)
    plain = replace(spec, policy="none")
    changed = Policy(spec, 5, (0.5,) * 3)(images.clone(), epochs, ids)
    by_hand = BatchAugment(plain, Preprocessor(known, mean), 5, CPU)
    assert torch.equal(out, by_hand(by_hand.pad(changed), rows, epochs, ids))
    assert (out == 0).any()


def test_a_stream_with_a_policy_resumes_where_it_stopped() -> None:
    spec = DataSpec(augment=AugmentSpec(policy="rand", crop="pad", flip=True))
    train = open_data(spec).train
    stream = TrainStream(train, spec, fit_preprocess(train, spec, 1), 16, 1, CPU)  # grey digits
    whole = list(islice(stream.batches(), 5))
    assert torch.equal(next(stream.batches(4)).images, whole[4].images)
    plain = replace(spec, augment=replace(spec.augment, policy="none"))
    without = TrainStream(train, plain, fit_preprocess(train, spec, 1), 16, 1, CPU)
    differ = (next(without.batches()).images != whole[0].images).flatten(1).any(1)
    assert 6 <= differ.sum() <= 16


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"policy_magnitude": 11.0}, "data.augment.policy_magnitude"),
        ({"policy_ops": -1}, "data.augment.policy_ops"),
        ({"policy_std": -0.5}, "data.augment.policy_std"),
    ],
)
def test_invalid_settings_are_refused(change: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        BatchAugment(AugmentSpec(**change), Preprocessor(Preprocess()), 0, CPU)


@pytest.mark.parametrize("channels", [1, 3])
def test_autocontrast_is_torchvisions(channels):
    noise = torch.randint(0, 256, (6, channels, 16, 16), dtype=torch.uint8)
    noise[1] = noise[1] // 64 + 9
    noise[2] = 7  # one value
    noise[3] = noise[3] // 16 + 100
    assert torch.equal(autocontrast(noise), v2.functional.autocontrast(noise))
