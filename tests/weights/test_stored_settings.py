"""Settings stored with tensors: read, refused if contradictory, or reported."""

import argparse
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

NET, NAMES = "cifar-resnet8", ["ant", "bee", "cat"]
BACK = NAMES[::-1]
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(resnets.create_model(NET, num_classes=3), seed=1)


@pytest.fixture
def file(tmp_path: Path, state: State) -> Callable[..., Path]:
    def write(beside: dict[str, Any], tensors: State | None = None) -> Path:
        torch.save({"state_dict": tensors or state, **beside}, tmp_path / "w.pth")
        return tmp_path / "w.pth"

    return write


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    return " ".join(r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)


SAID: dict[str, dict[str, Any]] = {
    "fastai": {"vocab": BACK},
    "scikit-learn": {"classes_": BACK},
    "a map": {"label_map": {"cat": 0, "bee": 1, "ant": 2}},
    "nested": {"config": {"data": {"id2label": {0: "cat", 1: "bee", 2: "ant"}}}},
    "numbers as text": {"id2label": {"0": "cat", "1": "bee", "2": "ant"}},
    "YOLO": {"names": {0: "cat", 1: "bee", 2: "ant"}},
    "COCO": {"categories": [{"id": 3 - i, "name": name} for i, name in enumerate(NAMES)]},
    "bytes": {"class_names": [name.encode() for name in BACK]},
    "commas": {"class_names": ",".join(BACK)},
    "JSON": {"classes": json.dumps(BACK)},
    "floats": {"class_to_idx": {"cat": 0.0, "bee": 1.0, "ant": 2.0}},
    "tensors": {"class_to_idx": {name: torch.tensor(i) for i, name in enumerate(BACK)}},
    "NumPy": {"class_to_idx": {name: np.int64(i) for i, name in enumerate(BACK)}},
}


@pytest.mark.parametrize("form", SAID)
def test_names_of_classes_in_every_form(file, form: str, caplog) -> None:
    path = file(SAID[form])
    assert resnets.load(path, model=NET).classes == tuple(BACK)
    assert resnets.load(path, model=NET, classes=NAMES).classes == tuple(NAMES)
    assert "order" in warnings(caplog)


@pytest.mark.parametrize(
    "there", [["Cat", "Bee", "Ant"], ["dog", "fox", "owl"], [*BACK[:2], "owl"]]
)
def test_other_names_than_the_files_are_warned_about(file, there: list[str], caplog) -> None:
    assert resnets.load(file({"classes": there}), model=NET, classes=NAMES).classes == tuple(NAMES)
    assert there[0] in warnings(caplog)


@pytest.mark.parametrize("there", [NAMES, ["Ant", "BEE", "cat"]])
def test_the_same_names_are_not_warned_of(file, there: list[str], caplog) -> None:
    resnets.load(file({"classes": there}), model=NET, classes=NAMES)
    assert "given classes" not in warnings(caplog)


def timm_arguments(**given: Any) -> dict[str, Any]:
    said = {"model": "ours", "img_size": None, "mean": None, "std": None, "crop_pct": None}
    return {"args": argparse.Namespace(**{**said, "gp": None, "model_kwargs": {}, **given})}


def test_arguments_of_timms_script_are_the_preprocessing(file, caplog) -> None:
    given = timm_arguments(
        img_size=64, mean=[0.5] * 3, std=[0.25] * 3, crop_pct=0.5, interpolation="bicubic"
    )
    for net in (
        resnets.load(file(given), model=NET, classes=NAMES),
        resnets.create_model(NET, num_classes=3, weights=str(file(given))),
    ):
        seen = net.preprocess.spec
        assert (seen.size, seen.resize, seen.interpolation) == (64, 128, "bicubic")
        assert (seen.mean, seen.std) == ((0.5,) * 3, (0.25,) * 3)
    caplog.clear()
    size = resnets.load(file(timm_arguments(img_size=64)), model=NET, classes=NAMES)
    assert (size.preprocess.spec.size, size.preprocess.spec.resize) == (64, 73)
    assert "no crop_pct and no interpolation" in caplog.text
    assert "crop_pct as the file states" not in caplog.text


def test_arguments_of_torchvisions_script(file) -> None:
    said = {"val_crop_size": 48, "val_resize_size": 56, "interpolation": "bicubic"}
    net = resnets.load(file({"args": argparse.Namespace(**said)}), model=NET, classes=NAMES)
    seen = net.preprocess.spec
    assert (seen.size, seen.resize, seen.interpolation) == (48, 56, "bicubic")


@pytest.mark.parametrize(
    "given", [{"gp": "max"}, {"model_kwargs": {"act_layer": "silu"}}, {"std": [0.0] * 3}]
)
def test_arguments_that_cannot_be_honored_are_refused(file, given: dict[str, Any]) -> None:
    with pytest.raises(WeightsError, match=next(iter(given))):
        resnets.load(file(timm_arguments(**given)), model=NET, classes=NAMES)


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"hyper_parameters": {"img_size": 64}}, "img_size"),
        ({"hyper_parameters": {"act": "silu"}}, "act"),
        ({"config": {"net": {"norm": "group"}}}, "norm"),
        ({"meta": {"cfg": "pre = dict(mean=[127.5, 127.5, 127.5], to_rgb=False)"}}, "127.5"),
        ({"multilabel": True}, "multilabel"),
    ],
)
def test_what_is_stated_and_not_read_is_named(file, beside, named: str, caplog) -> None:
    resnets.load(file(beside), model=NET, classes=NAMES)
    assert named in warnings(caplog)


def test_a_file_of_another_network_with_the_same_tensors(tmp_path: Path, caplog) -> None:
    net = resnets.create_model("resnet18", num_classes=3)
    state = build_name_map("torchvision", net).to_foreign(random_state(net, seed=1))
    path = tmp_path / "w.pth"
    for arch in ("resnetblur18", "seresnet18", "resnet50", "resnet18-a"):
        torch.save({"arch": arch, "state_dict": state, "best": torch.ones(1)}, path)
        with pytest.raises(ConfigError, match=arch):
            resnets.load(path, model="resnet18", classes=NAMES)
        with pytest.raises(ConfigError, match=arch):
            resnets.create_model("resnet18", weights=str(path))
    loaded = resnets.load(f"{path}#state_dict", model="resnet18", classes=NAMES)
    assert torch.equal(loaded.head.weight, state["fc.weight"])
    caplog.clear()
    for arch in ("resnet18", "ResNet-18", "timm/resnet18.a1_in1k", "MyClassifier"):
        torch.save({"args": {"arch": arch}, "state_dict": state}, path)
        resnets.load(path, model="resnet18", classes=NAMES)
    assert "not compared" not in warnings(caplog)


def test_a_single_output_is_refused(file) -> None:
    one = random_state(resnets.create_model(NET, num_classes=1), seed=1)
    for classes in ("dog", "numbers"):
        with pytest.raises(WeightsError, match="one output"):
            resnets.load(file({}, one), model=NET, classes=classes)


@pytest.mark.parametrize(
    "content",
    [
        lambda s: {"grads": s},
        lambda s: {"optimizer": {"exp_avg": s}},
        lambda s: {"delta": s},
        lambda s: {"state": {"exp_avg_sq": s}},
    ],
)
def test_tensors_that_are_not_weights_are_refused(tmp_path: Path, state: State, content) -> None:
    path = tmp_path / "w.pth"
    torch.save(content(state), path)
    with pytest.raises(WeightsError, match=r"w\.pth"):
        resnets.load(path, model=NET, classes=NAMES)


def test_averages_without_names_are_named(file, state: State, caplog) -> None:
    caplog.set_level(logging.INFO, "resnets")
    resnets.load(file({"ema": {"shadow_params": list(state.values())}}), model=NET, classes=NAMES)
    assert "ema.shadow_params" in caplog.text


def test_a_body_that_does_not_fit_is_reported_before_a_missing_head(file, state: State) -> None:
    """A new head would not help."""
    changed = {
        name.replace("conv1.weight", "conv1.net.weight"): each
        for name, each in state.items()
        if not name.startswith("head.")
    }
    with pytest.raises(WeightsError) as caught:
        resnets.load(file({}, changed), model=NET, classes=NAMES)
    assert "finetune" not in str(caught.value)


@pytest.mark.parametrize("place", ["new_fc.weight", "heads.0.clf.0.weight", "fc.weight"])
def test_a_head_in_a_form_that_is_not_known_is_named(file, state: State, place: str) -> None:
    shape = (3, 64, 1, 1) if place.startswith("fc") else (3, 64)
    body = {name: each for name, each in state.items() if not name.startswith("head.")}
    with pytest.raises(WeightsError) as caught:
        resnets.load(file({}, body | {place: torch.ones(shape)}), model=NET, classes=NAMES)
    assert place.removesuffix(".weight") in str(caught.value)


def test_files_of_classes_in_other_forms(file, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps(NAMES))
    with pytest.raises(ConfigError, match="one name a line"):
        resnets.load(file({}), model=NET, classes=str(tmp_path / "classes.json"))
