"""Configs of other libraries are read whole: a field is honoured, without effect, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from weights_state import assert_same, logits, random_images, random_state

import resnets
from resnets.config import ConfigError, Preprocess
from resnets.data.transforms.preprocess import Preprocessor
from resnets.models import build, catalog
from resnets.weights.errors import WeightsError
from resnets.weights.folder import read_config, write_folder
from resnets.weights.name_maps.maps import build_name_map
from resnets.weights.readers.configs.field_handlers import apply_handlers, only
from resnets.weights.readers.configs.transformers import read_processor, read_transformers

SEEN = {
    "input_size": [3, 64, 64],
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "crop_mode": "center",
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
}
TIMM = {"architecture": "resnet18", "num_classes": 3, "global_pool": "avg", "pretrained_cfg": SEEN}


def folder(path: Path, config: dict[str, Any]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_fields_are_honored(tmp_path: Path) -> None:
    args = {
        "output_stride": 16, "channels": [8, 8, 8, 8], "drop_path_rate": 0.1, "in_chans": 3,
        "act_layer": "relu", "layers": [1, 1, 2, 1],
    }  # fmt: skip
    found = read_config(
        folder(tmp_path, {**TIMM, "model_args": args, "label_names": ["a", "b", "c"]})
    )
    spec = found.spec
    assert (spec.dilate, spec.widths, spec.drop_path) == (1, (8, 8, 8, 8), 0.1)
    assert (spec.depths, spec.num_classes, spec.input_size) == ((1, 1, 2, 1), 3, 64)
    assert found.preprocess == Preprocess(
        size=64, resize=71, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bicubic"
    )
    assert found.classes == ("a", "b", "c")


def test_honored_fields_give_timms_logits(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    args = {"output_stride": 8, "base_width": 32, "cardinality": 2}
    theirs = timm.create_model("resnet50", num_classes=3, **args)
    theirs.load_state_dict(random_state(theirs, seed=1))
    config = {
        **TIMM,
        "architecture": "resnet50",
        "model_args": args,
        "label_names": ["a", "b", "c"],
    }
    safetensors.torch.save_file(theirs.state_dict(), folder(tmp_path, config) / "model.safetensors")
    assert_same(logits(resnets.load(tmp_path), random_images()), logits(theirs, random_images()))


@pytest.mark.parametrize(
    ("where", "field", "value"),
    [
        ("", "global_pool", "max"),
        ("", "architecture", "resnetblur50"),
        ("", "surprise", 1),
        ("model_args", "act_layer", "silu"),
        ("model_args", "output_stride", 4),
        ("model_args", "stem_type", "deep"),
        ("model_args", "avg_down", True),
        ("model_args", "aa_layer", "blurpool"),
        ("model_args", "block_args", {"attn_layer": "se"}),
        ("model_args", "norm_layer", "groupnorm"),
        ("model_args", "unheard_of", 3),
        ("pretrained_cfg", "crop_mode", "squash"),
        ("pretrained_cfg", "crop_mode", "border"),
        ("pretrained_cfg", "interpolation", "nearest"),
        ("pretrained_cfg", "interpolation", "lanczos"),
        ("pretrained_cfg", "input_size", [3, 64, 96]),
        ("pretrained_cfg", "input_size", 64),
        ("pretrained_cfg", "crop_pct", 1.2),
        ("pretrained_cfg", "mean", [0.5]),
        ("pretrained_cfg", "label_offset", 1),
        ("pretrained_cfg", "act_layer", "gelu"),
        ("pretrained_cfg", "unheard_of", "x"),
    ],
)
def test_fields_are_refused_by_name(tmp_path: Path, where: str, field: str, value: Any) -> None:
    config = json.loads(json.dumps(TIMM))
    (config.setdefault(where, {}) if where else config)[field] = value
    net = build(catalog.spec("resnet18", num_classes=3))
    state = build_name_map("torchvision", net).to_foreign(net.state_dict())
    safetensors.torch.save_file(state, folder(tmp_path, config) / "model.safetensors")
    for use in (resnets.load, lambda path: resnets.create_model("resnet18", weights=str(path))):
        with pytest.raises(WeightsError, match=field) as caught:
            use(tmp_path)
        assert "config.json" in str(caught.value)


def test_our_own_fields_are_all_known(tmp_path: Path) -> None:
    net = resnets.create_model("cifar-resnet8", num_classes=2)
    net.save(tmp_path / "net", classes=("a", "b"), preprocess=Preprocess(size=32, resize=32))
    file = tmp_path / "net" / "config.json"
    config = json.loads(file.read_text())
    config["resnets"]["threshold"] = 0.3
    file.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="threshold"):
        resnets.load(tmp_path / "net")


HUGGING = {
    "model_type": "resnet",
    "architectures": ["ResNetForImageClassification"],
    "layer_type": "bottleneck",
    "depths": [1, 2, 1, 1],
    "hidden_sizes": [32, 64, 128, 256],
    "embedding_size": 16,
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": True,
    "num_channels": 3,
    "id2label": {"0": "a", "1": "b", "2": "c"},
    "label2id": {"a": 0, "b": 1, "c": 2},
    "transformers_version": "5.0.0",
}
PROCESSOR = {
    "image_processor_type": "ConvNextImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "crop_pct": 0.875,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
}


def test_transformers_config() -> None:
    found = read_transformers(HUGGING, PROCESSOR, "config.json")
    spec = found.spec
    assert (spec.block, spec.depths, spec.widths) == ("bottleneck", (1, 2, 1, 1), (8, 16, 32, 64))
    assert (spec.stem_width, spec.stride_in, spec.num_classes) == (16, "1x1", 3)
    assert found.classes == ("a", "b", "c")
    assert (found.preprocess.size, found.preprocess.resize) == (224, 256)
    assert found.preprocess.interpolation == "bicubic"
    other = {"image_processor_type": "BitImageProcessor", "crop_size": {"height": 40, "width": 40}}
    seen = read_processor({**PROCESSOR, **other, "size": {"shortest_edge": 48}}, "p")
    assert (seen.size, seen.resize) == (40, 48)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "vit"),
        ("hidden_act", "gelu"),
        ("downsample_in_first_stage", True),
        ("layer_type", "basic2"),
        ("problem_type", "multi_label_classification"),
        ("hidden_sizes", [30, 64, 128, 256]),
        ("unheard_of", 1),
    ],
)
def test_transformers_fields_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        read_transformers({**HUGGING, field: value}, None, "config.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_processor_type", "ViTImageProcessor"),
        ("size", {"height": 224, "width": 224}),
        ("size", {"shortest_edge": 384}),
        ("resample", 0),
        ("rescale_factor", 1.0),
        ("do_normalize", False),
        ("do_center_crop", False),
        ("image_mean", "zero"),
        ("unheard_of", 1),
    ],
)
def test_processor_fields_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        read_processor({**PROCESSOR, field: value}, "preprocessor_config.json")


def test_transformers_folder_round_trip(tmp_path: Path) -> None:
    """Written in their form, and read by what they alone would read."""
    net = resnets.create_model("resnet18", num_classes=3)
    net.load_state_dict(random_state(net, seed=1))
    net.classes, seen = ("a", "b", "c"), Preprocess(size=64, resize=72, interpolation="bicubic")
    net.preprocess = Preprocessor(seen)
    write_folder(net, tmp_path, None, "transformers")
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config.pop("resnets")
    file.write_text(json.dumps(config))
    again = resnets.load(tmp_path)
    assert again.classes == net.classes
    assert again.preprocess.spec == seen
    assert_same(logits(again, random_images()), logits(net, random_images()))
    names = safetensors.torch.load_file(tmp_path / "model.safetensors").keys()
    assert "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight" in names
    assert "classifier.1.weight" in names
    with pytest.raises(ConfigError, match="cifar-resnet8"):
        write_folder(resnets.create_model("cifar-resnet8"), tmp_path, None, "transformers")


def test_transformers_own_network_gives_the_same_logits(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for downsampled in (False, True):
        config = transformers.ResNetConfig(
            depths=[1, 2, 1, 1], hidden_sizes=[32, 64, 128, 256], embedding_size=16, num_labels=3,
            downsample_in_bottleneck=downsampled,
        )  # fmt: skip
        theirs = transformers.ResNetForImageClassification(config)
        theirs.load_state_dict(random_state(theirs, seed=1))
        theirs.eval().save_pretrained(tmp_path)
        ours = resnets.load(tmp_path)
        with torch.inference_mode():
            assert_same(ours(random_images()), theirs(random_images()).logits)


def test_unhandled_fields_are_refused() -> None:
    handlers = {"a": only(1), "b": float}
    assert apply_handlers({"a": 1, "b": 2, "c": 3, "d": None}, "w", handlers, frozenset("c")) == {
        "a": 1,
        "b": 2.0,
    }
    for said in ({"a": 2}, {"a": True}, {"b": "x"}, {"bb": 1}, [1]):
        with pytest.raises(ConfigError, match="w: "):
            apply_handlers(said, "w", handlers)
