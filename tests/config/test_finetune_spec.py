"""Head first, learning rates by depth, frozen norms; and that a resumed run does the same."""

import dataclasses

import pytest
import torch
from stop_run import stop_after
from torch import nn
from torch.nn import functional as F

from resnets.config import ConfigError, FinetuneSpec, ModelSpec, OptimSpec, Recipe, replace_fields
from resnets.models import ImageClassifier, build
from resnets.recipes import recipe
from resnets.train.guards.interrupt import Interrupted
from resnets.train.optim.freeze import FreezeSchedule
from resnets.train.optim.optimizers import make_optimizer
from resnets.train.run import run_training
from resnets.train.state import new_state
from resnets.weights.checkpoint.format import LAST, read_checkpoint

SPEC = ModelSpec(
    name="tiny", depths=(1, 1), widths=(4, 8), stem="cifar", stem_width=4, num_classes=3
)
VGG = ModelSpec(
    name="small-vgg", block="vgg", depths=(1,), widths=(4,), input_size=8, num_classes=3
)

FINETUNE = FinetuneSpec(head_first=0.5, layer_decay=0.5, freeze_norm=True)
HEAD = {"head.weight", "head.bias"}


def moved(
    net: ImageClassifier, spec: FinetuneSpec, steps: int, total: int, start: int = 0
) -> set[str]:
    """Names of the tensors that `steps` steps of plain SGD change, the first being `start`."""
    net.requires_grad_(True)  # as built; a schedule may have frozen parts of it
    tuning = FreezeSchedule(net, spec, total)
    plan = OptimSpec(lr=0.1, momentum=0.9, weight_decay=0.1)
    optimizer = make_optimizer(net, plan, dict.fromkeys(net.parameters(), 1.0))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for step in range(start, start + steps):
        tuning.apply(step)
        images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        F.cross_entropy(net(images), torch.arange(6) % 3).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {
        name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])
    }


@pytest.fixture
def net() -> ImageClassifier:
    torch.manual_seed(0)
    return build(SPEC)


def test_only_the_head_learns_at_first(net: ImageClassifier) -> None:
    assert moved(net, FinetuneSpec(head_first=0.5), 2, 4) == HEAD
    everything = moved(net, FinetuneSpec(head_first=0.5), 1, 4, start=2)
    assert everything == set(net.state_dict())


def test_the_rest_joins_the_head_in_the_middle_of_a_run(net: ImageClassifier) -> None:
    everything = moved(net, FinetuneSpec(head_first=0.5), 4, 4)
    assert everything == set(net.state_dict())


def test_head_first_trains_only_the_head_in_every_family() -> None:
    for spec in (dataclasses.replace(SPEC, block="preact-basic", dropout=0.5), VGG):
        assert moved(build(spec), FinetuneSpec(head_first=1.0), 2, 2) == HEAD


def test_frozen_norms_keep_statistics_scales_and_shifts(net: ImageClassifier) -> None:
    names = {name for name in net.state_dict() if "norm" in name}
    assert moved(net, FinetuneSpec(freeze_norm=True), 2, 4) == set(net.state_dict()) - names
    both = FinetuneSpec(freeze_norm=True, head_first=0.5)
    assert moved(net, both, 4, 4) == set(net.state_dict()) - names


def test_evaluation_between_steps_does_not_unfreeze(net: ImageClassifier) -> None:
    tuning = FreezeSchedule(net, FinetuneSpec(freeze_norm=True), 4)
    for step, disturb in enumerate((net.eval, net.train, net.stage1.eval)):
        disturb()
        tuning.apply(step)
        norms = {m for m in net.modules() if isinstance(m, nn.BatchNorm2d)}
        assert {m for m in net.modules() if not m.training} == norms


def test_a_detectors_own_layers_are_new(net: ImageClassifier) -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.box = net, nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
            self.norm = nn.BatchNorm2d(8)

    detector = Detector()
    tuning = FreezeSchedule(detector, FINETUNE, 4)
    rates = tuning.lr_scales()
    assert rates[detector.box[0].weight] == 1.0
    assert rates[net.get_submodule("stage2.0.conv1").weight] == 0.5
    tuning.apply(0)
    learning = {name for name, p in detector.named_parameters() if p.requires_grad}
    assert learning == {n for n, _ in detector.named_parameters() if not n.startswith("net.")} | {
        "net.head.weight",
        "net.head.bias",
    }
    assert detector.norm.training


def test_closing_norm_goes_with_the_last_stage() -> None:
    preact = build(dataclasses.replace(SPEC, block="preact-basic"))
    rates = FreezeSchedule(preact, FinetuneSpec(layer_decay=0.5), 4).lr_scales()
    assert rates[preact.norm.weight] == rates[preact.get_submodule("stage2.0.conv1").weight] == 0.5
    vgg = build(VGG)
    rates = FreezeSchedule(vgg, FinetuneSpec(layer_decay=0.5), 4).lr_scales()
    assert [rates[layer.weight] for layer in (vgg.head, vgg.fc2, vgg.fc1)] == [1, 0.5, 0.25]


def test_without_weights_all_layers_train(net: ImageClassifier) -> None:
    plan = Recipe(finetune=FINETUNE)
    state = new_state(net, plan, 4)
    state.freeze_schedule.apply(0)
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert {group["lr_scale"] for group in state.optimizer.param_groups} == {1.0}
    pretrained = new_state(net, dataclasses.replace(plan, weights="there"), 4)
    assert {group["lr_scale"] for group in pretrained.optimizer.param_groups} == {
        1.0,
        0.5,
        0.25,
        0.125,
    }


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"head_first": 1.5}, "finetune.head_first: 1.5"),
        ({"layer_decay": 0.0}, "finetune.layer_decay: 0.0"),
    ],
)
def test_bad_values_are_named(fields: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FinetuneSpec(**fields)


def plan(**changes: object) -> Recipe:
    fields = {
        "duration": "12it",
        "batch_size": 16,
        "precision": "float32",
        "eval.every": "6it",
        "log_every": "3it",
        "checkpoint_every": "12it",
        "ema_decay": 0.9,
    }
    return replace_fields(recipe("digits", "cifar-resnet8"), fields | changes)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    out = tmp_path_factory.mktemp("pretrained") / "run"
    run_training(plan(), out, device="cpu", quiet=True)
    return out


@pytest.mark.parametrize("kind", ["sgd", "lamb"])
@pytest.mark.parametrize("stop_at", [4, 9])  # within the head's share, and after it
def test_resumed_run_is_bitwise_equal(pretrained, tmp_path, monkeypatch, kind, stop_at):
    """With head first, frozen norms, rates by depth, stochastic depth and dropout."""
    fine = plan(
        weights=str(pretrained),
        **{
            "finetune.head_first": 0.5,
            "finetune.layer_decay": 0.7,
            "finetune.freeze_norm": True,
            "model.drop_path": 0.3,
            "model.dropout": 0.2,
            "optim.kind": kind,
            "optim.lr": 0.01,
        },
    )
    run_training(fine, tmp_path / "whole", device="cpu", quiet=True)
    stop_after(monkeypatch, stop_at)
    with pytest.raises(Interrupted):
        run_training(fine, tmp_path / "cut", device="cpu", quiet=True)
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / "cut" / "checkpoints" / LAST).meta["step"] == stop_at
    torch.manual_seed(stop_at)  # whatever state the process is in
    run_training(None, tmp_path / "cut", device="cpu", quiet=True)
    whole, cut = (
        read_checkpoint(tmp_path / name / "checkpoints" / LAST) for name in ("whole", "cut")
    )
    assert whole.tensors.keys() == cut.tensors.keys()
    assert [n for n in whole.tensors if not torch.equal(whole.tensors[n], cut.tensors[n])] == []
