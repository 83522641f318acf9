"""Numbers of the paper in docstrings and pages are those of `resnets.study.paper`."""

import inspect
import re

import pytest
from paths import ROOT

from resnets.models import build, catalog, cost
from resnets.models.cost import shapes_only
from resnets.recipes import cifar, detection, imagenet
from resnets.study import paper

CIFAR = paper.CIFAR10
COCO = (48.4, 27.2), (41.5, 21.2)  # Table 8: mAP@.5 and mAP@[.5, .95], ResNet-101 and VGG-16
DEEP = CIFAR["cifar-resnet110"]
TOP1 = paper.IMAGENET["resnet50-v1"].top1
CIFAR_20_TO_56 = " / ".join(
    f"{CIFAR[f'cifar-resnet{depth}'].top1:.2f}" for depth in (20, 32, 44, 56)
)
DOCSTRINGS = [
    (cifar.cifar10_paper, CIFAR_20_TO_56),
    (cifar.cifar10_paper, f"{DEEP.top1} ± {DEEP.spread}"),
    (cifar.cifar10_paper, f"best {DEEP.best}"),
    (imagenet.imagenet_paper, f"{TOP1}% top-1"),
    *((detection.detect_paper, f"{half} / {mean} for") for half, mean in COCO),
]
PAGES = [
    ("train.md", "8.75% (CIFAR-10, the paper)", CIFAR["cifar-resnet20"].top1),
    ("train.md", f"{TOP1}% (ten crops)", TOP1),
    ("detect.md", f"mAP@.5 {COCO[0][0]} on COCO val", COCO[0][0]),
]
ALL = {*paper.COSTS.values(), *CIFAR.values(), *paper.IMAGENET.values()}


@pytest.mark.parametrize(("recipe", "said"), DOCSTRINGS)
def test_docstrings_of_recipes(recipe, said: str) -> None:
    assert said in " ".join(inspect.getdoc(recipe).split())


@pytest.mark.parametrize(("page", "said", "number"), PAGES)
def test_pages(page: str, said: str, number: float) -> None:
    assert str(number) in said
    assert said in (ROOT / "docs" / page).read_text(encoding="utf-8")


def test_every_number_names_its_table() -> None:
    for each in ALL:
        assert re.fullmatch(r"Tables? \d+( and \d+)?|Fig\. \d|section \d\.\d", each.source)


def test_v15_adds_as_many_multiply_adds_as_the_pages_say() -> None:
    for depth in (50, 101, 152):
        counts = []
        for name in (f"resnet{depth}", f"resnet{depth}-v1"):
            with shapes_only():
                counts.append(cost.count_cost(build(catalog.spec(name))).multiply_adds)
        assert round((counts[0] - counts[1]) / 1e9, 2) == 0.23
    assert "0.23e9" in cost.count_cost.__doc__
    assert "adds 0.23G" in (ROOT / "docs" / "info.md").read_text(encoding="utf-8")
