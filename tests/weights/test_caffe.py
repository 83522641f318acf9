"""The authors' Caffe models: their files read, their names written, the same logits."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from caffe_model import Blobs, blob, caffemodel, chunk, random_blobs, run, varint
from encode_weights import encoded
from weights_state import SMALL, assert_same, logits, random_images, random_state

import resnets
from resnets.config import ModelSpec
from resnets.models import build, catalog
from resnets.weights.errors import WeightsError
from resnets.weights.name_maps.maps import build_name_map
from resnets.weights.readers.caffe import read_caffemodel, read_mean

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
    images = random_images()
    assert_same(logits(ours, images), run(blobs, spec, images))


@pytest.mark.parametrize(("depths", "bias"), [(FIFTY.depths, True), (SMALL.depths, False)])
def test_ours_as_their_blobs(depths: tuple[int, ...], bias: bool) -> None:
    spec = dataclasses.replace(
        SMALL, depths=depths, stem_pool="ceil", conv_bias="stem" if bias else "none"
    )
    ours = build(spec)
    ours.load_state_dict(random_state(ours, seed=2))
    named = encoded(build_name_map("caffe", ours), ours.state_dict())
    blobs: Blobs = {}
    for name in sorted(named):
        blobs.setdefault(name.partition("/")[0], []).append(named[name].numpy())
    images = random_images()
    assert_same(run(blobs, spec, images), logits(ours, images))


def test_the_round_trip_is_exact(tmp_path: Path) -> None:
    """Through the names of ResNet-50, 101 and 152, at their real depths, tensor by tensor."""
    for depth in (50, 101, 152):
        spec = dataclasses.replace(
            SMALL, depths=catalog.spec(f"resnet{depth}").depths, conv_bias="stem"
        )
        ours = build(spec)
        state = random_state(ours, seed=depth)
        names = build_name_map("caffe", ours)
        there = encoded(names, state)
        numbered = {50: "res4f_branch2c/0", 101: "res4b22_branch2c/0", 152: "res3b7_branch2c/0"}
        assert numbered[depth] in there
        back = names.to_own(there)
        assert all(torch.equal(back[k], v) for k, v in state.items() if "num_batches" not in k)


def test_a_factor_of_zero_means_statistics_of_zero() -> None:
    ours = build(SMALL)
    names = build_name_map("caffe", ours)
    there = encoded(names, ours.state_dict()) | {"bn_conv1/2": torch.zeros(1)}
    assert not names.to_own(there)["stem.norm.running_var"].any()


def test_mean_image_next_to_the_model(tmp_path: Path) -> None:
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


def test_mean_pixel_without_a_mean_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "resnets")
    path = tmp_path / "model.caffemodel"
    path.write_bytes(caffemodel(random_blobs(SMALL, seed=1, bias=False, factor=1.0)))
    net = resnets.create_model(SMALL, weights=str(path))
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[..., 0] = 200  # red is the last plane there
    found = net.preprocess(picture)[:, 0, 0]
    assert [round(value, 2) for value in found.tolist()] == [-103.06, -115.90, 200 - 123.15]
    assert "the authors' mean pixel" in caplog.text
    assert "model adapted to its weights: stem_pool 'ceil'" in caplog.text


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
