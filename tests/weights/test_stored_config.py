"""Configs and descriptions that a checkpoint carries: read whole, refused by field, or named."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from weights_state import random_state

import resnets
from resnets.config import ConfigError
from resnets.weights.errors import WeightsError
from resnets.weights.name_maps.maps import build_name_map
from resnets.weights.read import read_path
from resnets.weights.readers.configs.openmmlab import parse_config

NET, NAMES = "cifar-resnet8", ["ant", "bee", "cat"]
State = dict[str, Tensor]
CONFIG = """
norm = [58.395, 57.12, 57.375]
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], num_classes=3, std=norm, to_rgb=True)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, num_stages=4, out_indices=(3, ), style='pytorch'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=2048,
              loss=dict(type='CrossEntropyLoss', loss_weight=1.0), topk=(1, )))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=128, edge='short', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=112),
    dict(type='PackInputs'),
]
"""


@pytest.fixture(scope="module")
def eighteen() -> State:
    net = resnets.create_model("resnet18", num_classes=3)
    return build_name_map("mmpretrain", net).to_foreign(random_state(net, seed=1))


@pytest.fixture
def classifier(tmp_path: Path, eighteen: State) -> Callable[..., Path]:
    def write(config: object, key: str = "cfg") -> Path:
        meta = {key: config, "dataset_meta": {"classes": NAMES}}
        torch.save({"meta": meta, "state_dict": eighteen}, tmp_path / "epoch_1.pth")
        return tmp_path / "epoch_1.pth"

    return write


@pytest.mark.parametrize("form", ["source", "mmcv's key", "table", "JSON"])
def test_an_openmmlab_config_describes_network_and_images(classifier, form: str) -> None:
    table = parse_config(CONFIG)
    config = {"table": table, "JSON": json.dumps(table)}.get(form, CONFIG)
    net = resnets.load(classifier(config, "config" if form == "mmcv's key" else "cfg"))
    assert (net.spec.name, net.classes) == ("resnet18", tuple(NAMES))
    seen = net.preprocess.spec
    assert (seen.size, seen.resize, seen.interpolation) == (112, 128, "bicubic")
    assert (*seen.mean, *seen.std) == pytest.approx((0.485, 0.456, 0.406, 0.229, 0.224, 0.225))


def test_style_caffe_strides_in_the_first_convolution(classifier) -> None:
    path = classifier(CONFIG.replace("pytorch", "caffe").replace("depth=18", "depth=50"))
    read = read_path(str(path))
    assert read.spec is not None
    assert (read.spec.name, read.fields["stride_in"]) == ("resnet50-v1", "1x1")
    with pytest.raises(ConfigError, match="stride_in"):
        resnets.load(path, model="resnet50")


def test_openmmlab_images_in_bgr(classifier) -> None:
    config = CONFIG.replace("to_rgb=True", "to_rgb=False").replace("std=norm", "std=[1.0]*3")
    with pytest.raises(WeightsError, match="std"):
        resnets.load(classifier(config))
    seen = resnets.load(classifier(config.replace("[1.0]*3", "[1., 1., 1.]"))).preprocess.spec
    assert (seen.channel_order, seen.std) == ("bgr", (1 / 255,) * 3)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("'GlobalAveragePooling'", "'GeneralizedMeanPooling'", "neck"),
        ("'LinearClsHead'", "'MultiLabelLinearClsHead'", "head"),
        ("style=", "strides=(1, 2, 1, 1), style=", "strides"),
        ("style=", "dilations=(1, 1, 2, 4), style=", "dilations"),
        ("style=", "deep_stem=True, style=", "deep_stem"),
        ("style=", "norm_cfg=dict(type='GN'), style=", "norm_cfg"),
        ("style=", "plugins=[dict(cfg=1)], style=", "plugins"),
        ("'ResNet'", "'SEResNet'", "SEResNet"),
    ],
)
def test_what_an_openmmlab_network_has_and_ours_lack(
    classifier, old: str, new: str, named: str, caplog
) -> None:
    path = classifier(CONFIG.replace(old, new))
    for read in (resnets.load, lambda at: resnets.create_model("resnet18", weights=str(at))):
        with pytest.raises(WeightsError, match=named):
            read(path)
    assert read_path(f"{path}#state_dict").spec is None
    assert named in caplog.text


def test_an_openmmlab_config_of_another_depth(classifier) -> None:
    with pytest.raises(ConfigError, match="resnet101"):
        resnets.load(classifier(CONFIG.replace("depth=18", "depth=101")), model="resnet50")


@pytest.mark.parametrize("step", ["type='Resize', scale=(128, 128)", "type='Posterize', bits=4"])
def test_openmmlab_steps_that_are_not_read_are_named(classifier, step: str, caplog) -> None:
    path = classifier(CONFIG.replace("type='PackInputs'", step))
    assert resnets.load(path).preprocess.spec.size == 224
    assert "test_pipeline" in caplog.text


def test_python_in_a_config_is_not_run(tmp_path: Path) -> None:
    trap = f"a = open('{tmp_path}/made', 'w')\nmodel = dict(backbone=dict(type=str(a)))"
    assert parse_config(trap) is not None
    assert not (tmp_path / "made").exists()
    assert parse_config("model = dict(" + "(" * 5000) is None
    assert parse_config("no source dict(") is None


ALBUMENTATIONS = {
    "__version__": "1.4.0",
    "transform": {
        "__class_fullname__": "Compose",
        "transforms": [
            {"__class_fullname__": "Resize", "height": 160, "width": 160, "p": 1},
            {"__class_fullname__": "Normalize", "mean": (0.5,) * 3, "std": (0.5,) * 3},
        ],
    },
}


@pytest.fixture(scope="module")
def small() -> State:
    return random_state(resnets.create_model(NET, num_classes=3), seed=1)


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"val_transform": ALBUMENTATIONS}, "mean (0.5, 0.5, 0.5)"),
        ({"val_transform": json.dumps(ALBUMENTATIONS)}, "mean [0.5, 0.5, 0.5]"),
        ({"transforms": "Compose(\n    Resize(size=160)\n    ToTensor()\n)"}, "Resize(size=160"),
        ({"t": "Normalize(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])"}, "mean=[0.5, 0.5, 0.5]"),
        ({"config": {"norm_mean": [0.5] * 3, "norm_std": [0.5] * 3}}, "norm_mean"),
        ({"CFG": {"imageSize": 160}}, "imageSize"),
        ({"a": {"b": {"c": {"d": {"e": {"img_size": 160}}}}}}, "a.b.c.d.e.img_size"),
        ({"a": [[{"val_size": [160, 160]}]]}, "a.0.0.val_size"),
        ({"command": "train.py --img-size 160 --lr 0.1"}, "img-size=160"),
        ({"yaml": "lr: 0.1\nimage_size: 160\nepochs: 3"}, "image_size=160"),
        ({"stats": {"mean": np.array([0.5, 0.5, 0.5])}}, "stats.mean [0.5, 0.5, 0.5]"),
        ({"cfg": {"INPUT": {"SIZE_TEST": [128, 128]}}}, "cfg.INPUT.SIZE_TEST"),
        ({"cfg": {"MODEL": {"NECK": "bnneck"}}}, "cfg.MODEL.NECK"),
        ({"cfg": "INPUT:\n  PIXEL_MEAN: [0.5, 0.5]\n  PIXEL_STD: [0.2, 0.2]"}, "PIXEL_MEAN=[0.5"),
        ({"cfg": "INPUT:\n  PIXEL_MEAN: [0.5, 0.5]\n  PIXEL_STD: [0.2, 0.2]"}, "PIXEL_STD=[0.2"),
    ],
)
def test_a_description_in_any_form_is_named(
    tmp_path: Path, small: State, beside: dict[str, Any], named: str, caplog
) -> None:
    torch.save({"state_dict": small, **beside}, tmp_path / "w.pth")
    try:
        resnets.load(tmp_path / "w.pth", model=NET, classes=NAMES)
    except WeightsError:  # constants of three channels may be a layer before the network
        assert "stats" in beside
    warned = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert named in " ".join(warned)
    assert "the file has none" not in " ".join(warned)


@pytest.mark.parametrize(
    "beside",
    [
        {"args": {"lr": 0.1, "batch_size": 64, "step_size": 30, "test_size": 0.2, "seed": 1}},
        {"history": [{"loss": 0.3, "acc": 0.9}], "note": "the mean accuracy was fine"},
        {"optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]}},
        {"classes": NAMES, "epoch": 3, "best_metric": 0.9},
    ],
)
def test_what_describes_nothing_is_not_named(tmp_path: Path, small: State, beside, caplog) -> None:
    torch.save({"state_dict": small, **beside}, tmp_path / "w.pth")
    resnets.load(tmp_path / "w.pth", model=NET, classes=NAMES)
    assert "not read" not in caplog.text
    assert "the file has none" in caplog.text


def test_the_usual_interpolation_is_not_denied(tmp_path: Path, small: State, caplog) -> None:
    torch.save({"state_dict": small, "args": {"interpolation": "bilinear"}}, tmp_path / "w.pth")
    resnets.load(tmp_path / "w.pth", model=NET, classes=NAMES)
    assert "the file has none" not in caplog.text


def test_values_of_a_layer_before_the_network_are_named(
    tmp_path: Path, small: State, caplog
) -> None:
    before = {f"normalizer.new_{name}": torch.full((3, 1, 1), 0.25) for name in ("mean", "std")}
    inner = {f"model.{name}": tensor for name, tensor in small.items()}
    torch.save({"model": before | inner}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="normalizer"):
        resnets.load(tmp_path / "w.pth", model=NET, classes=NAMES)
    caplog.clear()
    resnets.load(f"{tmp_path / 'w.pth'}#model.model", model=NET, classes=NAMES)
    assert "new_mean [0.25, 0.25, 0.25]" in caplog.text
    assert "the file has none" not in caplog.text


def test_constants_of_a_detector_are_named(tmp_path: Path, small: State, caplog) -> None:
    constants = {f"pixel_{name}": torch.full((3, 1, 1), 0.25) for name in ("mean", "std")}
    torch.save({"model": {**constants, **small}}, tmp_path / "w.pth")
    resnets.load(tmp_path / "w.pth", model=NET, classes=NAMES)
    assert "pixel_mean [0.25, 0.25, 0.25]" in caplog.text
    assert "the file has none" not in caplog.text


@pytest.mark.parametrize(
    "beside",
    [
        {"cfg": {"MODEL": {"NAME": "cifar-resnet20"}}},
        {"cfg": {"model": {"name": "cifar-resnet20", "width": 16}}},
        {"cfg": "MODEL:\n  NAME: cifar-resnet20\nSEED: 1"},
        {"BACKBONE": "cifar_resnet20"},
    ],
)
def test_another_network_is_refused_wherever_the_file_names_it(
    tmp_path: Path, small: State, beside: dict[str, Any]
) -> None:
    torch.save({"state_dict": small, **beside}, tmp_path / "w.pth")
    with pytest.raises(ConfigError):
        resnets.load(tmp_path / "w.pth", model=NET, classes=NAMES)


def test_the_network_that_a_file_names_is_reported_where_none_is_given(
    tmp_path: Path, small: State
) -> None:
    torch.save({"state_dict": small, "arch": "cifar_resnet8"}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=f"add model={NET}"):
        resnets.load(tmp_path / "w.pth", classes=NAMES)


@pytest.mark.parametrize(
    "beside",
    [
        {"pathologies": NAMES[::-1]},
        {"run": {"targets": NAMES[::-1]}},
        {"info": [{"id": place, "name": name} for place, name in enumerate(NAMES[::-1])]},
        {"idx_to_labels": {str(i): [f"n{i}", name] for i, name in enumerate(NAMES[::-1])}},
    ],
)
def test_the_same_classes_in_another_order_under_any_key(
    tmp_path: Path, small: State, beside: dict[str, Any], caplog
) -> None:
    torch.save({"state_dict": small, **beside}, tmp_path / "w.pth")
    resnets.load(tmp_path / "w.pth", model=NET, classes=NAMES)
    assert "in another order" in caplog.text
    caplog.clear()
    resnets.load(tmp_path / "w.pth", model=NET, classes=NAMES[::-1])
    assert "in another order" not in caplog.text


def test_empty_tensors_of_a_shard_are_refused(tmp_path: Path, small: State) -> None:
    empty = {
        name: each if name.endswith(("mean", "var")) else torch.empty(0)
        for name, each in small.items()
    }
    torch.save({"module": empty}, tmp_path / "w.pt")
    with pytest.raises(WeightsError):
        resnets.load(tmp_path / "w.pt", model=NET, classes=NAMES)
    with pytest.raises(WeightsError):
        resnets.create_model(NET, weights=str(tmp_path / "w.pt"))


def test_timms_bce_loss_is_a_sigmoid(tmp_path: Path, small: State, caplog) -> None:
    torch.save({"state_dict": small, "args": {"bce_loss": True}}, tmp_path / "w.pth")
    resnets.load(tmp_path / "w.pth", model=NET, classes=NAMES)
    assert "bce_loss" in caplog.text


def test_paddles_names_are_recognized(tmp_path: Path) -> None:
    net = resnets.create_model("resnet18", num_classes=3)
    theirs = build_name_map("torchvision", net).to_foreign(random_state(net, seed=1))
    state = {
        name.replace("running_mean", "_mean").replace("running_var", "_variance"): tensor
        for name, tensor in theirs.items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save(state, tmp_path / "w.pdparams")
    with pytest.raises(WeightsError, match="Paddle"):
        resnets.load(tmp_path / "w.pdparams", model="resnet18", classes=NAMES)


def test_a_folder_of_the_hubs_cache_names_its_snapshots(tmp_path: Path) -> None:
    cache = tmp_path / "models--me--pets"
    (cache / "snapshots" / "abc").mkdir(parents=True)
    for path in (cache, cache / "snapshots"):
        for read in (resnets.load, lambda at: resnets.create_model(NET, weights=str(at))):
            with pytest.raises(WeightsError, match="snapshots/abc"):
                read(path)
