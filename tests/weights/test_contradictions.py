"""Contradictions in what a weights file states about classes and images; other kinds of files."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import resnets
from resnets.config import ConfigError, ModelSpec
from resnets.models import build
from resnets.weights.create import recognize_weights
from resnets.weights.errors import WeightsError
from resnets.weights.read import read_path
from resnets.weights.readers.configs.class_names import find_classes
from resnets.weights.readers.configs.timm import read_timm
from resnets.weights.readers.configs.transformers import read_processor, read_transformers

TINY = ModelSpec(name="tiny", depths=(1, 1), widths=(4, 8), stem_width=4, num_classes=3)
NUMBERS = {"ant": 0, "bee": 1, "cat": 2}
NAMES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return build(TINY).state_dict()


def test_names_of_classes_that_contradict_each_other_are_refused(tmp_path: Path, state) -> None:
    assert find_classes({"classes": NAMES, "args": {"class_to_idx": NUMBERS}}) == tuple(NAMES)
    for beside in ({"class_to_idx": NUMBERS}, {"hyper_parameters": {"class_names": NAMES}}):
        torch.save({"model": state, "classes": NAMES[::-1], **beside}, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match="w.pth.*classes"):
            read_path(str(tmp_path / "w.pth"))


def test_names_that_cannot_be_those_of_the_head(tmp_path: Path, state, caplog) -> None:
    torch.save({"model": state, "classes": ["none", *NAMES]}, tmp_path / "w.pth")
    assert recognize_weights(read_path(str(tmp_path / "w.pth")), TINY).classes == ()
    assert "names of 4 classes" in caplog.text
    torch.save({"model": state, "classes": ["ant", "bee", "ant"]}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="ant"):
        recognize_weights(read_path(str(tmp_path / "w.pth")), TINY)


def test_given_names_in_another_order_are_warned_about(tmp_path: Path, caplog) -> None:
    net = resnets.create_model("cifar-resnet8", num_classes=3)
    torch.save({"model": net.state_dict(), "classes": NAMES}, tmp_path / "w.pth")
    found = resnets.load(tmp_path / "w.pth", model="cifar-resnet8", classes="cat,bee,ant")
    assert found.classes == ("cat", "bee", "ant")
    assert "another order" in caplog.text


def test_preprocessing_that_a_format_implies_is_reported_to_be_assumed(
    tmp_path: Path, caplog
) -> None:
    from resnets.weights.name_maps.maps import build_name_map

    net = resnets.create_model("cifar-resnet8", num_classes=3)
    spec = net.spec if net.spec.shortcut == "A" else None
    assert spec is not None
    torch.save(build_name_map("cifar", net).to_foreign(net.state_dict()), tmp_path / "w.pth")
    resnets.load(tmp_path / "w.pth", model="cifar-resnet8", classes=NAMES)
    assert "preprocessing assumed" in caplog.text


NET: dict[str, Any] = {"model_type": "resnet", "num_labels": 3}


def test_transformers_tables_of_names() -> None:
    table = {str(place): name for place, name in enumerate(NAMES)}
    for said in ({"label2id": NUMBERS}, {"label2id": NUMBERS, "id2label": table}):
        assert read_transformers({**NET, **said}, None, "c").classes == tuple(NAMES)
    for wrong in ({"ant": 2, "bee": 1, "cat": 0}, {"ant": 0, "bee": 0, "cat": 0}):
        with pytest.raises(ConfigError, match="label2id"):
            read_transformers({**NET, "label2id": wrong, "id2label": table}, None, "c")


PROCESSOR: dict[str, Any] = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 256},
    "crop_size": 224,
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"size": 256, "default_to_square": True}, "default_to_square"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std"),
        ({"crop_size": None}, "crop_size"),
    ],
)
def test_processors_that_are_refused_by_field(change: dict[str, Any], named: str) -> None:
    assert read_processor({**PROCESSOR, "crop_pct": None}, "p").resize == 256
    with pytest.raises(ConfigError, match=named):
        read_processor({**PROCESSOR, **change}, "p")


def test_timm_fields_that_contradict_each_other() -> None:
    seen = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": None}
    assert read_timm({"pretrained_cfg": seen}, "c").preprocess is not None
    with pytest.raises(ConfigError, match="std"):
        read_timm({"pretrained_cfg": {**seen, "std": [0.0] * 3}}, "c")
    with pytest.raises(ConfigError, match="label_names"):
        read_timm(
            {"label_names": NAMES, "pretrained_cfg": {**seen, "label_names": NAMES[::-1]}}, "c"
        )


def test_a_config_of_other_channels_than_the_tensors(tmp_path: Path) -> None:
    net = resnets.create_model("resnet18", num_classes=3)
    net.save(tmp_path / "net", classes=NAMES)
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    config["resnets"]["model"]["in_channels"] = 1
    (tmp_path / "net" / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="channels"):
        resnets.load(tmp_path / "net")


def test_torchs_files_are_read_under_any_name(tmp_path: Path, state, caplog) -> None:
    caplog.set_level(logging.INFO, "resnets")
    torch.save(state, tmp_path / "w.safetensors")
    save_file(state, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        assert read_path(str(tmp_path / name)).contents.keys() == state.keys()


def test_files_of_other_kinds_are_named(tmp_path: Path, state) -> None:
    torch.save(state, tmp_path / "ok.pth")
    whole = (tmp_path / "ok.pth").read_bytes()
    np.save(tmp_path / "a.npy", np.ones(3))
    cases = {
        "gzip": b"\x1f\x8b\x08" + bytes(99),
        "web page": b"\n<!DOCTYPE html><html></html>",
        "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n",
        "index": b'{"metadata": {}, "weight_map": {"a": "b"}}',
        "ONNX": b"\x08\x08\x12\x07pytorch" + bytes(99),
        "NumPy": (tmp_path / "a.npy").read_bytes(),
        "GGUF": b"GGUF" + bytes(99),
        "TensorRT": b"ptrt" + bytes(99),
        "OpenVINO": b'<?xml version="1.0"?><net/>',
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
    }
    for kind, data in cases.items():
        for suffix in (".pth", ".safetensors"):
            path = tmp_path / f"w{suffix}"
            path.write_bytes(data)
            with pytest.raises(WeightsError) as caught:
                read_path(str(path))
            assert kind in str(caught.value)


def test_a_length_that_looks_like_an_archive_is_a_length(tmp_path: Path, state) -> None:
    """The first eight bytes of safetensors, here those of gzip: 0x8B1F, filled with spaces."""
    save_file(state, tmp_path / "w.safetensors")
    data = (tmp_path / "w.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length < 0x8B1F
    header = data[8 : 8 + length].ljust(0x8B1F)
    (tmp_path / "w.safetensors").write_bytes(
        (0x8B1F).to_bytes(8, "little") + header + data[8 + length :]
    )
    assert read_path(str(tmp_path / "w.safetensors")).contents.keys() == state.keys()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.ckpt-1.index", "TensorFlow"),
        ("model.ckpt-1.data-00000-of-00001", "TensorFlow"),
        ("saved_model.pb", "TensorFlow"),
        ("net.tflite", "TensorFlow Lite"),
        ("resnet-0000.params", "MXNet"),
        ("flax_model.msgpack", "Flax"),
    ],
)
def test_files_without_a_signature_are_named(tmp_path: Path, state, name: str, kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x08\x01\x12\x04abcd" + bytes(range(99)))
    with pytest.raises(WeightsError, match=kind):
        read_path(str(path))
    if path.name != "net.tflite":
        return
    torch.save(state, path)  # first bytes decide
    assert read_path(str(path)).contents.keys() == state.keys()


def test_folders_of_tensorflow_are_named(tmp_path: Path) -> None:
    for file in ("saved/saved_model.pb", "steps/model.ckpt-9.index"):
        path = tmp_path / file
        path.parent.mkdir()
        path.write_bytes(b"\x08\x01\x12")
        with pytest.raises(WeightsError, match="TensorFlow"):
            read_path(str(path.parent))
        with pytest.raises(WeightsError, match="TensorFlow"):
            resnets.load(path.parent)
