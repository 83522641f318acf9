"""Training from known weights keeps their preprocessing and the details of their net."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from caffe_model import caffemodel, random_blobs
from PIL import Image
from weights_state import SMALL

import resnets
from resnets.config import DataSpec, OptimSpec, Recipe, from_toml
from resnets.train.run import run_training
from resnets.weights.errors import WeightsError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve noisy images of each of two colours."""
    draw = np.random.default_rng(0)
    for name, plane in (("red", 0), ("blue", 2)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(12):
            pixels = draw.integers(0, 80, (40, 40, 3), np.uint8)
            pixels[..., plane] += 150
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    return tmp_path / "data"


def recipe(folder: Path, weights: Path) -> Recipe:
    return Recipe(
        model=dataclasses.replace(SMALL, stride_in="3x3"),
        data=DataSpec(source=str(folder), size=32, resize=36, normalize="channel"),
        optim=OptimSpec(lr=0.0),
        duration="2it",
        batch_size=4,
        precision="float32",
        weights=str(weights),
    )


def test_a_run_from_the_authors_weights(folder: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model.caffemodel"
    blobs = random_blobs(SMALL, seed=1, bias=False, factor=1.0)
    weights.write_bytes(caffemodel(blobs))
    out = tmp_path / "run"
    result = run_training(recipe(folder, weights), out, device="cpu", quiet=True)
    assert result["test"]["examples"] > 0

    net = resnets.load(out)
    seen = net.preprocess.spec
    assert (seen.size, seen.resize, seen.channel_order) == (32, 36, "bgr")
    assert seen.mean[0] == pytest.approx(103.0626 / 255)
    assert (net.spec.stride_in, net.spec.stem_pool, net.spec.num_classes) == ("1x1", "ceil", 2)
    assert net.classes == ("blue", "red")
    # With a learning rate of zero, what was loaded is still there.
    first = net.get_submodule("stem.conv").weight
    assert torch.equal(first, torch.from_numpy(blobs["conv1"][0]))
    assert from_toml(out / "recipe.toml").model == net.spec
    assert json.loads((out / "result.json").read_text())["model"] == "small"


def test_missing_weights_leave_nothing_behind(folder: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pth"
    torch.save({"encoder.weight": torch.zeros(2)}, wrong)
    with pytest.raises(WeightsError, match=r"1.*\(encoder.weight\)"):
        run_training(recipe(folder, wrong), tmp_path / "run", device="cpu", quiet=True)
    assert not (tmp_path / "run").exists()
