"""Preprocessing of published weights against the library's own transforms, without their files."""

from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from PIL import Image

pytest.importorskip("timm")

from published_weights import difference, distinct, published

LEVELS = 2  # of 255, largest difference: two roundings (resize, then crop) against one
MEAN_LEVELS = 0.05


def test_sizes_are_those_of_the_library() -> None:
    for each in published():
        ours = (each.ours.size, each.ours.resize, each.ours.interpolation)
        assert ours == (each.size, each.resize, each.interpolation), each.name
    sizes = {each.name: (each.size, each.resize) for each in published()}
    assert sizes["timm:resnet50.a1_in1k"] == (288, 288)
    assert sizes["torchvision:resnet50.IMAGENET1K_V2"] == (224, 232)
    assert sizes["torchvision:resnet50.IMAGENET1K_V1"] == (224, 256)


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photographs where they are at hand; else smooth noise, upright and across."""
    real = sorted((ROOT.parent / "data").glob("imagenette/val/*/*.JPEG"))
    if real:
        return real[:: len(real) // 2][:2]
    folder, rng = tmp_path_factory.mktemp("jpegs"), np.random.default_rng(5)
    for width, height in ((500, 375), (300, 431)):
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{width}.jpg", quality=90)
    return sorted(folder.iterdir())


def test_pixels_are_those_of_the_librarys_transform(jpegs: list[Path]) -> None:
    assert len(distinct()) > 8
    for number, each in enumerate(distinct()):
        found = difference(each, jpegs[number % 2]).abs()
        assert found.max() <= LEVELS + 0.01, each.name
        assert found.mean() < MEAN_LEVELS, each.name
