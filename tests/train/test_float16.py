"""float16 with a `GradScaler`: torch's rules, skipped steps, and what a resume restores."""

import pytest
import torch
from torch import nn

from resnets.config import OptimSpec, replace_fields
from resnets.recipes import recipe
from resnets.train.log.run_log import read_rows
from resnets.train.optim import grad_scaler
from resnets.train.optim.grad_scaler import GradScaler
from resnets.train.optim.optimizers import make_optimizer
from resnets.train.run import run_training
from resnets.train.step import TrainStep
from resnets.weights.checkpoint.format import LAST, read_checkpoint

CPU = torch.device("cpu")
# Scaled gradients of each step, in turn; those of steps 1 and 4 are not finite.
FACTORS = (1.0, float("inf"), 2.0, 0.5, float("nan"), 1.0)


@pytest.mark.parametrize("kind", ["sgd", "adamw", "lamb"])
def test_scale_and_weights_are_those_of_torch(kind, monkeypatch):
    monkeypatch.setattr(grad_scaler, "GROWTH_INTERVAL", 2)
    nets = [nn.Linear(3, 2) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    spec = OptimSpec(kind=kind, lr=0.1)
    optimizers = [make_optimizer(net, spec, dict.fromkeys(net.parameters(), 1.0)) for net in nets]
    ours, torchs = GradScaler(CPU), torch.amp.GradScaler("cpu", growth_interval=2)
    for factor in FACTORS:
        for net, optimizer, scaler in zip(nets, optimizers, (ours, torchs), strict=True):
            loss = (net(torch.ones(1, 3)) * factor).sum()
            if scaler is ours:
                ours.scale_loss(loss).backward()
                ours.unscale(net.parameters())
                ours.step(optimizer)
            else:
                torchs.scale(loss).backward()
                torchs.step(optimizer)
                torchs.update()
            optimizer.zero_grad()
        assert ours.scale.item() == torchs.get_scale()
        for name, weight in nets[0].named_parameters():
            torch.testing.assert_close(weight, nets[1].get_parameter(name))
    assert ours.skipped_steps.item() == 2


def tiny(**changes):
    fields = {
        "duration": "6it",
        "batch_size": "8",
        "precision": "float16",
        "model.widths": "[4,4,4]",
        "model.stem_width": "4",
        "log_every": "2it",
        "checkpoint_every": "3it",
        "eval.every": "100ep",
        "optim.clip_norm": "1",
    }
    return replace_fields(recipe("digits", "cifar-resnet8"), fields | changes)


def test_a_resumed_float16_run_is_bitwise_equal_with_the_same_skipped_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(grad_scaler, "INIT_SCALE", 2.0**24)  # overflows at first
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    result = run_training(tiny(), whole, device="cpu", quiet=True)
    assert "float16" in result["test"]["protocol"]
    step = TrainStep.__call__

    def stop_at_step_4(self, batch):
        if self.state.step == 4:
            raise KeyboardInterrupt
        step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", stop_at_step_4)
        with pytest.raises(KeyboardInterrupt):
            run_training(tiny(), stopped, device="cpu", quiet=True)
    run_training(None, stopped, device="cpu", quiet=True)
    tensors = [read_checkpoint(run / "checkpoints" / LAST).tensors for run in (whole, stopped)]
    assert tensors[0].keys() == tensors[1].keys()
    assert [
        name for name in tensors[0] if not torch.equal(tensors[0][name], tensors[1][name])
    ] == []
    rows = [[row for row in read_rows(run) if row["kind"] == "train"] for run in (whole, stopped)]
    logged = [[(row["loss_scale"], row["skipped_steps"]) for row in each] for each in rows]
    assert logged[0] == logged[1]
    scale, skipped = logged[0][-1]
    assert skipped >= 1
    assert scale == 2.0 ** (24 - skipped)
    assert tensors[0]["scaler/skipped_steps"].item() == skipped
