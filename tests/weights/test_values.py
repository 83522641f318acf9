"""Values that no trained network has, in files that fit: refused, or warned of."""

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from weights_state import random_state

import resnets
from resnets.cli.main import main
from resnets.models import build, catalog
from resnets.train.guards.divergence import Diverged
from resnets.weights.errors import WeightsError

NET = "cifar-resnet8"
CLASSES = "ant,bee,cat"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(resnets.create_model(NET, num_classes=3), seed=1)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[State], Path]:
    def write(state: State) -> Path:
        torch.save(state, tmp_path / "w.pth")
        return tmp_path / "w.pth"

    return write


def having(state: State, part: str, change: Callable[[Tensor], Tensor]) -> State:
    return {name: change(each) if part in name else each for name, each in state.items()}


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    return " ".join(r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)


REFUSED: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "a negative variance": ("stage1.0.norm1.running_var", lambda each: -each),
    "one negative variance": ("stem.norm.running_var", lambda each: each - each.min() - 1e-3),
    "variances of zero": ("running_var", torch.zeros_like),
    "a NaN": ("head.bias", lambda each: each / 0 * 0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_no_network_has_are_refused(state: State, file, name: str) -> None:
    part, change = REFUSED[name]
    path = file(having(state, part, change))
    for use in (
        lambda: resnets.load(path, model=NET, classes=CLASSES),
        lambda: resnets.create_model(NET, num_classes=3, weights=str(path)),
    ):
        with pytest.raises(WeightsError, match=r"w\.pth"):
            use()


def test_plain_weights_are_not_warned_of(state: State, file, caplog) -> None:
    resnets.load(file(state), model=NET, classes=CLASSES)
    assert "zeros" not in warnings(caplog)
    assert "variance" not in warnings(caplog)


@pytest.mark.parametrize("part", ["stem.conv.weight", "head.weight", "stage3", "weight"])
def test_tensors_of_zeros_are_named(state: State, file, caplog, part: str) -> None:
    zeros = having(state, part, lambda each: each if each.dim() == 0 else torch.zeros_like(each))
    zeros = {name: each if "var" not in name else state[name] for name, each in zeros.items()}
    resnets.load(file(zeros), model=NET, classes=CLASSES)
    first = next(name for name, each in state.items() if part in name and each.dim() > 1)
    assert first in warnings(caplog)


def test_last_norms_and_biases_may_be_zero(state: State, file, caplog) -> None:
    zeros = having(having(state, "norm2.weight", torch.zeros_like), "bias", torch.zeros_like)
    resnets.load(file(zeros), model=NET, classes=CLASSES)
    assert "zeros" not in warnings(caplog)


def test_norms_that_have_seen_no_image(state: State, file, caplog) -> None:
    fresh = having(having(state, "running_mean", torch.zeros_like), "running_var", torch.ones_like)
    fresh = having(fresh, "num_batches", torch.zeros_like)
    resnets.load(file(fresh), model=NET, classes=CLASSES)
    assert "all of its 7 norms" in warnings(caplog)
    caplog.clear()
    some = {name: fresh[name] if "stage2.0.norm1" in name else each for name, each in state.items()}
    resnets.create_model(NET, num_classes=3, weights=str(file(some)))
    assert "stage2.0.norm1" in warnings(caplog)
    caplog.clear()
    model = resnets.create_model(NET, num_classes=3)
    averaged = torch.optim.swa_utils.AveragedModel(model)  # update_bn is forgotten
    resnets.load(file(averaged.state_dict()), model=NET, classes=CLASSES)
    assert "norms" in warnings(caplog)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for name in ("ant", "bee", "cat"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(8):
            pixels = draw.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{index}.png")
    return tmp_path / "images"


@pytest.fixture
def overflowing(state: State, file) -> Path:
    """Finite values whose outputs are not."""
    return file(having(state, "conv1.weight", lambda each: each * 3e38))


def test_predict_refuses_outputs_that_are_not_finite(
    overflowing: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [str(overflowing), str(images / "ant"), "--model", NET, "--classes", CLASSES]
    said += ["--backend", "torch", "--precision", "float32"]
    assert main(["predict", *said, "--json"]) == 1
    rows = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert len(rows) == 8
    assert all("not finite" in row["error"] and not row["predictions"] for row in rows)
    assert main(["predict", *said, "--csv"]) == 1
    assert "nan" not in capsys.readouterr().out


def test_bulk_and_features_write_no_nan(
    overflowing: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bulk"
    said = ["--data", str(images), "--out", str(out), "--format", "csv", "--classes", CLASSES]
    said += ["--model", NET, "--backend", "torch", "--precision", "float32"]
    main(["predict", str(overflowing), *said])
    rows = [row for part in sorted(out.glob("part*.csv")) for row in csv.DictReader(part.open())]
    assert len(rows) == 24
    assert all("not finite" in row["error"] for row in rows)
    assert json.loads((out / "_summary.json").read_text())["unreadable"] == 24
    table = tmp_path / "rows.parquet"
    code = main(["features", str(overflowing), str(images), "--model", NET, "--out", str(table)])
    assert code != 0
    assert not table.exists()
    assert "not finite" in capsys.readouterr().err


def test_fine_tuning_that_cannot_be_measured_stops(
    state: State, file, images: Path, tmp_path: Path
) -> None:
    """Statistics count in eval mode alone: the training loss stays what it should be."""
    from resnets.config import DataSpec, OptimSpec, Recipe
    from resnets.train.run import run_training

    weights = file(having(state, "running_mean", lambda each: each * 0 - 3e38))
    data = DataSpec(source=str(images), size=32, resize=32)
    recipe = Recipe(
        model=catalog.spec(NET), data=data, optim=OptimSpec(lr=0.0), duration="2it", batch_size=4,
        precision="float32", weights=str(weights),
    )  # fmt: skip
    with pytest.raises(Diverged, match="val"):
        run_training(recipe, tmp_path / "run", device="cpu", quiet=True)


@pytest.mark.parametrize(
    "name", ["vgg11", "vgg11-bn", pytest.param("cifar-resnet20", marks=pytest.mark.ci)]
)
def test_every_format_is_recognized_in_a_file(tmp_path: Path, name: str, caplog) -> None:
    """By its names alone, which is what a file shows before its tensors are read."""
    from encode_weights import ENCODERS, encoded

    from resnets.models.cost import shapes_only
    from resnets.weights.lazy_tensors import LazyTensor
    from resnets.weights.name_maps.maps import list_name_maps
    from resnets.weights.name_maps.matching_models import find_matching_models

    with shapes_only():
        net = build(catalog.spec(name))
    for names in list_name_maps(net)[1:]:
        if names.format.name not in ENCODERS and names.format.decode is not dict:
            continue  # its layout is not written here
        theirs = encoded(names, net.state_dict())
        contents = {
            each: LazyTensor(tuple(tensor.shape), lambda tensor=tensor: tensor)
            for each, tensor in theirs.items()
        }
        assert any(fit in name or name in fit for fit in find_matching_models(contents)), (
            names.format.name
        )
