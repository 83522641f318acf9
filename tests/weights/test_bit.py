"""BiT's own files: an .npz in its authors' layout, made from timm's network, and timm's logits."""

import dataclasses
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from encode_weights import encoded, find_map
from torch import Tensor
from weights_state import assert_same, logits, random_images, random_state

import resnets
from resnets.config import ConfigError, Preprocess
from resnets.models import build, catalog
from resnets.weights.errors import WeightsError
from resnets.weights.name_maps.formats.bit import published_preprocess
from resnets.weights.name_maps.maps import build_name_map

timm = pytest.importorskip("timm")

NET = "resnetv2_50x1_bit"
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    net = timm.create_model(NET, num_classes=7)
    net.load_state_dict(random_state(net, seed=1))
    return net


@pytest.fixture(scope="module")
def arrays(theirs) -> Arrays:
    """The names and axes of big_transfer's files, written out from timm's modules."""

    def kernel(conv: torch.nn.Module) -> np.ndarray:
        return conv.weight.detach().permute(2, 3, 1, 0).contiguous().numpy()

    conv = "standardized_conv2d/kernel"
    found = {f"resnet/root_block/{conv}": kernel(theirs.stem.conv)}
    for b, stage in enumerate(theirs.stages, start=1):
        for u, block in enumerate(stage.blocks, start=1):
            unit = f"resnet/block{b}/unit{u:02d}"
            for number, branch in enumerate("abc", start=1):
                norm = getattr(block, f"norm{number}")
                found |= {
                    f"{unit}/{branch}/{conv}": kernel(getattr(block, f"conv{number}")),
                    f"{unit}/{branch}/group_norm/gamma": norm.weight.detach().numpy(),
                    f"{unit}/{branch}/group_norm/beta": norm.bias.detach().numpy(),
                }
            if block.downsample is not None:
                found[f"{unit}/a/proj/{conv}"] = kernel(block.downsample.conv)
    return found | {
        "resnet/group_norm/gamma": theirs.norm.weight.detach().numpy(),
        "resnet/group_norm/beta": theirs.norm.bias.detach().numpy(),
        "resnet/head/conv2d/kernel": kernel(theirs.head.fc),
        "resnet/head/conv2d/bias": theirs.head.fc.bias.detach().numpy(),
    }


def test_the_file_is_of_the_layout_that_timm_reads(tmp_path: Path, theirs, arrays: Arrays) -> None:
    np.savez(tmp_path / "w.npz", **arrays)
    again = timm.create_model(NET, num_classes=7)
    again.load_pretrained(str(tmp_path / "w.npz"))
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@pytest.mark.ci
@pytest.mark.parametrize("pack", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("numbered", [False, True])
def test_an_npz_gives_timms_logits(
    tmp_path: Path, theirs, arrays: Arrays, pack, numbered: bool
) -> None:
    """Some of the published files number their convolutions."""
    if numbered:
        arrays = {
            re.sub(r"(unit02/\w)/standardized_conv2d/", r"\1/standardized_conv2d_3/", name): each
            for name, each in arrays.items()
        }
        assert any("_3/" in name for name in arrays)
    pack(tmp_path / "w.npz", **arrays, step=np.array(3))
    images = random_images()
    expected = logits(theirs, images)
    ours = resnets.load(tmp_path / "w.npz", model=NET)
    assert_same(logits(ours, images), expected)
    assert ours.preprocess.spec == Preprocess(size=224, resize=256, mean=(0.5,) * 3, std=(0.5,) * 3)
    start = resnets.create_model(NET, num_classes=3, weights=str(tmp_path / "w.npz"))
    assert torch.equal(start.stem.conv.weight, ours.stem.conv.weight)


def test_ours_in_their_layout(arrays: Arrays) -> None:
    ours = build(catalog.spec(NET, num_classes=7))
    ours.load_state_dict(random_state(ours, seed=1))
    names = build_name_map("bit", ours)
    back = encoded(names, ours.state_dict())
    assert {name: tuple(each.shape) for name, each in back.items()} == {
        name: each.shape for name, each in arrays.items()
    }
    again = names.to_own(back)
    assert all(torch.equal(again[name], each) for name, each in ours.state_dict().items())
    assert find_map(back, ours).format.name == "bit"


def test_the_authors_own_network_saved_by_torch(tmp_path: Path, theirs, arrays: Arrays) -> None:
    """Names of bit_pytorch, under the prefix that its script saves them with."""

    def tensor(each: np.ndarray) -> Tensor:
        values = torch.from_numpy(each)
        return values.permute(3, 2, 0, 1).contiguous() if each.ndim == 4 else values

    state = {}
    for name, each in arrays.items():
        name = name.removeprefix("resnet/")
        name = re.sub(r"^(block\d/unit\d\d)/a/proj/\w+/kernel", r"\1/downsample/weight", name)
        for number, branch in enumerate("abc", start=1):
            name = name.replace(f"/{branch}/group_norm/", f"/gn{number}/")
            name = name.replace(f"/{branch}/standardized_conv2d/", f"/conv{number}/")
        name = name.replace("root_block/standardized_conv2d", "root/conv")
        name = re.sub(r"^(block)", r"body/\1", name.replace("head/conv2d", "head/conv"))
        name = re.sub("^group_norm", "head/gn", name)
        for theirs_leaf, leaf in (("kernel", "weight"), ("gamma", "weight"), ("beta", "bias")):
            name = re.sub(f"{theirs_leaf}$", leaf, name)
        state[f"module.{name.replace('/', '.')}"] = tensor(each)
    assert "module.body.block3.unit06.gn3.weight" in state
    torch.save({"step": 9, "model": state}, tmp_path / "bit.pth.tar")
    images = random_images()
    ours = resnets.load(tmp_path / "bit.pth.tar", model=NET)
    assert_same(logits(ours, images), logits(theirs, images))


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    """As google/bit-50 on the Hub: names of BitForImageClassification, and its config."""
    spec = catalog.spec(NET, num_classes=7, depths=(1, 2, 1, 1))
    ours = build(spec)
    ours.load_state_dict(random_state(ours, seed=1))
    state = build_name_map("transformers-bit", ours).to_foreign(ours.state_dict())
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    config = {
        "model_type": "bit",
        "layer_type": "preactivation",
        "depths": [1, 2, 1, 1],
        "hidden_sizes": [256, 512, 1024, 2048],
        "embedding_size": 64,
        "num_groups": 32,
        "global_padding": None,
        "embedding_dynamic_padding": False,
        "width_factor": 1,
        "output_stride": 32,
        "drop_path_rate": 0.0,
        "hidden_act": "relu",
        "num_labels": 7,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    again, images = resnets.load(tmp_path), random_images()
    assert dataclasses.replace(again.spec, name=spec.name) == spec
    assert torch.equal(logits(again, images), logits(ours, images))
    for field, value in {"global_padding": "SAME", "layer_type": "bottleneck"}.items():
        (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
        with pytest.raises(WeightsError, match=field):
            resnets.load(tmp_path)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BitForImageClassification(transformers.BitConfig(**config))
    theirs.load_state_dict(state)
    with torch.inference_mode():
        assert_same(logits(ours, images), theirs.eval()(images).logits)


def test_files_of_each_published_size_name_their_network(tmp_path: Path, arrays: Arrays) -> None:
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(ConfigError, match=rf"match {NET}$"):
        resnets.load(tmp_path / "w.npz")


BIT_TAGS = {
    "BiT-M-R50x1": "resnetv2_50x1_bit.goog_in21k",
    "BiT-M-R101x3-ILSVRC2012": "resnetv2_101x3_bit.goog_in21k_ft_in1k",
    "BiT-M-R152x4-ILSVRC2012": "resnetv2_152x4_bit.goog_in21k_ft_in1k",
    "R50x1_224": "resnetv2_50x1_bit.goog_distilled_in1k",
    "R152x2_T_224": "resnetv2_152x2_bit.goog_teacher_in21k_ft_in1k",
    "R152x2_T_384": "resnetv2_152x2_bit.goog_teacher_in21k_ft_in1k_384",
}


@pytest.mark.parametrize("stem", BIT_TAGS)
def test_names_of_published_files_tell_their_preprocessing(stem: str) -> None:
    said = timm.models.get_pretrained_cfg(BIT_TAGS[stem]).to_dict()
    ours = published_preprocess(stem)
    assert ours is not None
    assert (ours.size, ours.interpolation) == (said["input_size"][1], said["interpolation"])
    assert ours.resize == int(ours.size / said["crop_pct"])
    assert (ours.mean, ours.std) == (said["mean"], said["std"])
    assert published_preprocess(f"{stem}-run0-caltech101") is None


def test_a_file_with_a_published_name_does_not_assume(tmp_path: Path, arrays: Arrays) -> None:
    np.savez(tmp_path / "BiT-M-R50x1-ILSVRC2012.npz", **arrays)
    ours = resnets.load(tmp_path / "BiT-M-R50x1-ILSVRC2012.npz", model=NET)
    assert (ours.preprocess.spec.size, ours.preprocess.spec.resize) == (448, 448)


def test_a_state_dict_in_an_npz(tmp_path: Path) -> None:
    """Any names that are known in other files."""
    net = build(catalog.spec("cifar-resnet8"))
    state = random_state(net, seed=1)
    np.savez(tmp_path / "w.npz", **{name: each.numpy() for name, each in state.items()})
    ours = resnets.load(tmp_path / "w.npz", model="cifar-resnet8")
    values = {name: each for name, each in state.items() if each.is_floating_point()}
    assert len(values) > 30
    assert all(torch.equal(ours.state_dict()[name], each) for name, each in values.items())


def _objects(path: Path) -> None:
    np.savez(path, a=np.array([{"a": 1}], dtype=object))


def _cut(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00")


def _longer_than_it_is(path: Path) -> None:
    np.savez(path, a=np.ones((9, 9), np.float32))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"(9, 9), }  ", b"(9999, 9)} "))


def _no_array(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"not an array at all")


@pytest.mark.parametrize("write", [_objects, _cut, _longer_than_it_is, _no_array])
def test_bad_archives_are_refused(tmp_path: Path, write) -> None:
    path = tmp_path / "w.npz"
    write(path)
    with pytest.raises(WeightsError, match=r"w\.npz") as caught:
        resnets.load(path, model=NET)
    assert "\n" not in str(caught.value)
