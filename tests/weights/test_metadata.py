"""What is stored with weights, in metadata, folder or archive: read, reported or refused."""

import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from weights_state import random_state

import resnets
from resnets.cli.main import main
from resnets.config import ConfigError
from resnets.weights.errors import WeightsError
from resnets.weights.name_maps.maps import build_name_map
from resnets.weights.readers.configs.class_names import find_classes

NET, NAMES = "cifar-resnet8", ["ant", "bee", "cat"]
BACK = NAMES[::-1]


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return random_state(resnets.create_model(NET, num_classes=3), seed=1)


@pytest.fixture
def file(tmp_path: Path, state) -> Callable[..., Path]:
    def write(metadata: dict[str, str]) -> Path:
        save_file(state, tmp_path / "w.safetensors", metadata={"format": "pt", **metadata})
        return tmp_path / "w.safetensors"

    return write


@pytest.mark.parametrize(
    "metadata",
    [
        {"classes": json.dumps(BACK)},
        {"class_names": ",".join(BACK)},
        {"config": json.dumps({"id2label": dict(enumerate(BACK))})},
    ],
)
def test_metadata_name_the_classes(file, metadata: dict[str, str], caplog) -> None:
    assert resnets.load(file(metadata), model=NET).classes == tuple(BACK)
    resnets.load(file(metadata), model=NET, classes=NAMES)
    assert "another order" in caplog.text


@pytest.mark.parametrize(
    "metadata",
    [
        {"mean": "[0.5, 0.5, 0.5]"},
        {"std": "0.5,0.5,0.5"},
        {"img_size": "128"},
        {"config": json.dumps({"img_size": 128})},
    ],
)
def test_metadata_that_are_not_read_are_named(file, metadata: dict[str, str], caplog) -> None:
    resnets.load(file(metadata), model=NET, classes=NAMES)
    warned = [each for each in caplog.records if each.levelno == logging.WARNING]
    said = " ".join(each.getMessage() for each in warned)
    assert any(field in said for field in ("mean", "std", "img_size"))
    assert "the file has none" not in said


def test_metadata_of_timms_arguments_are_the_preprocessing(file) -> None:
    args = {"model": "ours", "img_size": 64, "mean": [0.5] * 3, "std": [0.25] * 3}
    seen = resnets.load(file({"args": json.dumps(args)}), model=NET, classes=NAMES).preprocess.spec
    assert (seen.size, seen.mean, seen.std) == (64, (0.5,) * 3, (0.25,) * 3)


def test_metadata_of_another_network(tmp_path: Path) -> None:
    net = resnets.create_model("resnet18", num_classes=3)
    tensors = build_name_map("torchvision", net).to_foreign(random_state(net, seed=1))
    save_file(tensors, tmp_path / "w.safetensors", metadata={"arch": "seresnet18"})
    with pytest.raises(ConfigError, match="seresnet18"):
        resnets.load(tmp_path / "w.safetensors", model="resnet18", classes=NAMES)


def test_numbers_in_another_order_than_the_files(file, tmp_path: Path, caplog, capsys) -> None:
    path = file({"classes": json.dumps(["0", "2", "1"])})
    resnets.load(path, model=NET, classes="numbers")
    assert "another order" in caplog.text
    (tmp_path / "data").mkdir()
    asked = ["evaluate", str(path), "--model", NET, "--data", str(tmp_path / "data")]
    assert main([*asked, "--classes", "numbers"]) != 0
    assert "--classes numbers" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["class_to_idx", "label2id", "label2idx"])
def test_numbers_that_are_names_are_read_by_the_key(key: str) -> None:
    assert find_classes({key: {0: 0, 1: 1, 10: 2, 2: 3}}) == ("0", "1", "10", "2")
    assert find_classes({key: {0: "cat", 1: "ant"}}) == ("cat", "ant")


@pytest.mark.parametrize("key", ["idx_to_class", "id2label", "idx2label"])
def test_numbers_of_classes_whose_names_are_numbers(key: str) -> None:
    assert find_classes({key: {0: 0, 1: 1, 2: 10, 3: 2}}) == ("0", "1", "10", "2")
    assert find_classes({key: {"0": 2, "1": 0, "2": 1}}) == ("2", "0", "1")


def test_a_table_in_no_known_direction_is_named(caplog) -> None:
    table = {0: 1, 1: 2, 2: 0}
    assert find_classes({"label_map": table, "names": NAMES}) == tuple(NAMES)
    assert not caplog.records
    assert find_classes({"label_map": table}, "w.pth") == ()
    assert "label_map" in caplog.text


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_next_to_the_model_is_refused(tmp_path: Path, name: str, whole: bool) -> None:
    folder = tmp_path / "net"
    if whole:
        resnets.create_model(NET, num_classes=3).save(folder, classes=NAMES)
        resnets.load(folder)
    else:
        folder.mkdir()
    (folder / name).write_bytes(b"{}")
    for read in (resnets.load, lambda at: resnets.create_model(NET, weights=str(at))):
        with pytest.raises(WeightsError, match="merge_and_unload"):
            read(folder)


@pytest.mark.parametrize(
    "beside",
    [
        {"hyper_parameters": {"task": "multilabel"}},
        {"hyper_parameters": {"loss": "BCEWithLogitsLoss"}},
        {"criterion": {"pos_weight": torch.ones(3)}},
    ],
)
def test_a_sigmoid_for_each_class_is_reported(tmp_path: Path, state, beside, caplog) -> None:
    torch.save({"state_dict": state, **beside}, tmp_path / "w.pth")
    resnets.load(tmp_path / "w.pth", model=NET, classes=NAMES)
    assert "with a sigmoid" in caplog.text


@pytest.mark.parametrize("task", ["multiclass", "single_label_classification"])
def test_a_softmax_is_not_warned_of(tmp_path: Path, state, task: str, caplog) -> None:
    beside: dict[str, Any] = {"task": task, "loss": "CrossEntropyLoss"}
    torch.save({"state_dict": state, "hyper_parameters": beside}, tmp_path / "w.pth")
    resnets.load(tmp_path / "w.pth", model=NET, classes=NAMES)
    assert "with a sigmoid" not in caplog.text


def test_a_problem_type_of_several_labels_is_refused(tmp_path: Path, state) -> None:
    said = {"problem_type": "multi_label_classification"}
    torch.save({"state_dict": state, "config": said}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="problem_type"):
        resnets.load(tmp_path / "w.pth", model=NET, classes=NAMES)


def test_an_unpacked_archive_is_refused_with_the_command_that_zips_it(
    tmp_path: Path, state
) -> None:
    torch.save(state, tmp_path / "w.pth")
    zipfile.ZipFile(tmp_path / "w.pth").extractall(tmp_path / "out")
    top = tmp_path / "out" / "w"
    files = [each for each in top.rglob("*") if each.is_file()]
    for name, root in (("bare.pth", top), ("again.pth", top.parent), ("deep.pth", tmp_path)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for each in files:
                archive.write(each, each.relative_to(root))
    for path in (top, top.parent, top / "data.pkl", tmp_path / "bare.pth", tmp_path / "deep.pth"):
        for read in (resnets.load, lambda at: resnets.create_model(NET, weights=str(at))):
            with pytest.raises(WeightsError, match="zip -0 -r"):
                read(path, model=NET) if read is resnets.load else read(path)
    assert resnets.load(tmp_path / "again.pth", model=NET, classes=NAMES).classes == tuple(NAMES)


@pytest.mark.parametrize(
    "beside",
    [
        {"metrics": {"names": ["loss", "acc"]}},
        {"augment": {"categories": ["color", "geo"]}},
        {"class_to_idx": {"ant": 1, "bee": 2}},
        {"class_to_idx": {"ant": 0, "bee": 0}},
        {"classes": {"0": "1", "1": "2", "2": "0"}},
    ],
)
def test_ambiguous_names_are_reported_and_not_used(beside, caplog) -> None:
    assert find_classes(beside, "w.pth") == ()
    assert next(iter(beside)) in caplog.text
    caplog.clear()
    assert find_classes({**beside, "hyper_parameters": {"labels": ["ant", "bee"]}}) == (
        "ant",
        "bee",
    )
    assert not caplog.records
