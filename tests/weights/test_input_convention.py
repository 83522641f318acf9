"""Networks of Caffe's kind under names that do not tell: said, from constants, or warned about."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from detect_models import FPN, NET, small_model, to_detectron2
from torch import nn
from weights_state import SMALL, random_state

import resnets
from resnets.config import Recipe
from resnets.detect.models.build import build_model
from resnets.models import build, catalog
from resnets.weights.name_maps.maps import build_name_map
from resnets.weights.readers.configs.input_convention import warn_about_file_name

BGR, RGB = (103.53, 116.28, 123.675), (123.675, 116.28, 103.53)
MSRA_STD, IMAGENET_STD = (1.0, 1.0, 1.0), (58.395, 57.12, 57.375)
BOTTLENECK = dataclasses.replace(NET, block="bottleneck", stride_in="3x3")


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


def backbone(prefix="backbone.bottom_up."):
    net = build(SMALL)
    net.load_state_dict(random_state(net, seed=1))
    theirs = build_name_map("detectron2", net).to_foreign(net.state_dict())
    return {f"{prefix}{name}": v.numpy() for name, v in theirs.items() if "linear" not in name}


def save(content, path):
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": content, "__author__": "me"}, 2))
    else:
        torch.save({"model": {k: torch.as_tensor(v) for k, v in content.items()}}, path)
    return str(path)


def constants(mean, std, prefix=""):
    shape = (3, 1, 1)
    return {
        f"{prefix}pixel_mean": np.array(mean, np.float32).reshape(shape),
        f"{prefix}pixel_std": np.array(std, np.float32).reshape(shape),
    }


@pytest.mark.parametrize("name", ["model_final.pkl", "model_final.pth"])
def test_a_detectors_backbone_that_does_not_say_is_warned_about(name, tmp_path, caplog):
    path = save(backbone(), tmp_path / name)
    ours = resnets.create_model(SMALL, num_classes=3, weights=path)
    assert ours.spec.stride_in == SMALL.stride_in
    assert ours.preprocess is None
    (said,) = (line for line in warnings(caplog) if "BGR" in line)
    assert all(word in said for word in ("model.stride_in", "1x1", "0..255", "pixel_mean"))


@pytest.mark.parametrize(
    ("mean", "std", "order", "stride"),
    [
        (BGR, MSRA_STD, "bgr", "1x1"),
        (RGB, IMAGENET_STD, "rgb", "3x3"),
        (BGR, IMAGENET_STD[::-1], "bgr", "3x3"),
    ],
)
def test_constants_in_a_file_say_order_scale_and_stride(mean, std, order, stride, tmp_path, caplog):
    path = save(backbone() | constants(mean, std), tmp_path / "model_final.pth")
    for asked in ("1x1", "3x3"):
        spec = dataclasses.replace(SMALL, stride_in=asked)
        ours = resnets.create_model(spec, num_classes=3, weights=path)
        assert (ours.preprocess.spec.channel_order, ours.spec.stride_in) == (order, stride)
    assert ours.preprocess.spec.mean == pytest.approx([each / 255 for each in mean])
    assert ours.preprocess.spec.std == pytest.approx([each / 255 for each in std])
    assert not [line for line in warnings(caplog) if "BGR" in line]


@pytest.mark.parametrize("mean", [(1.0, 1.0, 1.0), (0.406, 0.456, 0.485), (110.0, 120.0, 90.0)])
def test_constants_that_do_not_tell_the_order_are_not_read(mean, tmp_path, caplog):
    path = save(backbone() | constants(mean, MSRA_STD), tmp_path / "gray.pth")
    assert resnets.create_model(SMALL, num_classes=3, weights=path).preprocess is None
    said = warnings(caplog)
    assert [line for line in said if "pixel_mean" in line and "not read" in line]
    assert [line for line in said if "BGR" in line]


@pytest.mark.parametrize("stated", [True, False])
def test_whole_detectors(stated, tmp_path, caplog):
    detector = to_detectron2(small_model(FPN, "detect", BOTTLENECK), "fpn")
    content = detector | (constants(RGB, IMAGENET_STD) if stated else {})
    recipe = Recipe(
        task="detect", model=BOTTLENECK, detect=FPN, weights=save(content, tmp_path / "whole.pkl")
    )
    model, preprocessor = build_model(recipe, 3)
    seen = preprocessor.spec
    if stated:
        assert (seen.channel_order, model.net.spec.stride_in) == ("rgb", "3x3")
        assert not warnings(caplog)
        return
    assert (seen.channel_order, model.net.spec.stride_in) == ("bgr", "1x1")
    (said,) = warnings(caplog)
    assert "0..255" in said
    # A gray of detectron2's mean pixel (BGR) is 0 for the network.
    mean = torch.tensor(RGB).round().to(torch.uint8)[None, :, None, None]
    assert preprocessor.normalize(mean).abs().max() < 1


@pytest.mark.parametrize(
    ("name", "scale", "warned"),
    [
        ("resnet18.pth", 1.0, False),
        ("resnet18.pth", 58.0, True),  # 0..255 less a mean
        ("resnet50_caffe-788b5fa3.pth", 1.0, True),
        ("resnet50_msra.pth", 1.0, True),
        ("bgrade.pth", 1.0, False),
    ],
)
def test_networks_from_caffe_in_torchvisions_names(name, scale, warned, tmp_path, caplog):
    torch.manual_seed(0)
    net = build(SMALL).train()
    coarse = torch.randn(4, 3, 8, 8)
    smooth = nn.functional.interpolate(coarse, size=64, mode="bicubic")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # plain averages
    net((smooth - smooth.mean()) / smooth.std() * scale)
    theirs = build_name_map("torchvision", net).to_foreign(net.state_dict())
    torch.save(theirs, tmp_path / name)
    resnets.create_model(SMALL, weights=str(tmp_path / name))
    assert bool([line for line in warnings(caplog) if "Caffe" in line]) == warned


@pytest.mark.parametrize(
    ("file", "model", "warned"),
    [
        ("resnetblur50-84f4748f.pth", "resnet50", True),
        ("resnet50d_best.pth", "resnet50", True),
        ("seresnet18.pth", "resnet18", True),
        ("resnet50_cells.pth", "resnet50", False),
        ("ResNet-50.pth", "resnet50-v1", False),
        ("wide_resnet50_2.pth", "wide_resnet50_2", False),
        ("PreActResNet18.pth", "preact-resnet18", False),
        ("resnet50_to_resnet18.pth", "resnet18", False),
        ("best.pth", "resnet18", False),
    ],
)
def test_a_file_called_like_another_network_is_warned_about(file, model, warned, caplog):
    warn_about_file_name(file, catalog.spec(model))
    assert bool(caplog.records) == warned
