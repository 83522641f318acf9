"""detectron2's backbones against a reference of our own, and its pickles read without running."""

import dataclasses
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from weights_state import SMALL, assert_same, logits, random_images, random_state

import resnets
from resnets.config import ModelSpec
from resnets.data.files.unpickle import unpickle
from resnets.data.files.unpickle_numpy import ARRAYS
from resnets.models import build
from resnets.weights.errors import WeightsError
from resnets.weights.name_maps.maps import build_name_map


class Conv(nn.Conv2d):
    """A convolution that owns the norm after it, as detectron2 has it."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Bottleneck(nn.Module):
    def __init__(self, c_in: int, inner: int, stride: int, stride_in_1x1: bool) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        if c_in != 4 * inner:
            self.shortcut = Conv(c_in, 4 * inner, 1, stride)
        self.conv1 = Conv(c_in, inner, 1, first)
        self.conv2 = Conv(inner, inner, 3, second)
        self.conv3 = Conv(inner, 4 * inner, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(out + (self.shortcut(x) if hasattr(self, "shortcut") else x))


class Reference(nn.Module):
    """detectron2.modeling.backbone.ResNet with a classifier, of the shape of `spec`."""

    def __init__(self, spec: ModelSpec, stride_in_1x1: bool) -> None:
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv1 = Conv(3, spec.stem_width, 7, 2)
        c_in = spec.stem_width
        for stage, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True), start=2):
            blocks = []
            for block in range(depth):
                stride = 2 if block == 0 and stage > 2 else 1
                blocks.append(Bottleneck(c_in, width, stride, stride_in_1x1))
                c_in = 4 * width
            self.add_module(f"res{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(c_in, spec.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem.conv1(x)), 3, 2, 1)
        x = self.res5(self.res4(self.res3(self.res2(x))))
        return self.linear(x.mean((2, 3)))


def reference(stride_in_1x1: bool = True, seed: int = 1) -> Reference:
    net = Reference(SMALL, stride_in_1x1)
    net.load_state_dict(random_state(net, seed))
    return net


def arrays(net: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}


def save(content: object, path: Path, protocol: int = 2) -> str:
    path.write_bytes(pickle.dumps(content, protocol))
    return str(path)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_converted_from_torchvision(tmp_path: Path, protocol: int) -> None:
    """The converter names the head stem.fc; RGB, ImageNet's constants, stride in the 3x3."""
    theirs = reference(stride_in_1x1=False)
    named = {k.replace("linear.", "stem.fc."): v for k, v in arrays(theirs).items()}
    content = {"model": named, "__author__": "torchvision", "matching_heuristics": True}
    path = save(content, tmp_path / "R-50.pkl", protocol)
    ours = resnets.create_model(SMALL, weights=path)
    images = random_images()
    assert_same(logits(ours, images), logits(theirs, images))
    assert ours.spec.stride_in == "3x3"
    assert ours.preprocess.spec.channel_order == "rgb"


@pytest.mark.parametrize("stride_in_1x1", [True, False])
def test_state_dict_without_pickle(tmp_path: Path, stride_in_1x1: bool) -> None:
    """A .pth does not say where the stride is: the spec does."""
    theirs = reference(stride_in_1x1)
    path = tmp_path / "backbone.pth"
    torch.save({f"backbone.{name}": value for name, value in theirs.state_dict().items()}, path)
    spec = dataclasses.replace(SMALL, stride_in="1x1" if stride_in_1x1 else "3x3")
    ours = resnets.create_model(spec, weights=str(path))
    images = random_images()
    assert_same(logits(ours, images), logits(theirs, images))


def test_our_weights_in_their_network() -> None:
    ours = build(SMALL)
    ours.load_state_dict(random_state(ours, seed=2))
    theirs = Reference(SMALL, stride_in_1x1=True)
    theirs.load_state_dict(build_name_map("detectron2", ours).to_foreign(ours.state_dict()))
    images = random_images()
    assert_same(logits(theirs, images), logits(ours, images))


def test_a_backbone_without_head_gets_a_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = reference()
    named = {name: value for name, value in arrays(theirs).items() if "linear" not in name}
    caplog.set_level("INFO", "resnets")
    path = save({"model": named, "__author__": "me"}, tmp_path / "backbone.pkl")
    ours = resnets.create_model(SMALL, num_classes=3, weights=path)
    assert "has no head; a new one for 3 classes" in caplog.text
    assert torch.equal(ours.get_submodule("stage4.0.conv1").weight, theirs.res5[0].conv1.weight)


def msra(seed: int) -> dict[str, np.ndarray]:
    """Blobs as Detectron wrote them: norms folded to scale and shift, biases of zero."""
    draw = np.random.default_rng(seed)
    blobs: dict[str, np.ndarray] = {}

    def conv(name: str, bn: str, c_out: int, c_in: int, kernel: int) -> None:
        bound = (3 / (c_in * kernel**2)) ** 0.5
        shape = (c_out, c_in, kernel, kernel)
        blobs[f"{name}_w"] = draw.uniform(-bound, bound, shape).astype(np.float32)
        blobs[f"{name}_b"] = np.zeros(c_out, np.float32)
        blobs[f"{bn}_s"] = draw.uniform(0.5, 1, c_out).astype(np.float32)
        blobs[f"{bn}_b"] = draw.uniform(-0.5, 1, c_out).astype(np.float32)
        blobs[f"{name}_w_momentum"] = np.ones(1, np.float32)

    conv("conv1", "res_conv1_bn", SMALL.stem_width, 3, 7)
    c_in = SMALL.stem_width
    for stage, (depth, width) in enumerate(zip(SMALL.depths, SMALL.widths, strict=True), start=2):
        for block in range(depth):
            name = f"res{stage}_{block}_branch"
            if c_in != 4 * width:
                conv(f"{name}1", f"{name}1_bn", 4 * width, c_in, 1)
            conv(f"{name}2a", f"{name}2a_bn", width, c_in, 1)
            conv(f"{name}2b", f"{name}2b_bn", width, width, 3)
            conv(f"{name}2c", f"{name}2c_bn", 4 * width, width, 1)
            c_in = 4 * width
    blobs["pred_w"] = draw.normal(0, c_in**-0.5, (SMALL.num_classes, c_in)).astype(np.float32)
    blobs["pred_b"] = draw.normal(0, 1, SMALL.num_classes).astype(np.float32)
    return blobs


def run_msra(blobs: dict[str, np.ndarray], x: Tensor) -> Tensor:
    """The blobs as Caffe2 ran them: convolution, then scale and shift."""
    held = {name: torch.from_numpy(array) for name, array in blobs.items()}

    def conv(x: Tensor, name: str, bn: str, stride: int) -> Tensor:
        weight = held[f"{name}_w"]
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)
        return x * held[f"{bn}_s"][:, None, None] + held[f"{bn}_b"][:, None, None]

    x = F.max_pool2d(F.relu(conv(x, "conv1", "res_conv1_bn", 2)), 3, 2, 1)
    for stage, depth in enumerate(SMALL.depths, start=2):
        for block in range(depth):
            name, stride = f"res{stage}_{block}_branch", 2 if block == 0 and stage > 2 else 1
            out = F.relu(conv(x, f"{name}2a", f"{name}2a_bn", stride))  # stride in the first 1x1
            out = F.relu(conv(out, f"{name}2b", f"{name}2b_bn", 1))
            out = conv(out, f"{name}2c", f"{name}2c_bn", 1)
            if f"{name}1_w" in held:
                x = conv(x, f"{name}1", f"{name}1_bn", stride)
            x = F.relu(out + x)
    return x.mean((2, 3)) @ held["pred_w"].T + held["pred_b"]


@pytest.mark.parametrize("wrapped", [True, False])
def test_msra_backbones(tmp_path: Path, wrapped: bool) -> None:
    blobs = msra(seed=1)
    path = save({"blobs": blobs} if wrapped else blobs, tmp_path / "R-50.pkl")
    spec = dataclasses.replace(SMALL, stride_in="3x3")
    ours = resnets.create_model(spec, weights=path)
    assert ours.spec.stride_in == "1x1"
    seen = ours.preprocess.spec
    assert (seen.channel_order, seen.std) == ("bgr", (1 / 255,) * 3)
    assert [round(255 * mean, 3) for mean in seen.mean] == [103.53, 116.28, 123.675]
    images = random_images()
    assert_same(logits(ours, images), run_msra(blobs, images))


def test_detectron_names_round_trip() -> None:
    ours = build(SMALL)
    state = random_state(ours, seed=2)
    names = build_name_map("detectron", ours)
    back = names.to_own(names.to_foreign(state))
    assert all(torch.equal(back[k], v) for k, v in state.items() if "num_batches" not in k)
    assert back.keys() == state.keys()


class Evil:
    """Pickles to a call of its arguments."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call[0], tuple(self.call[1:])


@pytest.mark.parametrize(
    "evil",
    [
        Evil(os.system, "touch ran"),
        Evil(eval, "open('ran', 'w')"),
        Evil(getattr, "text", "upper"),
        Evil(np.load, "ran"),
        Evil(np.ndarray, (10**12,)),
        Evil(np.dtype, "O"),
        Evil(pickle.loads, pickle.dumps(1)),
        np.array([object()]),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pickles_that_ask_for_more_than_arrays(
    tmp_path: Path, evil: object, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save({"model": {"stem.conv1.weight": evil}}, tmp_path / "evil.pkl", protocol)
    with pytest.raises(WeightsError, match="evil.pkl: ") as caught:
        resnets.create_model(SMALL, weights=path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_arrays_of_every_kind_come_back(tmp_path: Path) -> None:
    content = OrderedDict(
        a=np.arange(6, dtype=">f8").reshape(2, 3),
        b=np.asfortranarray(np.eye(3, dtype=np.float32)),
        c=np.float64(2.5),
        d=[1, "ü", None, True, (3.5, b"x")],
        e=np.zeros((0, 4), np.int64),
    )
    for protocol in range(6):
        path = tmp_path / "arrays.pkl"
        save(content, path, protocol)
        found = unpickle(path.read_bytes(), ARRAYS)
        for name in "abe":
            assert np.array_equal(found[name], content[name])
            assert found[name].shape == content[name].shape
        assert (found["c"], found["d"]) == (2.5, content["d"])


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    """Protocol 2 as cPickle wrote it: byte strings for names, array bytes as a string."""
    raw = np.array([1.5, -2.0], "<f4").tobytes()
    data = (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08" + raw + b"tbs."
    )
    path = tmp_path / "two.pkl"
    path.write_bytes(data)
    found = unpickle(path.read_bytes(), ARRAYS)["w"]
    assert np.array_equal(found, np.array([1.5, -2.0], np.float32))


def test_damaged_pickles_are_one_clear_line(tmp_path: Path) -> None:
    whole = pickle.dumps({"model": arrays(reference())})
    noise = np.random.default_rng(0)
    path = tmp_path / "cut.pkl"
    for length in (0, 1, 10, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="cut.pkl: "):
            resnets.create_model(SMALL, weights=str(path))
    for length in range(1, 200, 3):
        path.write_bytes(noise.bytes(length))
        with pytest.raises(WeightsError, match="cut.pkl: "):
            resnets.create_model(SMALL, weights=str(path))
