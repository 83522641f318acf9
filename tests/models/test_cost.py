"""Parameters and multiply-adds, counted from the running module."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from resnets.models import build, catalog, cost

TABLE_1 = {  # paper, Table 1, in 1e9; rounded there, and 50 layers rounded down
    "resnet18-a": 1.8,
    "plain18": 1.8,
    "resnet34-a": 3.6,
    "plain34": 3.6,
    "resnet50-v1": 3.8,
    "resnet101-v1": 7.6,
    "resnet152-v1": 11.3,
    "vgg19": 19.6,
}


def count(name: str, size: int | None = None) -> cost.Cost:
    with torch.device("meta"):
        model = build(catalog.spec(name))
    return cost.count_cost(model, size)


@pytest.mark.parametrize(("name", "billions"), TABLE_1.items())
def test_multiply_adds_are_the_papers(name: str, billions: float) -> None:
    assert count(name).multiply_adds / 1e9 == pytest.approx(billions, abs=0.06)


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "preact-resnet18", "vgg11-bn"])
def test_multiply_adds_agree_with_torchs_counter(name: str) -> None:
    with torch.device("meta"):
        model = build(catalog.spec(name)).eval()
        image = torch.empty(1, 3, 96, 96)
    with FlopCounterMode(display=False) as counter:
        model(image)
    assert cost.count_cost(model, 96).multiply_adds * 2 == counter.get_total_flops()


def test_layers_of_resnet18() -> None:
    found = count("resnet18")
    assert found.input_size == 224
    assert found.parameters == sum(layer.parameters for layer in found.layers) == 11_689_512
    assert found.multiply_adds == sum(layer.multiply_adds for layer in found.layers)
    layers = {layer.name: layer for layer in found.layers}
    assert layers["stem.conv"] == cost.LayerCost(
        "stem.conv", "conv 7x7, stride 2", (64, 112, 112), 9408, 9408 * 112 * 112
    )
    assert layers["stem.pool"].output == (64, 56, 56)
    assert layers["head"] == cost.LayerCost("head", "linear", (1000,), 513_000, 512_000)
    convs = [layer for layer in found.layers if layer.kind.startswith("conv")]
    assert len(convs) == 17 + 3


def test_size_scales_the_convolutions_only() -> None:
    small, large = count("cifar-resnet20", 32), count("cifar-resnet20", 64)
    assert large.multiply_adds - 640 == 4 * (small.multiply_adds - 640)
    assert large.parameters == small.parameters


def test_counting_leaves_the_model_as_it_was() -> None:
    model = build(catalog.spec("cifar-resnet20"))
    frozen = model.get_submodule("stem.norm").eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cost.count_cost(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not frozen.training
    assert all(m.training for m in model.modules() if m is not frozen)
    assert not any(m._forward_hooks for m in model.modules())
    assert isinstance(model.head, nn.Linear)


def counted(name: str) -> tuple[int, int]:
    with cost.shapes_only():
        found = cost.count_cost(build(catalog.spec(name)))
    return found.parameters, found.multiply_adds


def test_costs_that_ship_are_those_counted():
    stored = cost.load_catalog_costs()
    assert list(stored) == catalog.list_models()
    for name in ("resnet18", "plain34", "vgg11", "cifar-resnet20", "resnetrs50"):
        assert stored[name] == counted(name), name


@pytest.mark.slow
def test_all_costs_that_ship_are_those_counted():
    assert cost.load_catalog_costs() == {name: counted(name) for name in catalog.list_models()}
