"""A step as a CUDA graph (train/cuda_graph), replaced by plain calls or recorded operators."""

import contextlib
import itertools
import json
from pathlib import Path

import pytest
import torch
from recorded_graph import record
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from resnets import recipes
from resnets.config import Recipe, replace_fields
from resnets.data.loading.batches import TrainStream
from resnets.train.cuda_graph import capture, start, step
from resnets.train.cuda_graph.start import find_obstacle, start_graph
from resnets.train.cuda_graph.step import GraphBatch, GraphTraining
from resnets.train.data_parallel import DataParallelModel
from resnets.train.execution_plan import _missing_compiler
from resnets.train.run import run_training
from resnets.train.state import TrainState, new_state
from resnets.train.step import TrainStep
from resnets.train.tasks.classification import ClassificationTask
from resnets.utils.machine.distributed import ProcessGroup
from resnets.weights.checkpoint.format import LAST, read_checkpoint

FLOAT32 = torch.autocast("cpu", enabled=False)
STEPS = 12
SHORT = {
    "duration": f"{STEPS}it",
    "precision": "float32",
    "batch_size": "32",
    "model.depths": "[1,1,1]",
    "optim.lr": "0.02",
}
SETTINGS = {
    "plain": {"data.augment.crop": "none", "data.augment.flip": "true"},
    "parts": {"optim.clip_norm": "1.0", "norm_batch": "16", "micro_batch": "16"},
    "averaged": {"ema_decay": "0.9", "data.grow_from": "6", "data.grow_step": "1"},
    "adamw": {"optim.kind": "adamw", "optim.lr": "0.003", "schedule.kind": "cosine"},
    "muon": {
        "optim.kind": "muon",
        "optim.norm_bias_lr_scale": "0.5",
        "data.augment.flip": "true",
        "data.augment.flip_rule": "alternate",
    },
    "held": {"schedule.hold_until_error": "99.0"},  # for some steps
    "held to the end": {"schedule.hold_until_error": "10.0", "micro_batch": "16"},
}


def digits(fields: dict[str, str]) -> Recipe:
    return replace_fields(recipes.recipe("digits", "cifar-resnet8"), SHORT | fields)


def opened(recipe: Recipe) -> tuple[TrainStep, TrainStream]:
    """The step of a run of `recipe`, and its stream of batches."""
    task = ClassificationTask.open(recipe)
    task.model.to(memory_format=torch.channels_last)
    state = new_state(task.model, task.recipe, STEPS)
    step = TrainStep(state, DataParallelModel(task.model), task.loss_fn, FLOAT32, task.recipe)
    return step, task.stream(torch.device("cpu"), ProcessGroup())


def tensors(state: TrainState) -> dict[str, torch.Tensor]:
    found = {f"model/{name}": each for name, each in state.model.state_dict().items()}
    if state.ema is not None:
        found |= {f"ema/{name}": each for name, each in state.ema.module.state_dict().items()}
    return found


@pytest.mark.parametrize("capture_step", [capture.plain, record])
@pytest.mark.parametrize("fields", SETTINGS.values(), ids=SETTINGS)
def test_a_graph_computes_what_train_step_does(fields, capture_step, monkeypatch) -> None:
    monkeypatch.setattr(step, "STEPS_PER_TABLE", 5)  # filled several times
    recipe = digits(fields)
    train_step, stream = opened(recipe)
    for batch in itertools.islice(stream.batches(0, STEPS), STEPS):
        train_step(batch)
    expected, loss = tensors(train_step.state), train_step.state.interval.means()
    schedule = train_step.state.schedule
    assert schedule.holding is (fields.get("schedule.hold_until_error") == "10.0")

    train_step, stream = opened(recipe)
    state = train_step.state
    graph = GraphTraining(train_step, stream, STEPS, capture=capture_step)
    for batch in itertools.islice(graph.batches(0, STEPS), STEPS):
        assert isinstance(batch, GraphBatch)
        graph.step(batch)
    assert state.schedule.holding is schedule.holding
    assert state.schedule.running_error == pytest.approx(schedule.running_error, rel=1e-3)

    assert state.step == STEPS
    assert state.interval.count == STEPS * recipe.batch_size
    assert state.interval.means() == pytest.approx(loss, rel=1e-4)
    for name, each in tensors(state).items():
        torch.testing.assert_close(each, expected[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("fields", [{"data.augment.repeats": "2"}, {"data.balance": "sqrt"}])
def test_batches_are_those_of_the_stream_to_the_bit(fields) -> None:
    _, stream = opened(digits({"data.augment.flip": "true"} | fields))
    first, count = 50, 20  # over the end of an epoch
    draws = stream.draws(first, count)
    for row, batch in enumerate(itertools.islice(stream.batches(first), count)):
        found = stream.batch_at(
            size=stream.size, **{name: torch.from_numpy(each[row]) for name, each in draws.items()}
        )
        assert torch.equal(found.images, batch.images)
        assert torch.equal(found.targets, batch.targets)


@pytest.mark.slow
@pytest.mark.skipif(
    _missing_compiler(torch.device("cpu")) is not None, reason="compiling needs a C++ compiler"
)
@pytest.mark.parametrize("model", ["cifar-resnet8", "cifar-preact-resnet8", "cifar-plain8"])
def test_compiled_blocks_in_a_graph_compute_what_train_step_does(
    model, tmp_path, monkeypatch
) -> None:
    """Their steps run inside the capture, the only place where blocks are compiled."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    recipe = replace_fields(recipes.recipe("digits", model), SHORT | SETTINGS["parts"])
    train_step, stream = opened(recipe)
    for batch in itertools.islice(stream.batches(0, STEPS), STEPS):
        train_step(batch)
    expected, loss = tensors(train_step.state), train_step.state.interval.means()

    found: dict[str, torch.Tensor] = {}
    train_step, stream = opened(recipe)
    state = train_step.state

    def steps_in_capture(body: capture.Body, device: torch.device) -> capture.Body:
        for _ in range(STEPS):
            body()
        found.update({name: each.clone() for name, each in tensors(state).items()})
        state.interval.count = STEPS * recipe.batch_size
        assert state.interval.means() == pytest.approx(loss, rel=1e-2)
        return body

    counters.clear()
    GraphTraining(train_step, stream, STEPS, compile_blocks=True, capture=steps_in_capture)
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]
    for name, each in found.items():
        # by the scale of the tensor: processors round differently, and steps amplify it
        limit = max(1e-3, 1e-2 * expected[name].abs().max().item())
        torch.testing.assert_close(each, expected[name], rtol=0, atol=limit, msg=name)


def test_warm_up_steps_are_undone() -> None:
    def three_steps_before(body: capture.Body, device: torch.device) -> capture.Body:
        for _ in range(3):
            body()
        return body

    found = []
    for way in (capture.plain, three_steps_before):
        train_step, stream = opened(digits({"optim.kind": "adamw", "ema_decay": "0.9"}))
        state = train_step.state
        graph = GraphTraining(train_step, stream, STEPS, capture=way)
        for _ in range(2):
            graph.replay()
        found.append(tensors(state) | state.interval.sums)
    assert found[0].keys() == found[1].keys()
    for name, each in found[0].items():
        assert torch.equal(each, found[1][name]), name


def test_weights_are_averaged_in_one_operator_with_a_weight_on_the_device() -> None:
    """Besides the copy of the counters: in a CUDA graph each operator is a kernel or more."""

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    names: list[str] = []
    train_step, _ = opened(digits({"ema_decay": "0.9"}))
    ema, model = train_step.state.ema, train_step.state.model
    with torch.no_grad():
        for each in model.parameters():
            each.add_(torch.randn_like(each))
    pairs = zip(ema.module.parameters(), model.parameters(), strict=True)
    expected = [averaged.lerp(current, 0.25) for averaged, current in pairs]
    weight = torch.tensor(0.25)
    with Recorder():
        ema.average_with(model, weight)
    assert [name for name in names if name != "detach"] == ["_foreach_copy_", "_fused_sgd_"]
    for averaged, wanted in zip(ema.module.parameters(), expected, strict=True):
        torch.testing.assert_close(averaged, wanted, rtol=1e-6, atol=1e-7)


REFUSED = {
    "cpu": {},
    "mixup": {"data.augment.mixup": "0.2"},
    "policy": {"data.augment.policy": "trivial"},
    "lamb": {"optim.kind": "lamb"},
    "drop_path": {"model.drop_path": "0.1"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_obstacles_to_a_graph_are_named(name: str) -> None:
    device = torch.device("cpu" if name == "cpu" else "cuda")
    step, stream = opened(digits(REFUSED[name]))
    assert find_obstacle(step.recipe, stream, step.model, device)
    step, stream = opened(digits({}))
    obstacle = find_obstacle(step.recipe, stream, step.model, device)
    assert obstacle is None or name == "cpu"


def test_a_failed_capture_is_reported_and_changes_nothing(monkeypatch) -> None:
    def fails(body: capture.Body, device: torch.device) -> capture.Body:
        body()
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(start, "find_obstacle", lambda *_: None)
    monkeypatch.setattr(capture, "capture", fails)
    train_step, stream = opened(digits({}))
    state = train_step.state
    before = {name: each.clone() for name, each in tensors(state).items()}
    found = start_graph(train_step, stream, STEPS, compile_blocks=False)
    assert isinstance(found, str)
    for name, each in tensors(state).items():
        assert torch.equal(each, before[name]), name


@pytest.mark.parametrize("failing", [0, capture.WARM_UP])
def test_work_of_a_failed_capture_is_over_before_it_is_undone(failing, monkeypatch) -> None:
    """Its steps ran on another stream than what restores the weights."""

    class Stream:
        def __init__(self, device: torch.device | None = None) -> None:
            self.waited_for: list[Stream] = []

        def wait_stream(self, other: "Stream") -> None:
            self.waited_for.append(other)

    current = Stream()
    for name in ("current_stream", "default_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda device: current)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    ended = []
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *each: ended.append(each))
    monkeypatch.setattr(capture, "failed", [])
    calls = itertools.count()

    def fails() -> None:
        if next(calls) == failing:
            raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        capture.capture(fails, torch.device("cuda"))
    assert len(current.waited_for) == 1
    was_capturing = failing == capture.WARM_UP
    assert len(capture.failed) == was_capturing
    assert ended == [(0, (0, 1))] * was_capturing  # or the allocator cannot release memory


def test_a_run_with_a_graph_equals_one_without(monkeypatch, tmp_path: Path) -> None:
    fields = {"eval.every": "6it", "log_every": "4it", "checkpoint_every": "6it"}
    plain = run_training(digits(fields), tmp_path / "plain", device="cpu", quiet=True)
    monkeypatch.setattr(start, "find_obstacle", lambda *_: None)
    monkeypatch.setattr(capture, "capture", capture.plain)
    recipe = digits(fields | {"cuda_graph": "true"})
    graph = run_training(recipe, tmp_path / "graph", device="cpu", quiet=True)
    for split in ("test", "train"):
        assert graph[split]["loss"] == pytest.approx(plain[split]["loss"], rel=1e-4)
    rows = (tmp_path / "graph" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == len((tmp_path / "plain" / "metrics.jsonl").read_text().splitlines())
    for folder, used in (("plain", False), ("graph", True)):
        environment = json.loads((tmp_path / folder / "environment.json").read_text())
        assert environment["cuda_graph"] is used
        assert environment["cuda_graph_obstacle"] is None
        plan = read_checkpoint(tmp_path / folder / "checkpoints" / LAST).meta["execution_plan"]
        assert plan["cuda_graph"] is used


def test_a_graph_that_was_asked_for_and_not_used_is_recorded(tmp_path: Path, capsys) -> None:
    result = run_training(digits({"cuda_graph": "true"}), tmp_path / "run", device="cpu")
    reason = "the device is cpu, not cuda"
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert (environment["cuda_graph"], environment["cuda_graph_obstacle"]) == (False, reason)
    assert [each["note"] for each in result["history"]] == [f"cuda_graph: not used: {reason}"]
    stored = read_checkpoint(tmp_path / "run" / "checkpoints" / LAST).meta
    assert stored["history"] == result["history"]
    assert stored["execution_plan"]["cuda_graph_obstacle"] == reason
    output = " ".join(capsys.readouterr().err.split())  # without line breaks
    assert "no CUDA graph" in output
    assert f"cuda_graph: not used: {reason}" in output
