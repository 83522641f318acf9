"""Operations and bytes of layers, by hand, and the limit that follows from them."""

import importlib

import pytest
from paths import ROOT
from torch import nn

from resnets import create_model


@pytest.fixture
def roofline(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("roofline")


def test_layers_of_a_network(roofline):
    model = create_model("cifar-resnet8", num_classes=10)
    loads = {load.name: load for load in roofline.layer_loads(model, 2, 32)}
    # 2 images of 16 channels of 32 x 32 px: 32,768 values. 3x3 weights, 16 to 16: 2,304.
    conv = loads["stage1.0.conv1"]
    assert conv.operations == 3 * 2 * 9 * 16 * 32_768
    assert conv.forward_bytes == 2 * (32_768 + 2_304 + 32_768)
    assert conv.bytes == 2 * 135_680 + 131_072 + 9_216
    # The gradient of the images is not needed: 2 x 3 x 32 x 32 = 6,144 values, 432 weights.
    first = loads["stem.conv"]
    assert first.operations == 2 * 2 * 27 * 32_768
    assert first.bytes == 78_688 + 2 * 38_912 + 4 * 432
    # Forward: input and output. Backward: two gradients, the input, and the output for ReLU.
    assert loads["stage1.0.norm1"].bytes == 2 * (2 + 4) * 32_768
    # With the shortcut, and its gradient.
    assert loads["stage1.0.norm2"].bytes == 2 * (3 + 5) * 32_768
    # 26 bytes per parameter: the optimizer's 20, and 6 for rounding to bfloat16.
    parameters = sum(each.numel() for each in model.parameters())
    assert loads["optimizer"].bytes == 26 * parameters
    assert len(loads) == 7 + 7 + 2 + 1 + 1 + 1  # convs, norms, option A, pool, head, optimizer


def test_a_projection_has_no_relu(roofline):
    model = nn.Sequential(create_model("resnet50").stage1[0].shortcut)
    model[0].conv = nn.Conv2d(3, 256, 1, bias=False)
    loads = {load.name: load for load in roofline.layer_loads(model, 1, 4)}
    assert loads["0.norm"].bytes == 2 * (2 + 3) * 256 * 16


def test_the_limit_is_the_longer_of_arithmetic_and_bytes(roofline):
    peaks = roofline.Peaks(operations=100.0, cache=10.0, memory=1.0, cache_bytes=1000)
    loads = [
        roofline.LayerLoad("arithmetic", 500, 10, 30),  # 5 s against 3 s
        roofline.LayerLoad("cache", 100, 1000, 3000),  # 1 s against 300 s
        roofline.LayerLoad("memory", 0, 1001, 2000),  # 2,000 s
    ]
    assert roofline.least_seconds(loads, peaks) == 5 + 300 + 2000
