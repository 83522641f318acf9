"""Memory that really runs out, and the micro-batch that fits."""

import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from resnets.config import Recipe, replace_fields
from resnets.data.batch import Batch
from resnets.models import build, catalog
from resnets.train import fit_memory
from resnets.train.data_parallel import DataParallelModel
from resnets.train.loss import classification_loss
from resnets.train.state import TrainState, new_state
from resnets.train.step import TrainStep
from resnets.utils.machine.distributed import ProcessGroup
from resnets.weights.checkpoint.format import LAST, read_checkpoint

ONE = ProcessGroup()
WORDS = [
    "train", "digits", "--model", "cifar-resnet110", "--iterations", "1", "--device", "cpu",
    "--set", "batch_size=1024", "--set", "precision=float32", "--set", "log_every=1it",
]  # fmt: skip


def train(out: Path, *words: str, room: int = 0) -> subprocess.CompletedProcess[str]:
    """A run that may have `room` bytes of its own."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (room, room))

    return subprocess.run(
        [sys.executable, "-m", "resnets", *WORDS, *words, "--out", str(out)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        preexec_fn=limit if room else None,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of data")
def test_a_run_that_does_not_fit_says_so_and_fits_with_the_flag(tmp_path):
    room = 2200 << 20
    done = train(tmp_path / "whole", room=room)
    assert done.returncode == 1, done.stderr
    assert (
        "out of memory at step 1 with a micro-batch of 1024 images; try --fit-memory" in done.stderr
    )
    assert "Traceback" not in done.stderr
    done = train(tmp_path / "fits", "--fit-memory", room=room)
    assert done.returncode == 0, done.stderr
    sizes = [
        int(re.findall(r"\d+", line)[0])
        for line in done.stderr.splitlines()
        if line.startswith("out of memory: ")
    ]
    assert sizes
    assert sizes == [1024 >> count for count in range(1, len(sizes) + 1)]
    saved = read_checkpoint(tmp_path / "fits" / "checkpoints" / LAST)
    assert saved.meta["state"]["micro_batch"] == sizes[-1]
    rows = (tmp_path / "fits" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["step"] == 1


def plan(**changes: object) -> Recipe:
    return Recipe(model=catalog.spec("cifar-resnet8"), batch_size=32, **changes)


def images(count: int = 32) -> Batch:
    targets = torch.zeros(count, dtype=torch.int64)
    return Batch(torch.randn(count, 3, 32, 32), targets, torch.arange(count))


class Hungry(nn.Module):
    """A network for whose forward pass no more than `most` images fit into memory."""

    def __init__(self, net: nn.Module, most: int) -> None:
        super().__init__()
        self.net, self.most, self.batch_sizes = net, most, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.net(x)  # moves the norms' statistics
        self.batch_sizes.append(len(x))
        if len(x) > self.most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        return logits


def train_step(net: nn.Module, recipe: Recipe, group: ProcessGroup = ONE) -> TrainStep:
    state, model = new_state(net, recipe, 10), DataParallelModel(net, group)
    autocast = torch.autocast("cpu", enabled=False)
    return TrainStep(state, model, classification_loss(), autocast, recipe)


def take_step(net: nn.Module, recipe: Recipe, group: ProcessGroup = ONE) -> TrainState:
    step = train_step(net, recipe, group)
    fit_memory.FitMemoryStep(step)(images())
    return step.state


@pytest.mark.ci
def test_halving_keeps_ghost_batches_whole_and_restores_the_state():
    recipe = plan(norm_batch=8)
    torch.manual_seed(0)
    hungry = Hungry(build(recipe.model), 8)
    torch.manual_seed(0)
    fitting = Hungry(build(recipe.model), 8)
    torch.manual_seed(1)
    assert take_step(hungry, recipe).micro_batch == 8
    assert hungry.batch_sizes == [32, 16, 8, 8, 8, 8]
    torch.manual_seed(1)
    take_step(fitting, dataclasses.replace(recipe, micro_batch=8))
    assert fitting.batch_sizes == [8, 8, 8, 8]
    for one, other in zip(hungry.state_dict().values(), fitting.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def too_big() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.ci
def test_after_probing_in_several_processes_the_hint_is_to_resume(monkeypatch):
    recipe = plan()
    net = Hungry(build(recipe.model), 16)
    # Both processes behave the same.
    monkeypatch.setattr(ProcessGroup, "any", lambda self, flag: flag)
    monkeypatch.setattr(DataParallelModel, "prepare", lambda self: None)

    real = TrainStep.__call__

    def step(self, batch):
        assert net.batch_sizes == [32, 16, 16]  # the probe
        net.most = 8  # a later batch needs more
        real(self, batch)

    monkeypatch.setattr(TrainStep, "__call__", step)
    with pytest.raises(fit_memory.OutOfMemory, match="--resume.*--fit-memory"):
        take_step(net, recipe, ProcessGroup(0, 2))


def test_an_optimizer_state_that_does_not_fit_is_one_line(monkeypatch):
    recipe = replace_fields(plan(), {"optim.kind": "adamw"})
    step = train_step(build(recipe.model), recipe)
    monkeypatch.setattr(step.state.optimizer, "step", too_big)
    with pytest.raises(fit_memory.OutOfMemory, match=r"1.*optim\.shard"):
        step(images())


def test_other_errors_are_not_retried():
    recipe = plan(norm_batch=32)
    net = Hungry(build(recipe.model), 8)
    with pytest.raises(fit_memory.OutOfMemory, match=r"\b32\b.*recompute=true"):
        take_step(net, recipe)
    assert net.batch_sizes == [32]
    with pytest.raises(RuntimeError, match="channels"):
        take_step(build(dataclasses.replace(recipe.model, in_channels=1)), plan())
