"""Memory that really runs out, and the micro-batch that fits."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resnets.config import Recipe, replace_fields
from resnets.data.batch import Batch
from resnets.models import build, catalog
from resnets.train import fit_memory
from resnets.train.data_parallel import DataParallelModel
from resnets.train.loss import classification_loss
from resnets.train.state import new_state
from resnets.train.step import train_step
from resnets.utils.distributed import ProcessGroup
from resnets.weights.checkpoint.format import LAST, read_checkpoint

WORDS = [
    *("train", "digits", "--model", "cifar-resnet110", "--iterations", "1", "--device", "cpu"),
    *("--set", "batch_size=1024", "--set", "precision=float32", "--set", "log_every=1it"),
]


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
        int(line.split(": ")[1].split()[0])
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


def test_halving_keeps_ghost_batches_whole_and_what_a_failed_step_moved_is_put_back():
    recipe = plan(norm_batch=8)
    net = build(recipe.model)
    state, forward = new_state(net, recipe, 10), DataParallelModel(net, fit_memory=True)
    before = [buffer.clone() for buffer in net.buffers()]
    asked = []

    def gradients() -> str:
        asked.append(state.micro_batch)
        net(torch.randn(4, 3, 32, 32)).sum().backward()
        if state.micro_batch != 8:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        assert all(each.grad is not None for each in net.parameters())
        return "fits"

    assert fit_memory.run_with_oom_retry(gradients, state, forward, recipe, 32) == "fits"
    assert asked == [0, 16, 8]
    moved = [torch.equal(*pair) for pair in zip(before, net.buffers(), strict=True)]
    assert not all(moved)  # by the one that fitted
    assert int(net.stem.norm.num_batches_tracked) == 1


def too_big() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_after_probing_in_several_processes_the_hint_is_to_resume(monkeypatch):
    recipe = plan()
    net = build(recipe.model)
    state, forward = (
        new_state(net, recipe, 10),
        DataParallelModel(net, ProcessGroup(0, 2), fit_memory=True),
    )
    monkeypatch.setattr(
        ProcessGroup, "any", lambda self, flag: flag
    )  # the other one fares as we do
    monkeypatch.setattr(forward, "prepare", lambda: None)
    calls = iter([lambda: "fits", too_big])
    with pytest.raises(fit_memory.OutOfMemory, match=r"--resume and --fit-memory"):
        fit_memory.run_with_oom_retry(lambda: next(calls)(), state, forward, recipe, 32)


def test_no_room_for_the_optimizers_state_is_one_line(monkeypatch):
    recipe = replace_fields(plan(), {"optim.kind": "adamw"})
    net = build(recipe.model)
    state, forward = new_state(net, recipe, 10), DataParallelModel(net)
    monkeypatch.setattr(state.optimizer, "step", too_big)
    batch = Batch(torch.randn(32, 3, 32, 32), torch.zeros(32, dtype=torch.int64), torch.arange(32))
    with pytest.raises(fit_memory.OutOfMemory, match=r"at step 1.*optim\.shard"):
        train_step(
            state,
            forward,
            classification_loss(0.0, "softmax"),
            batch,
            torch.autocast("cpu", enabled=False),
            recipe,
        )


def test_what_cannot_be_halved_and_other_errors_are_not_tried_again():
    recipe = plan(norm_batch=32)
    net = build(recipe.model)
    state, forward = new_state(net, recipe, 10), DataParallelModel(net, fit_memory=True)

    with pytest.raises(fit_memory.OutOfMemory, match=r"\b32\b.*recompute=true"):
        fit_memory.run_with_oom_retry(too_big, state, forward, recipe, 32)

    def wrong() -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        fit_memory.run_with_oom_retry(wrong, state, forward, recipe, 32)
