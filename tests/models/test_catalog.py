"""The names of models."""

import pytest

from resnets.config import ConfigError
from resnets.models import catalog

ASKED_FOR = [
    *(f"{kind}{n}" for kind in ("resnet", "preact-resnet") for n in (18, 34, 50, 101, 152)),
    "plain18", "plain34", "resnet34-a", "resnet34-c", "resnet50-v1", "resnet152-v1",
    *(f"cifar-resnet{n}" for n in (20, 32, 44, 56, 110, 164, 1202)),
    *(f"cifar-plain{n}" for n in (20, 32, 44, 56, 110)),
    "cifar-preact-resnet110", "cifar-preact-resnet164",
    *(f"vgg{n}{bn}" for n in (11, 13, 16, 19) for bn in ("", "-bn")),
    "wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d",
]  # fmt: skip


def test_listed_names_give_specs_of_that_name() -> None:
    names = catalog.list_models()
    assert set(ASKED_FOR) <= set(names)
    assert len(set(names)) == len(names)
    assert [catalog.spec(name).name for name in names] == names


def test_overrides() -> None:
    spec = catalog.spec("resnet18", num_classes=7, shortcut="C")
    assert (spec.num_classes, spec.shortcut, spec.depths) == (7, "C", (2, 2, 2, 2))


@pytest.mark.parametrize(
    ("name", "depths", "block", "shortcut"),
    [
        ("cifar-resnet8", (1, 1, 1), "basic", "A"),
        ("cifar-plain200", (33, 33, 33), "basic", "none"),
        ("cifar-preact-resnet20", (3, 3, 3), "preact-basic", "A"),
        ("cifar-resnet164", (18, 18, 18), "bottleneck", "B"),
        ("cifar-plain164", (18, 18, 18), "bottleneck", "none"),
    ],
)
def test_cifar_models_of_any_depth(
    name: str, depths: tuple[int, ...], block: str, shortcut: str
) -> None:
    spec = catalog.spec(name)
    assert (spec.name, spec.depths, spec.block, spec.shortcut) == (name, depths, block, shortcut)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet51", "resnet50"),
        ("vgg16_bn", "vgg16-bn"),
        ("ResNet18", "resnet18"),
        ("cifar-resnet57", "cifar-resnet56"),
        ("cifar-plain1", "cifar-plain8"),
        ("plain-34", "plain34"),
    ],
)
def test_unknown_names_suggest_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown model '{name}'.*did you mean {nearest}\?"):
        catalog.spec(name)


def test_unknown_name_like_nothing() -> None:
    with pytest.raises(ConfigError, match="'alexandria'"):
        catalog.spec("alexandria")


def test_models_are_listed_by_wildcard_or_part_of_the_name() -> None:
    assert catalog.list_models("resnet??") == ["resnet18", "resnet34", "resnet50", "resnet26"]
    assert {"resnet50", "resnet50-v1", "resnetrs50"} <= set(catalog.list_models("resnet*"))
    assert all(name.startswith("resnet") for name in catalog.list_models("resnet*"))
    preact = [name for name in catalog.list_models() if "preact" in name]
    assert catalog.list_models("preact") == preact
    assert catalog.list_models("alexandria*") == []
    for name in catalog.list_models():
        assert catalog.spec(name).name == name
