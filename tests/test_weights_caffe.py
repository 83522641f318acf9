"""The authors' Caffe models: a net written in their format, and run as their prototxt says."""

import dataclasses
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from weights_state import SMALL, assert_same, logits, pictures, random_state

import resnets
from resnets.config import ModelSpec
from resnets.models import build, catalog
from resnets.weights.caffe import read_caffemodel, read_mean
from resnets.weights.errors import WeightsError
from resnets.weights.maps import name_map

Blobs = dict[str, list[np.ndarray]]  # by layer, in the order of the file


# The protobuf wire format, written; the package only reads it.


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def chunk(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def blob(array: np.ndarray, old: bool) -> bytes:
    """BlobProto: data packed and a shape; blobs of old have four sizes and values one by one."""
    if not old:
        shape = chunk(7, chunk(1, b"".join(map(varint, array.shape))))
        return shape + chunk(5, array.astype("<f4").tobytes())
    sizes = (1,) * (4 - array.ndim) + array.shape
    head = b"".join(number(field, size) for field, size in enumerate(sizes, start=1))
    return head + b"".join(b"\x2d" + struct.pack("<f", value) for value in array.ravel())


def caffemodel(blobs: Blobs, old: bool = False) -> bytes:
    """NetParameter with a name, layers with and without blobs, and fields no reader needs."""
    out = chunk(1, b"ResNet")
    for name, arrays in {"data": [], **blobs, "prob": []}.items():
        values = [blob(array, old) for array in arrays]
        if old:  # V1LayerParameter: an enum for the type, rates as fixed32
            parts = [chunk(4, name.encode()), number(5, 4), *(chunk(6, each) for each in values)]
            out += chunk(2, b"".join([*parts, b"\x3d" + struct.pack("<f", 1.0)]))
        else:
            parts = [chunk(1, name.encode()), chunk(2, b"Type"), chunk(3, b"bottom")]
            parts += [number(10, 1), *(chunk(7, each) for each in values)]
            out += chunk(100, b"".join(parts))
    return out


# The net as their prototxt describes it.


def letters(stage: int, depth: int, spec: ModelSpec) -> Iterable[str]:
    """Names of a stage's blocks: a, b, c in ResNet-50, a, b1, b2 in stages 3 and 4 of others."""
    if spec.depths != (3, 4, 6, 3) and stage in (3, 4):
        return ["a", *(f"b{block}" for block in range(1, depth))]
    return "abcdef"[:depth]


def random_blobs(spec: ModelSpec, seed: int, bias: bool, factor: float) -> Blobs:
    """All layers; statistics are stored times the moving-average factor, as Caffe keeps them."""
    draw = np.random.default_rng(seed)
    blobs: Blobs = {}

    def conv(name: str, norm: str, c_out: int, c_in: int, kernel: int) -> None:
        bound = (3 / (c_in * kernel**2)) ** 0.5
        blobs[name] = [draw.uniform(-bound, bound, (c_out, c_in, kernel, kernel))]
        mean, var = draw.uniform(-0.5, 1, c_out), draw.uniform(0.5, 1, c_out)
        blobs[f"bn{norm}"] = [mean * factor, var * factor, np.array([factor])]
        blobs[f"scale{norm}"] = [draw.uniform(0.5, 1, c_out), draw.uniform(-0.5, 1, c_out)]

    conv("conv1", "_conv1", spec.stem_width, 3, 7)
    if bias:
        blobs["conv1"].append(draw.uniform(-1, 1, spec.stem_width))
    c_in = spec.stem_width
    for stage, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True), start=2):
        for block, letter in enumerate(letters(stage, depth, spec)):
            where = f"{stage}{letter}_branch"
            if block == 0:
                conv(f"res{where}1", f"{where}1", 4 * width, c_in, 1)
            conv(f"res{where}2a", f"{where}2a", width, c_in, 1)
            conv(f"res{where}2b", f"{where}2b", width, width, 3)
            conv(f"res{where}2c", f"{where}2c", 4 * width, width, 1)
            c_in = 4 * width
    weight = draw.normal(0, c_in**-0.5, (spec.num_classes, c_in))
    blobs["fc1000"] = [weight, draw.normal(0, 1, spec.num_classes)]
    return {name: [each.astype(np.float32) for each in arrays] for name, arrays in blobs.items()}


def pool(x: Tensor) -> Tensor:
    """Max of 3x3 windows at stride 2, without padding, the size rounded up, window by window."""
    size = -(-(x.shape[-1] - 3) // 2) + 1
    rows = [
        torch.stack(
            [x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].amax((2, 3)) for j in range(size)], -1
        )
        for i in range(size)
    ]
    return torch.stack(rows, -2)


def run(blobs: Blobs, spec: ModelSpec, x: Tensor) -> Tensor:
    """The logits (input of `prob`) of the deployed net."""
    held = {name: [torch.from_numpy(each) for each in arrays] for name, arrays in blobs.items()}

    def conv(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        weight, *bias = held[name]
        x = F.conv2d(x, weight, bias[0] if bias else None, stride, weight.shape[-1] // 2)
        mean, var, factor = held[f"bn{norm}"]
        inverse = 0 if factor == 0 else 1 / factor
        x = (x - (mean * inverse)[:, None, None]) / (var * inverse + 1e-5).sqrt()[:, None, None]
        gamma, beta = held[f"scale{norm}"]
        return x * gamma[:, None, None] + beta[:, None, None]

    x = pool(F.relu(conv(x, "conv1", "_conv1", 2)))
    for stage, depth in enumerate(spec.depths, start=2):
        for block, letter in enumerate(letters(stage, depth, spec)):
            where, stride = f"{stage}{letter}_branch", 2 if block == 0 and stage > 2 else 1
            out = F.relu(conv(x, f"res{where}2a", f"{where}2a", stride))
            out = F.relu(conv(out, f"res{where}2b", f"{where}2b"))
            out = conv(out, f"res{where}2c", f"{where}2c")
            x = conv(x, f"res{where}1", f"{where}1", stride) if block == 0 else x
            x = F.relu(out + x)
    weight, bias = held["fc1000"]
    return x.mean((2, 3)) @ weight.T + bias


FIFTY = dataclasses.replace(SMALL, depths=(3, 4, 6, 3))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("spec", "bias"), [(FIFTY, True), (SMALL, False)])
def test_same_logits_from_a_caffemodel(
    tmp_path: Path, spec: ModelSpec, bias: bool, old: bool
) -> None:
    blobs = random_blobs(spec, seed=1, bias=bias, factor=999.98)
    path = tmp_path / "model.caffemodel"
    path.write_bytes(caffemodel(blobs, old))
    asked = dataclasses.replace(spec, stride_in="3x3")
    ours = resnets.create_model(asked, weights=str(path))
    assert (ours.spec.stride_in, ours.spec.stem_pool) == ("1x1", "ceil")
    assert ours.spec.conv_bias == ("stem" if bias else "none")
    images = pictures()
    assert_same(logits(ours, images), run(blobs, spec, images))


@pytest.mark.parametrize(("depths", "bias"), [(FIFTY.depths, True), (SMALL.depths, False)])
def test_ours_as_their_blobs(depths: tuple[int, ...], bias: bool) -> None:
    spec = dataclasses.replace(
        SMALL, depths=depths, stem_pool="ceil", conv_bias="stem" if bias else "none"
    )
    ours = build(spec)
    ours.load_state_dict(random_state(ours, seed=2))
    named = name_map("caffe", ours).to_foreign(ours.state_dict())
    blobs: Blobs = {}
    for name in sorted(named):
        blobs.setdefault(name.partition("/")[0], []).append(named[name].numpy())
    images = pictures()
    assert_same(run(blobs, spec, images), logits(ours, images))


def test_there_and_back_is_the_same(tmp_path: Path) -> None:
    """Through the names of ResNet-50, 101 and 152, at their real depths, tensor by tensor."""
    for depth in (50, 101, 152):
        spec = dataclasses.replace(
            SMALL, depths=catalog.spec(f"resnet{depth}").depths, conv_bias="stem"
        )
        ours = build(spec)
        state = random_state(ours, seed=depth)
        names = name_map("caffe", ours)
        there = names.to_foreign(state)
        numbered = {50: "res4f_branch2c/0", 101: "res4b22_branch2c/0", 152: "res3b7_branch2c/0"}
        assert numbered[depth] in there
        back = names.to_own(there)
        assert all(torch.equal(back[k], v) for k, v in state.items() if "num_batches" not in k)


def test_a_factor_of_zero_means_statistics_of_zero() -> None:
    ours = build(SMALL)
    names = name_map("caffe", ours)
    there = names.to_foreign(ours.state_dict()) | {"bn_conv1/2": torch.zeros(1)}
    assert not names.to_own(there)["stem.norm.running_var"].any()


def test_mean_picture_beside_the_model(tmp_path: Path) -> None:
    path = tmp_path / "model.caffemodel"
    path.write_bytes(caffemodel(random_blobs(SMALL, seed=1, bias=False, factor=1.0)))
    mean = np.random.default_rng(0).uniform(0, 255, (3, 256, 256)).astype(np.float32)
    (tmp_path / "ResNet_mean.binaryproto").write_bytes(blob(mean, old=True))
    torch.testing.assert_close(
        255 * read_mean(tmp_path / "ResNet_mean.binaryproto"), torch.from_numpy(mean)
    )
    net = resnets.create_model(SMALL, weights=str(path))
    picture = np.random.default_rng(1).integers(0, 256, (256, 256, 3), np.uint8)
    bgr = picture[16:240, 16:240, ::-1].transpose(2, 0, 1).astype(np.float32)
    expected = torch.from_numpy(bgr - mean[:, 16:240, 16:240])
    torch.testing.assert_close(net.preprocess(picture), expected, atol=1e-3, rtol=0)


def test_mean_pixel_without_a_mean_picture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "resnets")
    path = tmp_path / "model.caffemodel"
    path.write_bytes(caffemodel(random_blobs(SMALL, seed=1, bias=False, factor=1.0)))
    net = resnets.create_model(SMALL, weights=str(path))
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[..., 0] = 200  # red is the last plane there
    found = net.preprocess(picture)[:, 0, 0]
    assert [round(value, 2) for value in found.tolist()] == [-103.06, -115.90, 200 - 123.15]
    assert "the authors' mean pixel" in caplog.text
    assert "the net follows its weights: stem_pool 'ceil'" in caplog.text


def test_damaged_files_are_one_clear_line(tmp_path: Path) -> None:
    whole = caffemodel(random_blobs(SMALL, seed=1, bias=False, factor=1.0))
    path = tmp_path / "cut.caffemodel"
    noise = np.random.default_rng(0)
    cuts = [whole[: len(whole) * share // 20] for share in range(20)]
    cuts += [noise.bytes(length) for length in range(1, 300, 3)]
    for data in cuts:
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=r"cut.caffemodel:") as caught:
            resnets.create_model(SMALL, weights=str(path))
        assert "\n" not in str(caught.value)


def test_blobs_whose_shape_is_not_their_values(tmp_path: Path) -> None:
    path = tmp_path / "wrong.caffemodel"
    shape = chunk(7, chunk(1, varint(4)))
    short = chunk(1, b"conv1") + chunk(7, shape + chunk(5, bytes(12)))
    path.write_bytes(chunk(100, short))
    with pytest.raises(WeightsError, match=r"3 values for a blob of \(4,\)"):
        read_caffemodel(path)
