"""Muon against torch's, which takes matrices only, and which parameters it orthogonalizes."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import resnets
from resnets.config import ConfigError, FinetuneSpec, ModelSpec, OptimSpec
from resnets.models import build
from resnets.train.optim.freeze import FreezeSchedule
from resnets.train.optim.muon import Muon, orthogonalize
from resnets.train.optim.optimizers import make_optimizer, schedule_lr, set_lr

SPEC = ModelSpec(name="tiny", depths=(1, 1), widths=(4, 8), stem="cifar", stem_width=4)


def optimizer(net: nn.Module, spec: OptimSpec) -> torch.optim.Optimizer:
    return make_optimizer(net, spec, FreezeSchedule(net, FinetuneSpec(), 10).lr_scales())


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (16, 16)])
@pytest.mark.parametrize("nesterov", [True, False])
def test_matrices_as_torch_updates_them(shape: tuple[int, int], nesterov: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=draw)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    options = {"lr": 0.1, "momentum": 0.8, "nesterov": nesterov, "weight_decay": 0.05}
    mine = Muon([{"params": [ours], "orthogonalize": True}], **options)
    other = torch.optim.Muon([theirs], **options)
    for _ in range(4):
        gradient = torch.randn(shape, generator=draw)
        # torch mixes the gradient in by 1 - momentum, which scales all sums alike.
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        other.step()
    moved = (ours - start).norm()
    assert moved > 0.1
    assert (ours - theirs).norm() < 0.02 * moved  # torch computes in bfloat16


def test_updates_are_nearly_orthogonal_for_any_gradient() -> None:
    draw = torch.Generator().manual_seed(1)
    updates = [torch.randn(8, 4, 3, 3, generator=draw) * scale for scale in (1e-6, 1.0, 1e4)]
    updates.append(torch.randn(12, 3, generator=draw))
    for result, update in zip(orthogonalize(updates), updates, strict=True):
        assert result.shape == update.shape
        assert result.stride() == update.stride()
        matrix = result.flatten(1) / max(1, len(update) / update[0].numel()) ** 0.5
        values = torch.linalg.svdvals(matrix)
        assert 0.5 < values.min() <= values.max() < 1.4


def test_unit_filters_keep_the_norm_of_orthogonalized_weights() -> None:
    draw = torch.Generator().manual_seed(2)
    weights = [nn.Parameter(5 * torch.randn(8, 3, 3, 3, generator=draw)) for _ in range(2)]
    made = Muon(
        [{"params": weights[:1], "orthogonalize": True}, {"params": weights[1:]}],
        lr=0.01,
        weight_decay=0.5,
        unit_filters=True,
    )
    plain = weights[1].detach().clone()
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=draw)
        made.step()
    filters = weights[0].detach().flatten(1).norm(dim=1)
    assert filters.square().mean().sqrt() == pytest.approx(1, abs=0.02)
    assert not torch.equal(weights[1], plain)
    assert weights[1].detach().flatten(1).norm(dim=1).mean() > 10  # only its updates changed it


def test_unit_filters_leave_zero_weights_finite() -> None:
    weight = nn.Parameter(torch.zeros(4, 3, 3, 3))
    weight.grad = torch.ones_like(weight)
    Muon([{"params": [weight], "orthogonalize": True}], unit_filters=True).step()
    assert weight.isfinite().all()
    assert weight.abs().max() > 0


def test_zero_gradients_change_nothing() -> None:
    (result,) = orthogonalize([torch.zeros(5, 7)])
    assert torch.equal(result, torch.zeros(5, 7))


def test_hidden_convolutions_are_orthogonalized_and_the_rest_is_not() -> None:
    net = build(SPEC)
    made = optimizer(net, OptimSpec(kind="muon", head_lr_scale=3.0, norm_bias_lr_scale=0.25))
    names = {parameter: name for name, parameter in net.named_parameters()}
    groups = {
        names[parameter]: group for group in made.param_groups for parameter in group["params"]
    }
    assert groups.keys() == set(names.values())
    orthogonal = {name for name, group in groups.items() if group["orthogonalize"]}
    assert orthogonal == {
        name
        for name, parameter in net.named_parameters()
        if parameter.ndim == 4 and name != "stem.conv.weight"
    }
    set_lr(made, 0.4)
    assert schedule_lr(made) == 0.4
    rates = {name: group["lr"] for name, group in groups.items()}
    assert rates["head.weight"] == rates["head.bias"] == pytest.approx(1.2)
    assert rates["stage1.0.norm1.weight"] == pytest.approx(0.1)
    assert rates["stem.conv.weight"] == rates["stage2.0.conv2.weight"] == pytest.approx(0.4)


@pytest.mark.parametrize("field", ["head_lr_scale", "norm_bias_lr_scale"])
def test_a_negative_scale_is_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        OptimSpec(**{field: -1.0})


def test_scales_apply_to_every_optimizer() -> None:
    net = build(SPEC)
    made = optimizer(net, OptimSpec(head_lr_scale=2.0))
    set_lr(made, 0.1)
    rates = {each: group["lr"] for group in made.param_groups for each in group["params"]}
    assert rates[net.head.weight] == pytest.approx(0.2)
    assert rates[net.stem.conv.weight] == pytest.approx(0.1)


@pytest.mark.ci
def test_digits_train_by_muon_and_log_the_rate_of_the_schedule(tmp_path: Path) -> None:
    fields = {"kind": "muon", "lr": 0.05, "head_lr_scale": 2.0}
    run = resnets.train(
        "digits",
        model="cifar-resnet8",
        iterations=60,
        out=tmp_path / "run",
        quiet=True,
        optim=fields,
        schedule={"kind": "constant"},
    )
    assert resnets.evaluate(run).evaluation.top1_error < 50
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {row["lr"] for row in rows if row["kind"] == "train"} == {0.05}
