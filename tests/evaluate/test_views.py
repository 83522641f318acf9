"""Ten-crop and dense evaluation against brute force: one image, one crop, one window at a time.

The brute force shares nothing with the package but the net: it opens files with PIL, resizes the
whole image, crops by slicing, normalises in numpy, and calls the net once per view.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import CLASSES, PREACT, RESIDUAL, VGG, small_net, write_images
from torch.nn import functional as F

from resnets.config import ConfigError, ModelSpec, Preprocess
from resnets.data import FileSplit
from resnets.evaluate.ensemble import Ensemble
from resnets.evaluate.views import Average, Views, average_scores, read_views
from resnets.models import ImageClassifier

CPU = torch.device("cpu")


def compute_logits(
    net: ImageClassifier, split: FileSplit, views: Views, average: Average = "probabilities"
):
    """(N, K) as the package computes them."""
    ensemble = Ensemble([net], views, average, CPU, "float32")
    parts = list(ensemble.scores(split, range(len(split)), workers=2))
    assert [row for part in parts for row in part.rows.tolist()] == list(range(len(split)))
    return torch.cat([part.logits for part in parts])


def naive_pixels(folder: Path, number: int, side: int) -> np.ndarray:
    """The whole image at shorter side `side`, (H, W, 3)."""
    with Image.open(folder / f"{number:02}.png") as image:
        width, height = image.size
        short = min(width, height)
        image = image.resize(
            (width * side // short, height * side // short), Image.Resampling.BILINEAR
        )
        return np.asarray(image)


def naive_input(net: ImageClassifier, pixels: np.ndarray) -> torch.Tensor:
    values = (pixels / 255 - 0.45) / 0.25
    return torch.from_numpy(values.transpose(2, 0, 1).astype(np.float32))[None]


def softmax(logits: torch.Tensor) -> np.ndarray:
    powers = np.exp(logits.detach().double().numpy() - logits.max().item())
    return powers / powers.sum()


def corners_and_center(whole: np.ndarray) -> list[tuple[int, int]]:
    """Top and left of the five 28 px crops."""
    bottom, right = whole.shape[0] - 28, whole.shape[1] - 28
    middle = (round(bottom / 2), round(right / 2))
    return [(0, 0), (0, right), (bottom, 0), (bottom, right), middle]


def naive_ten_crop(net: ImageClassifier, folder: Path, number: int, side: int) -> np.ndarray:
    """Mean of the probabilities of ten crops, (K,)."""
    whole = naive_pixels(folder, number, side)
    total = np.zeros(len(CLASSES))
    for top, left in corners_and_center(whole):
        crop = whole[top : top + 28, left : left + 28]
        for shown in (crop, crop[:, ::-1]):
            total += softmax(net(naive_input(net, shown))[0])
    return total / 10


@pytest.mark.parametrize("spec", [RESIDUAL, VGG])
def test_ten_crop_equals_brute_force(spec: ModelSpec, tmp_path: Path):
    net = small_net(spec)
    split = write_images(tmp_path, ((40, 32), (32, 47), (33, 32), (32, 32)))
    ours = compute_logits(net, split, Views("ten-crop")).softmax(1).numpy()
    with torch.no_grad():
        theirs = np.stack([naive_ten_crop(net, tmp_path, k, 32) for k in range(len(split))])
    assert np.abs(theirs - theirs.mean(0)).max() > 0.05  # the images are told apart
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_crops_are_those_of_the_rescaled_image(tmp_path: Path):
    net, split = small_net(RESIDUAL), write_images(tmp_path)
    for number in range(len(split)):
        whole = naive_pixels(tmp_path, number, 37)
        crops = read_views(split, number, Views("ten-crop", (37,)), net.preprocess.spec)
        for crop, (top, left) in zip(crops, corners_and_center(whole), strict=True):
            wanted = whole[top : top + 28, left : left + 28].astype(int)
            assert np.abs(crop - wanted).max() <= 1  # only a box is resized, and rounds by itself


def class_scores(net: ImageClassifier, images: torch.Tensor) -> torch.Tensor:
    """Mean over positions of the class score map, found position by position, (K,)."""
    features = net.stages(images)[net.stage_names[-1]]
    height, width = features.shape[2:]
    window = 1 if net.spec.block != "vgg" else net.spec.input_size // 2 ** len(net.spec.depths)
    windows = []
    for top in range(height - window + 1):
        for left in range(width - window + 1):
            seen = features[:, :, top : top + window, left : left + window]
            windows.append(seen)
    return net.classify(torch.cat(windows)).mean(0)


def naive_dense(net: ImageClassifier, folder: Path, number: int, sides, flip: bool) -> np.ndarray:
    """Mean over scales (and flips) of the probabilities of the whole image, (K,)."""
    total = []
    for side in sides:
        with Image.open(folder / f"{number:02}.png") as image:
            width, height = image.size
            if max(width, height) > 4 * min(width, height):  # of 200 x 30 the middle 120
                excess = max(width, height) - 4 * min(width, height)
                assert (width, height, excess) == (200, 30, 80)
                image = image.crop((40, 0, 160, 30))
                width = 120
            short = min(width, height)
            size = (width * side // short, height * side // short)
            pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        for shown in (pixels, pixels[:, ::-1]) if flip else (pixels,):
            total.append(softmax(class_scores(net, naive_input(net, shown))))
    return np.mean(total, 0)


@pytest.mark.parametrize(
    ("spec", "size", "sides", "flip"),
    [
        (RESIDUAL, 28, (28, 32, 48, 61), True),
        (RESIDUAL, 28, (40,), False),
        (VGG, 28, (28, 40), True),  # features of one image are 7x7, as VGG's at 224 px
        (VGG, 18, (20, 29), False),  # ... and 4x4, which the net pools up to 7x7
    ],
)
def test_dense_multi_scale_equals_brute_force(spec, size, sides, flip, tmp_path: Path):
    net = small_net(spec, size=size)
    split = write_images(tmp_path)
    ours = compute_logits(net, split, Views("dense", sides, flip)).softmax(1).numpy()
    with torch.no_grad():
        theirs = np.stack(
            [naive_dense(net, tmp_path, k, sides, flip) for k in range(len(split))]
        )  # fmt: skip
    assert np.abs(theirs - theirs.mean(0)).max() > 0.02
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("spec", [RESIDUAL, PREACT, VGG])
def test_dense_at_the_training_size_of_square_images_is_the_network_itself(spec, tmp_path: Path):
    net = small_net(spec, resize=28)
    split = write_images(tmp_path, ((28, 28), (56, 56)))
    dense = compute_logits(net, split, Views("dense", (28,)))
    torch.testing.assert_close(dense, compute_logits(net, split, Views()), atol=1e-5, rtol=1e-5)


def test_center_is_what_prediction_sees(tmp_path: Path):
    net = small_net(RESIDUAL)
    split = write_images(tmp_path)
    seen = net.preprocess([tmp_path / f"{k:02}.png" for k in range(len(split))])
    with torch.no_grad():
        torch.testing.assert_close(compute_logits(net, split, Views()), net(seen))
        both = torch.stack([net(seen), net(seen.flip(3))]).softmax(2).mean(0)
    flipped = compute_logits(net, split, Views(flip=True)).softmax(1)
    torch.testing.assert_close(flipped, both)


def test_gray_networks_and_mean_images(tmp_path: Path):
    split = write_images(tmp_path, ((28, 28), (60, 28)))
    net = small_net(RESIDUAL, resize=28, mean_image=True, channels=1)
    pixels = []
    for number, width in enumerate((28, 60)):
        with Image.open(tmp_path / f"{number:02}.png") as image:
            assert image.size == (width, 28)
            pixels.append(torch.from_numpy(np.array(image.convert("L"))).float()[None, None])
    mean = net.preprocess.mean_image[None]  # (1, 1, 28, 28), stretched over the second image
    with torch.no_grad():
        theirs = torch.cat(
            [
                net((pixels[0] / 255 - mean) / 0.25),
                net((pixels[1] / 255 - F.interpolate(mean, (28, 60), mode="bilinear")) / 0.25),
            ]
        )
    ours = compute_logits(net, split, Views("dense", (28,)))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_logits_or_probabilities_are_averaged(tmp_path: Path):
    net = small_net(RESIDUAL)
    split = write_images(tmp_path)
    one, two = (compute_logits(net, split, Views("dense", (side,))) for side in (8, 64))
    both = Views("dense", (8, 64))
    logits = compute_logits(net, split, both, "logits")
    torch.testing.assert_close(logits, (one + two) / 2)
    shares = compute_logits(net, split, both, "probabilities").softmax(1)
    torch.testing.assert_close(shares, (one.softmax(1) + two.softmax(1)) / 2)
    assert (shares - logits.softmax(1)).abs().max() > 1e-4  # the choice matters


def test_average_of_one_changes_no_bit_and_none_underflows():
    logits = torch.tensor([[[300.0, -300.0, 0.0]]])
    assert torch.equal(average_scores(logits, "probabilities"), logits[0])
    two = torch.tensor([[300.0, -300.0], [-300.0, 300.0]])
    averaged = average_scores(two[:, None], "probabilities")
    torch.testing.assert_close(averaged, torch.full((1, 2), math.log(0.5)))


def test_sigmoids_are_averaged_without_float64():
    logits = torch.tensor([[[-3.0, 0.5, 8.0]], [[1.0, -0.5, 6.0]]])
    averaged = average_scores(logits, "probabilities", "sigmoid")
    torch.testing.assert_close(averaged.sigmoid(), logits.sigmoid().mean(0))
    extreme = torch.tensor([[[90.0, -90.0]], [[90.0, -90.0]]])  # 1 - p and p underflow
    averaged = average_scores(extreme, "probabilities", "sigmoid")
    torch.testing.assert_close(averaged, extreme[0])


def test_scales_of_each_kind():
    imagenet, small = Preprocess(), Preprocess(size=32, resize=36)
    assert Views("dense").sides(imagenet) == (224, 256, 384, 480, 640)  # the paper, section 3.4
    assert Views("dense").sides(small) == (32, 37, 55, 69, 91)
    assert Views("ten-crop").sides(imagenet) == (256,)
    assert Views("ten-crop", (288,)).sides(imagenet) == (288,)


@pytest.mark.parametrize(
    ("views", "said"),
    [
        (Views(), "1 view (center crop at shorter side 256 px), 224x224 px"),
        (
            Views("ten-crop"),
            "10 views (corners and center at shorter side 256 px, each flipped; "
            "probabilities averaged), 224x224 px",
        ),
        (
            Views("dense", (224, 256), flip=True),
            "4 views (whole image up to 4:1 at shorter sides 224, 256 px, each flipped; "
            "probabilities averaged), fully convolutional, logits averaged over positions",
        ),
    ],
)
def test_protocol_names_the_views(views: Views, said: str):
    assert views.describe(Preprocess(), "probabilities") == said


def test_plain_center_is_one_view():
    plain = Preprocess(size=32, resize=32)
    assert Views().describe(plain, "probabilities") == "1 view, 32x32 px"


@pytest.mark.parametrize(
    ("kind", "spec", "scales", "said"),
    [
        ("ten-crop", RESIDUAL, (27,), "--scales 27: small-residual's crops have 28 px"),
        ("dense", VGG, (30, 27), "small-vgg's fully connected layers span 28 px"),
    ],
)
def test_scales_too_small_for_the_network_are_refused(kind, spec, scales, said):
    with pytest.raises(ConfigError, match=said):
        Ensemble([small_net(spec)], Views(kind, scales), "logits", CPU, "float32")


def test_contradicting_options_are_refused():
    with pytest.raises(ConfigError, match="each once"):
        Views("dense", (32, 32))
    with pytest.raises(ConfigError, match="--flip"):
        Views("ten-crop", flip=True)
