"""What a file holds beside a network: left out, warned of, or the reason why it is refused."""

import logging
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from weights_state import random_state

import resnets
from resnets.config import ModelSpec
from resnets.models import build
from resnets.weights.create import recognize_weights
from resnets.weights.errors import WeightsError
from resnets.weights.name_maps.maps import build_name_map
from resnets.weights.read import read_path

SPEC = ModelSpec(name="tiny", depths=(1, 1), widths=(4, 8), stem_width=4, num_classes=5)
State = dict[str, Tensor]
WIDTH, CLASSES = 8, 5


@pytest.fixture(scope="module")
def state() -> State:
    """torchvision's names."""
    net = build(SPEC)
    return build_name_map("torchvision", net).to_foreign(random_state(net, seed=1))


def under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def moved(state: State) -> State:
    return {name: t + 0.01 if t.is_floating_point() else t for name, t in state.items()}


def floats(state: State) -> State:
    return {name: t for name, t in state.items() if t.is_floating_point()}


def wrapped(state: State, head: str = "classifier", **beside: Tensor) -> State:
    """A backbone, its head beside it, and more; "__" stands for "." in names."""
    state = {
        (f"{head}.{name[3:]}" if name.startswith("fc.") else f"backbone.{name}"): tensor
        for name, tensor in state.items()
    }
    return state | {name.replace("__", "."): tensor for name, tensor in beside.items()}


def norm(width: int) -> State:
    return dict(torch.nn.BatchNorm1d(width).state_dict())


def linear(inputs: int, outputs: int) -> State:
    return dict(torch.nn.Linear(inputs, outputs).state_dict())


HEADS: dict[str, tuple[Callable[[State], Any], str]] = {
    "a neck": (lambda s: {**wrapped(s), **under("neck.0.", linear(8, 8))}, "neck.0.weight"),
    "a BNNeck": (lambda s: {**wrapped(s), **under("bottleneck.", norm(8))}, "bottleneck.weight"),
    "a layer norm": (lambda s: wrapped(s, "head", norm__weight=torch.ones(8)), "norm.weight"),
    "in the head's module": (
        lambda s: {**wrapped(s, "head.fc"), **under("head.projection.", linear(7, 7))},
        "head.projection.weight",
    ),
    "LoRA": (lambda s: {**s, "fc.lora_A": torch.ones(2, 8), "fc.lora_B": torch.ones(5, 2)}, "lora"),
    "a scale": (lambda s: {**s, "fc.weight_scale": torch.ones(5, 1)}, "fc.weight_scale"),
    "a cosine's scale": (lambda s: {**s, "fc.sigma": torch.ones(1)}, "fc.sigma"),
    "on top": (lambda s: {**under("backbone.", s), **under("top.", linear(5, 2))}, "top.weight"),
    "another head": (lambda s: {**s, **under("rotation.", linear(8, 4))}, "rotation.weight"),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_more_layers_is_not_taken(
    tmp_path: Path, state: State, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make, named = HEADS[name]
    path = tmp_path / "w.pth"
    torch.save(make(state), path)
    found = recognize_weights(read_path(str(path)), SPEC)
    assert found.head_rows is None
    assert named in found.head_note
    assert any(record.levelno == logging.WARNING for record in caplog.records)
    torch.manual_seed(1)  # of the new head
    net = resnets.create_model(SPEC, weights=str(path))
    assert torch.equal(net.stem.conv.weight, state["conv1.weight"])
    assert not torch.equal(net.head.weight, state["fc.weight"])


OWN: dict[str, tuple[Callable[[State], Any], str]] = {
    "constants": (
        lambda s: {
            **under("model.", s),
            "normalize.mean": torch.ones(1, 3, 1, 1),
            "normalize.std": torch.ones(1, 3, 1, 1),
        },
        "normalize.mean",
    ),
    "a norm": (lambda s: {**under("net.", s), **under("input_bn.", norm(3))}, "input_bn"),
    "a convolution": (
        lambda s: {**under("net.", s), "locate.0.weight": torch.ones(4, 3, 5, 5)},
        "locate.0.weight",
    ),
    "attention": (lambda s: {**s, "ca.fc.0.weight": torch.ones(2, 4, 1, 1)}, "ca.fc"),
}


@pytest.mark.parametrize("name", OWN)
def test_layers_before_or_inside_the_network_are_refused(
    tmp_path: Path, state: State, name: str
) -> None:
    make, named = OWN[name]
    content = make(state)
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError) as caught:
        resnets.create_model(SPEC, weights=str(path))
    assert named in str(caught.value)
    part = next(iter(content)).partition(".")[0]
    if part in ("model", "net"):  # the network without them, where the user says so
        net = resnets.create_model(SPEC, weights=f"{path}#{part}")
        assert torch.equal(net.head.weight, state["fc.weight"])


@pytest.mark.parametrize("name", ["temperature", "pool.p", "something.weight"])
def test_what_may_be_part_of_the_network_is_warned_about(
    tmp_path: Path, state: State, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "w.pth"
    torch.save({**under("model.", state), name: torch.ones(1)}, path)
    net = resnets.create_model(SPEC, weights=str(path))
    assert torch.equal(net.head.weight, state["fc.weight"])
    assert [name in r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        True
    ]


TRAINING: dict[str, Callable[[State], Any]] = {
    "losses and metrics": lambda s: {
        **under("model.", s),
        "criterion.weight": torch.ones(5),
        "arc_loss.weight": torch.ones(5, 8),
        "val_acc.confmat": torch.ones(5, 5),
        "metrics.weight": torch.ones(5, 8),
    },
    "an optimizer": lambda s: {
        "model": s,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(5, 8), "step": torch.tensor(1.0)}}},
    },
    "averages": lambda s: {"model": s, "shadow": floats(moved(s)), "n_averaged": torch.tensor(1)},
    "averages of parameters": lambda s: {
        "model": s,
        "copy": {name: t for name, t in floats(moved(s)).items() if "running" not in name},
    },
    "a teacher of another kind": lambda s: {
        **under("student.", s), "teacher.stem.weight": torch.ones(4, 3, 3, 3),
        **under("teacher.fc.", linear(8, 5)),
    },
    "a momentum encoder and a queue": lambda s: {
        **under("encoder_q.", s), **under("encoder_k.", moved(s)), "queue": torch.ones(8, 99),
    },
    "more trained counters in the average": lambda s: {"model": floats(s), "ema": moved(s)},
    "the same under two names": lambda s: {**under("model.", s), **under("compiled.", s)},
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINING)
def test_training_state_is_ignored(
    tmp_path: Path, state: State, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "resnets")
    path = tmp_path / "w.pth"
    torch.save(TRAINING[name](state), path)
    net = resnets.create_model(SPEC, weights=str(path))
    assert torch.equal(net.head.weight, state["fc.weight"])
    assert "ignored" in caplog.text
    assert all(record.levelno == logging.INFO for record in caplog.records)


@pytest.mark.parametrize(
    "names",
    [("last", "best"), ("semantic", "texture"), ("swapped", "plain"), ("source", "target_encoder")],
)
def test_two_networks_of_which_none_is_an_average(tmp_path: Path, state: State, names) -> None:
    path = tmp_path / "w.pth"
    torch.save({names[0]: state, names[1]: floats(moved(state))}, path)
    with pytest.raises(WeightsError, match=f"2 sets of weights, {names[0]}, {names[1]}"):
        resnets.create_model(SPEC, weights=str(path))


def test_two_files_in_one_are_refused(tmp_path: Path, state: State) -> None:
    for name, content in (("a.pth", state), ("b.pth", moved(state))):
        torch.save(content, tmp_path / name)
    with tarfile.open(tmp_path / "two.tar", "w") as archive:
        archive.add(tmp_path / "a.pth", "a.pth")
        archive.add(tmp_path / "b.pth", "b.pth")
    both = (tmp_path / "a.pth").read_bytes() + (tmp_path / "b.pth").read_bytes()
    (tmp_path / "both.pth").write_bytes(both)
    for name in ("two.tar", "both.pth"):
        with pytest.raises(WeightsError, match=name):
            resnets.create_model(SPEC, weights=str(tmp_path / name))


def test_layers_of_keras_between_features_and_outputs(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    spec = ModelSpec(
        name="k", block="bottleneck", depths=(1, 1), widths=(4, 8), stem_width=4, num_classes=5,
        stride_in="1x1", conv_bias="all", norm_eps=1.001e-5,
    )  # fmt: skip
    net = build(spec)
    theirs = build_name_map("keras", net).to_foreign(net.state_dict())
    for name, beside in (("plain", {}), ("norm", {"neck/gamma": 32}), ("dense", {"hid/kernel": 0})):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for full, tensor in theirs.items():
                layer, leaf = full.split("/")
                file[f"{layer}/{layer}/{leaf}:0"] = tensor.numpy()
            for full, width in beside.items():
                layer, leaf = full.split("/")
                value = torch.ones(width) if width else torch.ones(32, 32)
                file[f"{layer}/{layer}/{leaf}:0"] = value.numpy()
        found = recognize_weights(read_path(str(tmp_path / f"{name}.h5")), spec)
        assert (found.head_rows is None) == (name != "plain"), name
        assert all(full in found.head_note for full in beside)
