"""Preprocessing of published weights against the library's own transforms, without their files."""

from pathlib import Path

import pytest
import sklearn.datasets
from PIL import Image
from torchvision import models

from resnets.models import catalog
from resnets.weights.hub import TIMM_TAGS

pytest.importorskip("timm")

import timm
from published_weights import FEATURES, difference, distinct, published

LEVELS = 2  # of 255, largest difference: two roundings (resize, then crop) against one
MEAN_LEVELS = 0.05


def test_all_weights_are_covered() -> None:
    """Every tag of every network of the catalog that the two libraries have weights for."""
    names = [name.replace("-", "_") for name in catalog.list_models()]
    in_timm = {name.partition(".")[0] for name in timm.list_pretrained()} & set(names)
    assert in_timm == {net for net, tags in TIMM_TAGS.items() if tags}
    listed = {f"timm:{net}.{tag}" for net, tags in TIMM_TAGS.items() for tag in tags}
    for net in set(models.list_models(module=models)) & set(names):
        listed |= {f"torchvision:{net}.{entry.name}" for entry in models.get_model_weights(net)}
    assert {each.name for each in published()} == listed - {f"torchvision:{FEATURES}"}
    assert len(published()) == len(listed) - 1 > 180


def test_constants_are_those_of_the_library() -> None:
    for each in published():
        ours, seen = each.ours, each
        assert (ours.size, ours.resize) == (seen.size, seen.resize), each.name
        assert ours.interpolation == seen.interpolation, each.name
        assert (ours.mean, ours.std) == (seen.mean, seen.std), each.name
        assert (ours.channels, ours.channel_order, ours.mean_image) == (3, "rgb", False), each.name
    sizes = {each.name: (each.size, each.resize) for each in published()}
    assert sizes["timm:resnet50.a1_in1k"] == (288, 288)
    assert sizes["torchvision:resnet50.IMAGENET1K_V2"] == (224, 232)
    assert sizes["torchvision:resnet50.IMAGENET1K_V1"] == (224, 256)


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two photographs of 640 x 427 px from scikit-learn, and an upright one of an odd size."""
    found = sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))
    upright = tmp_path_factory.mktemp("jpegs") / "upright.jpg"
    with Image.open(found[0]) as image:
        image.transpose(Image.Transpose.ROTATE_90).crop((20, 30, 363, 533)).save(upright)
    return [*found, upright]


def test_pixels_are_those_of_the_librarys_transform(jpegs: list[Path]) -> None:
    assert len(distinct()) > 8
    for number, each in enumerate(distinct()):
        found = difference(each, jpegs[number % len(jpegs)]).abs()
        assert found.max() <= LEVELS + 0.01, each.name
        assert found.mean() < MEAN_LEVELS, each.name
