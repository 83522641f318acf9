"""The loop continues while checkpoints are written, and is informed if that fails."""

import dataclasses
import threading

import pytest
import torch
from checkpoint_runs import files
from full_disk import fill_disk

from resnets import create_model
from resnets.recipes import recipe
from resnets.train.guards.divergence import Diverged
from resnets.train.saver import Saver, Snapshot
from resnets.train.state import new_state
from resnets.weights.checkpoint.format import LAST, read_checkpoint
from resnets.weights.errors import CheckpointError

PLAN = dataclasses.replace(recipe("digits", "cifar-resnet8"), ema_decay=0.9)


@pytest.fixture
def state():
    made = new_state(create_model("cifar-resnet8").to(memory_format=torch.channels_last), PLAN, 100)
    for parameter in made.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    made.optimizer.step()
    return made


@pytest.fixture
def saver(tmp_path):
    made = Saver(tmp_path, PLAN, {"classes": [], "preprocess": {}}, torch.zeros(3, 2, 2))
    yield made
    made.close()


def step(state, number):
    """Let each tensor of the state be `number`, in place, as an update would."""
    state.step = number
    with torch.no_grad():
        for tensor in (*state.model.parameters(), *state.ema.module.parameters()):
            tensor.fill_(number)
        for each in state.optimizer.state.values():
            each["momentum_buffer"].fill_(number)


def test_the_saved_state_is_that_of_the_call(saver, state, tmp_path):
    for number in range(1, 9):
        step(state, number)
        saver.save_last(state)
        saver.save_best(state)
        step(state, -1)
    step(state, 9)
    saver.save_last(state, final=True)
    for name, number in ((LAST, 9), ("step-00000008.safetensors", 8), ("best.safetensors", 8)):
        found = read_checkpoint(tmp_path / "checkpoints" / name)
        assert found.meta["step"] == number
        groups = ("model", "ema", "optim") if name != "best.safetensors" else ("model",)
        for tensors in map(found.group, groups):
            learnt = [each for key, each in tensors.items() if key.split("/")[0] in DECAYED]
            assert learnt
            assert all((each == number).all() for each in learnt)
        assert found.tensors["preprocess/mean_image"].shape == (3, 2, 2)


@pytest.mark.parametrize("where", ["model", "ema", "optim"])
def test_what_is_not_finite_is_not_saved(saver, state, tmp_path, where):
    """As after an update that overflows, before any loss shows it."""
    step(state, 1)
    saver.save_last(state)
    state.step = 2
    changed = {
        "model": state.model.head.bias,
        "ema": state.ema.module.head.bias,
        "optim": state.optimizer.state[state.model.head.bias]["momentum_buffer"],
    }[where]
    with torch.no_grad():
        changed[3] = float("-inf" if where == "optim" else "nan")
    message = rf"^{where}/head.bias\S* is not finite at step 2.*{LAST} \(step 1\); .*optim\.lr"
    with pytest.raises(Diverged, match=message):
        saver.save_last(state, final=True)
    assert files(tmp_path) == [LAST]
    assert read_checkpoint(tmp_path / "checkpoints" / LAST).meta["step"] == 1


DECAYED = {name for name, _ in create_model("cifar-resnet8").named_parameters()}


@pytest.fixture
def stuck(monkeypatch):
    """A disk that takes nothing until the event is set, and then refuses."""
    released = threading.Event()
    fill_disk(monkeypatch, LAST, released=released)
    yield released
    released.set()


def test_the_loop_does_not_wait_and_raises_write_errors_at_the_next_save(
    saver, state, tmp_path, stuck
):
    step(state, 1)
    saver.save_last(state)  # returns, though the disk does not
    assert saver.last_good() == "no checkpoint written yet"
    state.step = 2
    stuck.set()
    with pytest.raises(CheckpointError, match="last.safetensors.*1"):
        saver.save_last(state)
    assert files(tmp_path) == []
    saver.save_last(state, final=True)
    assert saver.last_good().endswith(f"{LAST} (step 2)")


def test_one_write_runs_at_a_time(saver, state, stuck):
    saver.save_last(state)
    ended = threading.Event()

    def again():
        with pytest.raises(CheckpointError):
            saver.save_last(state)
        ended.set()

    thread = threading.Thread(target=again)
    thread.start()
    assert not ended.wait(0.2)
    stuck.set()
    assert ended.wait(30)
    thread.join()


def test_the_end_of_a_run_raises_write_errors(saver, state, stuck):
    saver.save_last(state)
    stuck.set()
    with pytest.raises(CheckpointError, match="of step 0"):
        saver.wait()


def test_buffers_are_reused_unless_shapes_change():
    snapshot, tensor = Snapshot(), torch.ones(2, 3)
    snapshot.copy({"a": tensor})
    first = snapshot.tensors()["a"]
    snapshot.copy({"a": tensor * 2})
    assert snapshot.tensors()["a"].data_ptr() == first.data_ptr()
    assert (first == 2).all()
    snapshot.copy({"a": torch.ones(4), "b": tensor})
    shapes = {name: each.shape for name, each in snapshot.tensors().items()}
    assert shapes == {"a": (4,), "b": (2, 3)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_from_a_gpu_too():
    snapshot, tensor = Snapshot(), torch.full((512, 512, 64), 3.0, device="cuda")
    for number in (3, 4):
        tensor.fill_(number)
        snapshot.copy({"a": tensor})
        tensor.zero_()
        assert (snapshot.tensors()["a"] == number).all()
        assert snapshot.tensors()["a"].is_pinned()
