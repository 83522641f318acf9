"""Keras Applications' own nets against ours, through each file format that Keras has written."""

import dataclasses
import os
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from encode_weights import encoded
from torch import Tensor
from weights_state import SMALL, assert_same, logits, random_images, random_state

import resnets
from resnets.models import build, catalog
from resnets.weights.errors import WeightsError
from resnets.weights.name_maps.maps import build_name_map
from resnets.weights.readers.keras import read_keras

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
applications = keras.applications


SPEC = dataclasses.replace(SMALL, stem_width=64, depths=(2, 2, 11, 1))


@pytest.fixture(scope="module")
def theirs():
    """Keras's own ResNet, narrow, with random weights and statistics."""
    parts = pytest.importorskip("keras.src.applications.resnet")

    def stages(x):
        for stage, (depth, width) in enumerate(zip(SPEC.depths, SPEC.widths, strict=True), start=2):
            stride = 1 if stage == 2 else 2
            x = parts.stack_residual_blocks_v1(x, width, depth, stride1=stride, name=f"conv{stage}")
        return x

    net = parts.ResNet(
        stages,
        preact=False,
        use_bias=True,
        weights=None,
        classes=5,
        input_shape=(64, 64, 3),
        classifier_activation=None,
    )
    draw = np.random.default_rng(1)
    for weight in net.weights:
        shape = tuple(weight.shape)
        bound = (3 / np.prod(shape[:-1])) ** 0.5 if len(shape) > 1 else 0.5
        low = 0.5 if weight.name in ("gamma", "moving_variance") else -bound
        high = 1.0 if len(shape) == 1 else bound
        weight.assign(draw.uniform(low, high, shape).astype(np.float32))
    return net


def values(path: Path) -> dict[str, Tensor]:
    return {name: stored.read() for name, stored in read_keras(path)[0].items()}


def run(net, images: Tensor) -> Tensor:
    """Their logits; pictures are (B, H, W, C) there."""
    with torch.inference_mode():
        found = net(images.permute(0, 2, 3, 1).contiguous(), training=False)
    return torch.as_tensor(keras.ops.convert_to_numpy(found))


@pytest.mark.parametrize("file", ["net.keras", "net.h5", "net.weights.h5"])
def test_same_logits_from_each_format(tmp_path: Path, theirs, file: str) -> None:
    path = tmp_path / file
    theirs.save_weights(path) if ".weights." in file else theirs.save(path)
    asked = dataclasses.replace(SPEC, stride_in="3x3")
    ours = resnets.create_model(asked, weights=str(path))
    assert ours.spec.stride_in == "1x1"
    assert ours.spec.conv_bias == "all"
    assert ours.spec.norm_eps == 1.001e-5
    images = random_images()
    assert_same(logits(ours, images), run(theirs, images))
    seen = ours.preprocess.spec
    assert seen.channel_order == "bgr"
    assert [round(255 * mean, 3) for mean in seen.mean] == [103.939, 116.779, 123.68]


def test_preprocessing_is_theirs(tmp_path: Path, theirs) -> None:
    theirs.save(tmp_path / "net.h5")
    seen = resnets.create_model(SPEC, weights=str(tmp_path / "net.h5")).preprocess
    picture = np.random.default_rng(2).integers(0, 256, (256, 256, 3), np.uint8)
    expected = applications.resnet.preprocess_input(picture[16:240, 16:240].astype(np.float32))
    found = seen(picture).permute(1, 2, 0)
    torch.testing.assert_close(found, torch.from_numpy(expected.copy()), atol=1e-4, rtol=0)


def test_our_weights_in_their_network(theirs) -> None:
    ours = build(dataclasses.replace(SPEC, conv_bias="all", norm_eps=1.001e-5))
    ours.load_state_dict(random_state(ours, seed=2))
    named = encoded(build_name_map("keras", ours), ours.state_dict())
    kept = {weight.path: weight.numpy() for weight in theirs.weights}
    assert kept.keys() == named.keys()
    for weight in theirs.weights:
        weight.assign(named[weight.path].numpy())
    images = random_images()
    assert_same(run(theirs, images), logits(ours, images))
    for weight in theirs.weights:
        weight.assign(kept[weight.path])


@pytest.mark.parametrize("depth", [50, 101])
def test_published_networks_have_the_same_tensors(depth: int) -> None:
    net = getattr(applications, f"ResNet{depth}")(weights=None, include_top=False)
    theirs = {weight.path: tuple(weight.shape) for weight in net.weights}
    with torch.device("meta"):
        ours = build(catalog.spec(f"resnet{depth}-v1", conv_bias="all"))
    found = encoded(build_name_map("keras", ours), ours.state_dict())
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    assert {k: v for k, v in shapes.items() if not k.startswith("predictions/")} == theirs


def test_files_that_number_layers_are_read_by_their_config(tmp_path: Path, theirs) -> None:
    """Some versions of Keras 3 wrote no layer names beside the variables."""
    new, old = tmp_path / "new.keras", tmp_path / "old.keras"
    theirs.save(new)
    with zipfile.ZipFile(new) as archive, zipfile.ZipFile(old, "w") as copy:
        archive.extract("model.weights.h5", tmp_path)
        copy.writestr("config.json", archive.read("config.json"))
    with h5py.File(tmp_path / "model.weights.h5", "r+") as file:
        groups: list[h5py.Group] = []
        file.visititems(lambda _, item: groups.append(item))
        for group in groups:
            group.attrs.pop("name", None)
    with zipfile.ZipFile(old, "a") as copy:
        copy.write(tmp_path / "model.weights.h5", "model.weights.h5")
    expected, found = values(new), values(old)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(WeightsError, match="contains no layer names"):
        read_keras(tmp_path / "model.weights.h5")


def test_names_of_old_tensorflow_files(tmp_path: Path) -> None:
    """The files of keras-applications: one group a layer, names that end in :0."""
    path = tmp_path / "resnet50_weights_tf_dim_ordering_tf_kernels.h5"
    with h5py.File(path, "w") as file:
        file["conv1_conv/conv1_conv/kernel:0"] = np.zeros((7, 7, 3, 64), np.float32)
        file["conv1_bn/conv1_bn/moving_variance:0"] = np.ones(64, np.float32)
    assert sorted(read_keras(path)[0]) == ["conv1_bn/moving_variance", "conv1_conv/kernel"]


def test_damaged_files_are_one_clear_line(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    whole = tmp_path / "whole.h5"
    with h5py.File(whole, "w") as file:
        file["conv1_conv/conv1_conv/kernel:0"] = np.zeros((7, 7, 3, 64), np.float32)
    data = whole.read_bytes()
    contents = [data[: len(data) * share // 8] for share in range(8)]
    contents += [noise.bytes(length) for length in range(1, 200, 7)]
    for suffix in (".h5", ".keras"):
        path = tmp_path / f"cut{suffix}"
        for content in contents:
            path.write_bytes(content)
            with pytest.raises(WeightsError, match="cannot be read as weights") as caught:
                resnets.create_model("resnet50", weights=str(path))
            assert "\n" not in str(caught.value)


def test_other_networks_are_refused_by_tensor(tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["conv1_conv/conv1_conv/kernel:0"] = np.zeros((7, 7, 3, 64), np.float32)
    with pytest.raises(WeightsError, match="resnet50"):
        resnets.create_model("resnet50", weights=str(path))


def test_a_network_of_version_2_is_refused_by_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v2.h5", "w") as file:
        for name in ("conv1_conv/conv1_conv/kernel:0", "conv2_block1_preact_bn/x/gamma:0"):
            file.create_dataset(name.replace("/x/", "/conv2_block1_preact_bn/"), data=np.ones(3))
    with pytest.raises(WeightsError, match="ResNetV2"):
        resnets.create_model("resnet50-v1", weights=str(tmp_path / "v2.h5"))
