"""LAMB against timm's, groups of rates, and saving and loading the state of every optimizer."""

import copy

import pytest
import torch
from torch import Tensor, nn

from resnets.config import ConfigError, FinetuneSpec, ModelSpec, OptimSpec
from resnets.models import build
from resnets.train.optim.freeze import FreezeSchedule
from resnets.train.optim.optimizers import (
    Lamb,
    load_state_tensors,
    make_optimizer,
    set_lr,
    state_tensors,
)

SPEC = ModelSpec(name="tiny", depths=(1, 1), widths=(4, 8), stem="cifar", stem_width=4)


def tiny() -> nn.Module:
    torch.manual_seed(0)
    net = build(SPEC)
    nn.init.zeros_(net.head.bias)  # a tensor of norm 0, which trust must survive
    return net


def optimizer(net: nn.Module, spec: OptimSpec) -> torch.optim.Optimizer:
    return make_optimizer(net, spec, FreezeSchedule(net, FinetuneSpec(), 10).lr_scales())


def gradients(net: nn.Module, step: int) -> None:
    """Fixed random gradients, the same for every net of this shape; one tensor has none."""
    for number, parameter in enumerate(net.parameters()):
        generator = torch.Generator().manual_seed(1000 * step + number)
        scale = 10.0 ** (number % 4 - 2)
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    net.stem.conv.weight.grad = None


def test_lamb_equals_timm() -> None:
    timm = pytest.importorskip("timm.optim")
    ours, theirs = tiny(), tiny()
    spec = OptimSpec(
        kind="lamb", lr=0.02, betas=(0.85, 0.99), weight_decay=0.03, decay_norm_and_bias=False
    )
    mine = optimizer(ours, spec)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.03},
        {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    other = timm.Lamb(groups, lr=0.02, betas=(0.85, 0.99), max_grad_norm=None)
    for step in range(6):
        set_lr(mine, 0.02 / (1 + step))
        for group in other.param_groups:
            group["lr"] = 0.02 / (1 + step)
        gradients(ours, step)
        gradients(theirs, step)
        mine.step()
        other.step()
    for (name, one), two in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(
            one, two, rtol=2e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_trust_makes_the_first_step_a_share_of_the_weights() -> None:
    """You et al. 2020, algorithm 2: every decaying tensor moves by lr times its own norm."""
    weight = nn.Parameter(torch.randn(5, 7, generator=torch.Generator().manual_seed(0)))
    before = weight.detach().clone()
    lamb = Lamb([{"params": [weight], "weight_decay": 0.1}], lr=0.01)
    weight.grad = 1e6 * torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    lamb.step()
    assert (weight - before).norm().item() == pytest.approx(0.01 * before.norm().item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["sgd", "adamw", "lamb", "muon"])
def test_the_round_trip_of_the_state_is_exact(kind: str) -> None:
    spec = OptimSpec(kind=kind, lr=0.01, betas=(0.8, 0.95))
    net = tiny()
    first = optimizer(net, spec)
    for step in range(3):
        gradients(net, step)
        first.step()
    other = copy.deepcopy(net)
    second = optimizer(other, spec)
    stored = {name: tensor.clone() for name, tensor in state_tensors(net, first).items()}
    load_state_tensors(other, second, stored)
    for step in range(3, 5):
        for one, optim in ((net, first), (other, second)):
            gradients(one, step)
            optim.step()
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("kind", ["adamw", "lamb"])
def test_betas_reach_the_optimizer(kind: str) -> None:
    made = optimizer(tiny(), OptimSpec(kind=kind, betas=(0.7, 0.9)))
    assert all(group["betas"] == (0.7, 0.9) for group in made.param_groups)
    with pytest.raises(ConfigError, match=r"optim\.betas"):
        OptimSpec(betas=(0.9, 1.0))


def test_default_groups_are_all_weights_in_order() -> None:
    net = tiny()
    groups = optimizer(net, OptimSpec()).param_groups
    assert len(groups) == 1
    assert [id(p) for p in groups[0]["params"]] == [id(p) for p in net.parameters()]


def test_rates_scale_the_schedule() -> None:
    net = tiny()
    made = make_optimizer(
        net, OptimSpec(), FreezeSchedule(net, FinetuneSpec(layer_decay=0.5), 10).lr_scales()
    )
    set_lr(made, 0.4)
    rates: dict[Tensor, float] = {
        parameter: group["lr"] for group in made.param_groups for parameter in group["params"]
    }
    assert made.param_groups[0]["lr"] == pytest.approx(0.4)
    assert rates[net.head.weight] == pytest.approx(0.4)
    assert rates[net.get_submodule("stage2.0.conv1").weight] == pytest.approx(0.2)
    assert rates[net.get_submodule("stage1.0.norm1").bias] == pytest.approx(0.1)
    assert rates[net.stem.conv.weight] == pytest.approx(0.05)
