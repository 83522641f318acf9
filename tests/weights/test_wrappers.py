"""One network as training scripts, wrappers and libraries save it: read, or refused by name."""

import argparse
import collections
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import resnets
from resnets.config import ConfigError, ModelSpec
from resnets.data.files.pickle_machine import PickleError
from resnets.models import build
from resnets.weights.errors import WeightsError
from resnets.weights.name_maps.maps import build_name_map
from resnets.weights.readers.torch_file import VOCABULARY, Storage, read_pickled

TINY = ModelSpec(name="tiny", depths=(1, 1), widths=(4, 8), stem_width=4, num_classes=3)
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def net() -> resnets.models.ImageClassifier:
    torch.manual_seed(0)
    return build(TINY)


@pytest.fixture(scope="module")
def state(net) -> State:
    """torchvision's names."""
    return build_name_map("torchvision", net).to_foreign(net.state_dict())


def under(prefix: str, state: State) -> State:
    return collections.OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def moved(state: State) -> State:
    """An average of the same shape."""
    return {name: t + 0.01 if t.is_floating_point() else t for name, t in state.items()}


def sequential(state: State) -> State:
    """nn.Sequential(*net.children()) of a net of two stages."""
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "fc": "7"}
    renamed = {}
    for name, tensor in state.items():
        first, _, rest = name.partition(".")
        renamed[f"{numbers[first]}.{rest}"] = tensor
    return renamed


def moco(state: State) -> State:
    return under("module.encoder_q.", state) | under("module.encoder_k.", moved(state))


WRAPPED: dict[str, Callable[[State], Any]] = {
    "compiled": lambda s: under("model._orig_mod.", s),
    "compiled and parallel": lambda s: under("_orig_mod.module.", s),
    "three deep": lambda s: {"state_dict": under("module.model.net.", s)},
    "a name of nobody's": lambda s: under("my_best_classifier_v3.body.", s),
    "encoder": lambda s: under("encoder.", s),
    "moco": moco,
    "dino": lambda s: {"student": under("backbone.", s), "teacher": under("backbone.", moved(s))},
    "nested": lambda s: {"checkpoint": {"trainer": {"weights": s}}},
    "model_state": lambda s: {"model_state": s},
    "params": lambda s: {"params": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "ema alone": lambda s: {"ema": s},
    "ema beside": lambda s: {
        "state_dict": s, "state_dict_ema": moved(s), "args": argparse.Namespace(), "version": 2,
    },
    "torchvision's": lambda s: {
        "model": s,
        "model_ema": {"n_averaged": torch.tensor(3), **under("module.", moved(s))},
    },
    "loss and metrics": lambda s: {
        "state_dict": {
            **under("model.", s), "criterion.weight": torch.ones(3), "acc.tp": torch.ones(3),
        },
    },
    "numpy numbers": lambda s: {"state_dict": s, "best": np.float32(3), "epoch": np.int64(2)},
    "containers": lambda s: {
        "state_dict": s,
        "milestones": collections.Counter([3, 3]),
        "seen": {"a", "b"},
        "size": torch.Size([1, 2]),
        "logs": collections.defaultdict(list, loss=[1.0]),
    },
    "sequential": sequential,
    "sequential in a wrapper": lambda s: under("net.0.", sequential(s)),
    "head in a sequential": lambda s: {
        (f"fc.1.{n[3:]}" if n.startswith("fc.") else n): t for n, t in s.items()
    },
    "head beside a backbone": lambda s: {
        "state_dict": {
            (f"classifier.{n[3:]}" if n.startswith("fc.") else f"backbone.{n}"): t
            for n, t in s.items()
        }
    },
    "mmpretrain": lambda s: {
        "meta": {"epoch": 3},
        "state_dict": {
            (f"head.{n}" if n.startswith("fc.") else f"backbone.{n}"): t for n, t in s.items()
        },
    },
    "half": lambda s: {n: t.half() if t.is_floating_point() else t for n, t in s.items()},
    "parameters": lambda s: {n: nn.Parameter(t, t.is_floating_point()) for n, t in s.items()},
}  # fmt: skip


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", WRAPPED)
def test_the_network_is_found(tmp_path: Path, net, state: State, name: str, old: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save(WRAPPED[name](state), path, _use_new_zipfile_serialization=not old)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = resnets.create_model(TINY, weights=str(path))
    for key, value in net.state_dict().items():
        expected = value.half().float() if name == "half" and value.is_floating_point() else value
        assert torch.equal(found.state_dict()[key], expected), key


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("moco", "module.encoder_k"),
        ("dino", "teacher"),
        ("ema beside", "state_dict_ema"),
        ("torchvision's", "model_ema"),
    ],
)
def test_another_copy_is_reported_and_can_be_chosen(
    tmp_path: Path, net, state: State, name: str, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "resnets")
    path = tmp_path / "weights.pth"
    torch.save(WRAPPED[name](state), path)
    resnets.create_model(TINY, weights=str(path))
    assert f"{path}#{part}" in caplog.text
    found = resnets.create_model(TINY, weights=f"{path}#{part}")
    assert torch.equal(found.head.bias, net.head.bias + 0.01)
    with pytest.raises(WeightsError, match="'other'"):
        resnets.create_model(TINY, weights=f"{path}#other")


def test_two_equal_copies_are_not_chosen_from(tmp_path: Path, state: State) -> None:
    path = tmp_path / "weights.pth"
    torch.save({**under("left.", state), **under("right.", moved(state))}, path)
    with pytest.raises(WeightsError, match="2 sets of weights, left, right"):
        resnets.create_model(TINY, weights=str(path))
    resnets.create_model(TINY, weights=f"{path}#right")


def test_ignored_tensors_are_reported(
    tmp_path: Path, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "resnets")
    path = tmp_path / "weights.pth"
    torch.save(WRAPPED["loss and metrics"](state), path)
    resnets.create_model(TINY, weights=str(path))
    assert "2 tensors" in caplog.text
    assert "criterion.weight" in caplog.text


def more_layers(state: State) -> State:
    return {**state, "layer1.1.conv1.weight": torch.zeros(4, 4, 3, 3)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (more_layers, "layer1.1.conv1.weight"),  # deeper
        (lambda s: {**s, "layer1.0.se.fc1.weight": torch.zeros(1, 4)}, "layer1.0.se"),  # SE-ResNet
        (lambda s: {**s, "conv2.weight": torch.zeros(4, 4, 3, 3)}, "conv2"),  # a deep stem
        (lambda s: {n: t for n, t in s.items() if n != "bn1.bias"}, "bn1.bias"),
        (lambda s: {**s, "bn1.bias": s["bn1.bias"].to(torch.int8)}, "norm.bias"),
        (lambda s: {**s, "bn1.bias": s["bn1.bias"].to(torch.complex64)}, "bn1.bias"),
        (lambda s: {**s, "fc.weight": torch.zeros(1, 1).expand(3, 1 << 40)}, "fc.weight"),
    ],
)
def test_other_networks_are_refused_by_tensor(tmp_path: Path, state: State, change, named) -> None:
    path = tmp_path / "weights.pth"
    torch.save(change(state), path)
    with pytest.raises(WeightsError) as caught:
        resnets.create_model(TINY, weights=str(path))
    assert named in str(caught.value)


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (Module(), "Module"),
        ({"model": Module(), "epoch": 3}, "Module"),
        ({"state_dict": {}, "hparams": {"data": Path("/data")}}, "Path"),
        ([torch.zeros(3), torch.zeros(2)], "2 tensors without names"),
        (torch.zeros(3), "tensor without a name"),
        ({"epoch": 3}, "epoch"),
        (3, "int"),
    ],
)
def test_what_is_not_a_state_dict_is_refused_by_class(tmp_path: Path, content, named: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(WeightsError) as caught:
            resnets.create_model(TINY, weights=str(path))
    message = str(caught.value)
    assert named in message
    assert message.isprintable()
    assert "Module" not in named or "state_dict()" in message


def test_a_program_of_torchscript_says_how_to_get_its_tensors(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "script.pt"))
    with pytest.raises(WeightsError, match="state_dict"):
        resnets.create_model(TINY, weights=str(tmp_path / "script.pt"))


def test_a_head_of_several_layers_is_new_or_refused(tmp_path: Path, state: State) -> None:
    path = tmp_path / "weights.pth"
    body = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    layers = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 3))
    torch.save({**body, **under("fc.", layers.state_dict())}, path)
    resnets.create_model(TINY, weights=str(path))
    with pytest.raises(WeightsError, match=r"fc\.0, fc\.3"):
        resnets.load(path, model="resnet18")  # refused whatever the network


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("DEFAULT", "torchvision:DEFAULT"),
        ("IMAGENET1K_V1", "torchvision:IMAGENET1K_V1"),
        ("ResNet18_Weights.DEFAULT", "torchvision:DEFAULT"),
        ("imagenet", "torchvision:DEFAULT"),
        ("resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        ("a1_in1k", "timm:resnet18.a1_in1k"),
        ("microsoft/resnet-18", "hub:microsoft/resnet-18"),
    ],
)
def test_names_of_published_weights_are_hinted_at(said: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {meant}"):
        resnets.create_model("resnet18", weights=said)


def test_copies_that_only_their_names_tell_apart(
    tmp_path: Path, net, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    """BYOL, momentum encoders: the trained one is taken."""
    path = tmp_path / "weights.pth"
    for trained, target in (("online_encoder", "target_encoder"), ("base", "momentum_base")):
        content = under(f"{trained}.net.", state) | under(f"{target}.net.", moved(state))
        torch.save(content, path)
        found = resnets.create_model(TINY, weights=str(path))
        assert torch.equal(found.head.bias, net.head.bias)


def test_a_head_without_a_bias_has_a_bias_of_zero(
    tmp_path: Path, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "resnets")
    path = tmp_path / "weights.pth"
    torch.save({name: tensor for name, tensor in state.items() if name != "fc.bias"}, path)
    found = resnets.create_model(TINY, weights=str(path))
    assert torch.equal(found.head.weight, state["fc.weight"])
    assert not found.head.bias.any()
    assert "no bias" in caplog.text


def test_eight_bit_floats_are_refused(tmp_path: Path, state: State) -> None:
    path = tmp_path / "weights.pth"
    torch.save({**state, "fc.weight": state["fc.weight"].to(torch.float8_e4m3fn)}, path)
    with pytest.raises(WeightsError, match="fc.weight.*torch.float8"):
        resnets.create_model(TINY, weights=str(path))


def test_names_in_messages_are_printable(tmp_path: Path, state: State) -> None:
    path = tmp_path / "weights.pth"
    torch.save({**state, "layer1.\x1b[31m\n": torch.zeros(1)}, path)
    with pytest.raises(WeightsError) as caught:
        resnets.create_model(TINY, weights=str(path))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_bits_of_lazy_negation_and_conjugation(tmp_path: Path, legacy: bool) -> None:
    plain, other, third = torch.randn(3, 3, 4, dtype=torch.complex64).unbind()
    tensors = {
        "neg": plain.clone().conj().imag,
        "conj": other.clone().conj(),
        "both": torch._neg_view(third.clone().conj()),
    }
    assert (tensors["neg"].is_neg(), tensors["conj"].is_conj()) == (True, True)
    torch.save(tensors, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    found = read_pickled(tmp_path / "w.pth")
    for name, tensor in tensors.items():
        assert torch.equal(found[name].read(), tensor)


def test_a_bit_of_a_tensor_that_is_not_known_is_refused() -> None:
    storage = Storage(torch.float32, 16, lambda start, count: bytes(count))
    with pytest.raises(PickleError, match="sparse_bit"):
        VOCABULARY["torch._utils._rebuild_tensor_v2"].function(
            storage, 0, (4,), (1,), False, {}, {"sparse_bit": True}
        )
