"""Fields of a network that its tensors do not show: named where they are assumed, else refused."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from weights_state import random_state

import resnets
from resnets.config import ConfigError, ModelSpec
from resnets.models import ImageClassifier, build, catalog
from resnets.weights.check_values import _fields_without_tensors

BASIC = replace(catalog.spec("cifar-resnet8"), num_classes=3)
BOTTLENECK = replace(
    BASIC, block="bottleneck", stem="imagenet", shortcut="B", norm="group+ws", norm_groups=4,
    input_size=64,
)  # fmt: skip
# Pairs of networks with the same names and shapes of tensors and different outputs.
DIFFERENCES: list[tuple[ModelSpec, dict[str, Any]]] = [
    (BASIC, {"block": "relu-before-add-basic"}),
    (BASIC, {"shortcut": "none"}),
    (BASIC, {"shortcut_scale": 0.5}),
    (BASIC, {"branch_scale": 0.5}),
    (BASIC, {"branch_scale": "rsqrt-depth"}),
    (BASIC, {"norm_eps": 1e-2}),
    (BASIC, {"activation": "gelu"}),
    (BASIC, {"head_pool": "max"}),
    (BASIC, {"logit_scale": 0.125}),
    (BASIC, {"blur_pool": True}),
    (BASIC, {"dilate": 1}),
    (replace(BASIC, shortcut_gate="exclusive"), {"shortcut_gate": "shortcut-only"}),
    (BOTTLENECK, {"stride_in": "1x1"}),
    (BOTTLENECK, {"stem_pool": "ceil"}),
    (BOTTLENECK, {"shortcut_pool": "average"}),
    (BOTTLENECK, {"norm_groups": 8}),
    (replace(catalog.spec("cifar-speedrun"), widths=(8, 8, 8)), {"shortcut": "none"}),
]
# Weights that state their network bring these, or may be trained further with them.
ADOPTED = ("norm_eps", "stride_in", "stem_pool", "shortcut_pool", "blur_pool", "dilate")


def random_net(spec: ModelSpec) -> ImageClassifier:
    net = build(spec)
    net.load_state_dict(random_state(net, seed=1))
    return net.eval()


@pytest.mark.parametrize(
    ("spec", "other"), DIFFERENCES, ids=["-".join(map(str, each)) for _, each in DIFFERENCES]
)
def test_a_field_without_a_tensor_is_named_or_refused(
    spec: ModelSpec, other: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ((field, value),) = other.items()
    net, changed = random_net(spec), replace(spec, **other)
    plain = tmp_path / "plain.safetensors"
    save_file(net.state_dict(), plain)
    with caplog.at_level(logging.WARNING, "resnets"):
        loaded = resnets.create_model(changed, weights=str(plain)).eval()
    assert field in _fields_without_tensors(changed)
    assert f"{field} {value!r}" in caplog.text
    x = torch.rand(2, 3, spec.input_size, spec.input_size)
    assert not torch.allclose(net(x), loaded(x), rtol=1e-4)
    net.save(tmp_path / "saved")
    if field not in ADOPTED:
        with pytest.raises(ConfigError, match=field):
            resnets.create_model(changed, weights=str(tmp_path / "saved"))
        return
    caplog.clear()
    resnets.create_model(changed, weights=str(tmp_path / "saved"))
    assert "does not specify" not in caplog.text


def test_a_file_that_names_its_architecture_states_these_fields(tmp_path: Path) -> None:
    state = random_net(BASIC).state_dict()
    torch.save({"state_dict": state, "arch": "cifar_resnet8"}, tmp_path / "stated.pth")
    weights = str(tmp_path / "stated.pth")
    resnets.create_model(BASIC, weights=weights)
    with pytest.raises(ConfigError, match="activation"):
        resnets.create_model(replace(BASIC, activation="gelu"), weights=weights)


def test_a_module_for_a_run_is_of_its_network(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = resnets.train("digits", iterations=1, model="cifar-resnet8", out=out, quiet=True)
    spec = resnets.load(run).spec
    resnets.load(run, model=build(spec))
    with pytest.raises(ConfigError, match="activation"):
        resnets.load(run, model=build(replace(spec, activation="gelu")))
    with pytest.raises(ConfigError, match="activation"):
        resnets.train(
            out=out, resume=True, iterations=2, model=build(replace(spec, activation="gelu"))
        )
