"""Cells in threads of one process: results, stops, failures. On a CPU; the threads are the same."""

import dataclasses
import json
import threading
import time
from multiprocessing.connection import wait

import pytest
import torch
from my_blocks import FailingBlock, UncapturableBlock
from study_runs import pretend_two_gpus

from resnets.study.grid import worker
from resnets.study.grid.cells import Grid, cell_recipe, read_cells, write_grid
from resnets.study.grid.grid import _WorkerPool
from resnets.study.grid.shared_process import CellJob, SharedProcess
from resnets.study.grid.worker import Slot, can_share, choose_slots, estimate_cell_bytes
from resnets.train import loop
from resnets.train.run import run_training
from resnets.train.tasks.custom_parts import CustomParts
from resnets.utils.machine.processes import process_lock
from resnets.weights.checkpoint.format import read_checkpoint

DROPOUT = "cifar-resnet8:model.shortcut_dropout=0.3"
GRID = Grid(
    models=("cifar-resnet8", DROPOUT),
    seeds=(1, 1),
    data="digits",
    recipe="digits",
    budget="30it",
    settings=("checkpoint_every=5it", "precision=float32", "batch_size=32"),
    iterations=30,
    epoch=40,
)
SHARED = [Slot("cpu", 1, shared=True)] * 2


def finish(process, count):
    """Wait until `count` cells or the process have ended."""
    while not process.poll() and len(process.ends) < count:
        wait([process.connection, process.process.sentinel], 1.0)


def outcome(folder):
    """Weights, optimizer and metrics of a finished cell, without times."""
    tensors = read_checkpoint(folder / "checkpoints" / "last.safetensors").tensors
    result = json.loads((folder / "result.json").read_text())
    return tensors, {key: result[key] for key in ("test", "train")}


def assert_equal(first, second):
    tensors, metrics = outcome(first)
    theirs, their_metrics = outcome(second)
    assert tensors.keys() == theirs.keys()
    assert all(torch.equal(each, theirs[name]) for name, each in tensors.items())
    assert metrics == their_metrics


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The study of `GRID`, trained one cell after another, each in a process of its own."""
    folder = tmp_path_factory.mktemp("alone")
    write_grid(GRID, folder)
    _WorkerPool(GRID, read_cells(folder), [Slot("cpu", 1)], {}).train()
    return folder


@pytest.mark.ci
def test_cells_in_threads_equal_cells_in_processes_and_resume_after_a_stop(tmp_path, alone):
    """Two networks, of which one draws in each step, at once, stopped and resumed."""
    write_grid(GRID, tmp_path)
    cells = read_cells(tmp_path)
    jobs = [CellJob(cell_recipe(GRID, c.model, c.seed), c.folder, CustomParts()) for c in cells]
    process = SharedProcess(SHARED[0])
    for job in jobs:
        process.start(job)
    last = cells[1].folder / "checkpoints" / "last.safetensors"
    while not last.exists():
        time.sleep(0.02)
    process.process.terminate()
    finish(process, 2)
    process.process.join()
    assert process.process.exitcode == 0
    assert "running" in {cell.status for cell in read_cells(tmp_path)}
    assert {end.reason for end in process.ends.values()} == {None}

    _WorkerPool(GRID, read_cells(tmp_path), SHARED, {}).train()
    for cell, reference in zip(read_cells(tmp_path), read_cells(alone), strict=True):
        assert_equal(cell.folder, reference.folder)


def test_a_cell_that_diverges_fails_by_itself(tmp_path):
    wild = dataclasses.replace(
        GRID, models=("cifar-resnet8", "cifar-resnet8:optim.lr=1e6"), settings=GRID.settings
    )
    write_grid(wild, tmp_path)
    _WorkerPool(wild, read_cells(tmp_path), SHARED, {}).train()
    good, bad = read_cells(tmp_path)
    assert (good.status, bad.status) == ("done", "failed")
    assert "the loss is" in bad.error


def test_a_cell_that_crashes_its_process_does_not_affect_others(tmp_path, alone, capfd):
    """The other cell continues from where it was, in a process of its own, to the same result."""
    model = "cifar-resnet8:block=failing"
    grid = dataclasses.replace(GRID, models=("cifar-resnet8", model), blocks=("failing",))
    write_grid(grid, tmp_path)
    _WorkerPool(grid, read_cells(tmp_path), SHARED, {"failing": FailingBlock}).train()
    good, bad = read_cells(tmp_path)
    assert (good.status, bad.status) == ("done", "running")
    assert_equal(good.folder, read_cells(alone)[0].folder)
    said = capfd.readouterr().err
    assert f"{good.folder.name}: its process broke down; it gets one of its own" in said
    assert f"{bad.folder.name}: its process ended (exit code 1)" in said


def test_after_a_failed_capture_cells_continue_in_processes_of_their_own(tmp_path, alone, capfd):
    model = "cifar-resnet8:block=uncapturable"
    grid = dataclasses.replace(GRID, models=("cifar-resnet8", model), blocks=("uncapturable",))
    write_grid(grid, tmp_path)
    _WorkerPool(grid, read_cells(tmp_path), SHARED, {"uncapturable": UncapturableBlock}).train()
    cells = read_cells(tmp_path)
    assert [cell.status for cell in cells] == ["done", "done"]
    assert_equal(cells[0].folder, read_cells(alone)[0].folder)
    said = capfd.readouterr().err
    assert all(f"{cell.folder.name}: its process broke down" in said for cell in cells)


def test_no_step_is_captured_during_an_evaluation(tmp_path, monkeypatch):
    """cuDNN waits for the whole device where it compares algorithms, which ends a capture."""
    real, captures = loop._evaluate, []

    def try_to_capture():
        captures.append(process_lock.acquire(False))
        if captures[-1]:
            process_lock.release()

    def measure(state, plan, examples, evaluate, *rest):
        def observed(model):
            thread = threading.Thread(target=try_to_capture)
            thread.start()
            thread.join()
            return evaluate(model)

        real(state, plan, examples, observed, *rest)

    monkeypatch.setattr(loop, "_evaluate", measure)
    recipe = dataclasses.replace(cell_recipe(GRID, GRID.models[0], 0), duration="1it")
    run_training(recipe, tmp_path / "run", device="cpu", quiet=True)
    assert captures == [False]


def test_cells_share_a_process_on_one_gpu_if_their_steps_are_graphs(monkeypatch):
    pretend_two_gpus(monkeypatch, memory=100 << 30, cores=4)

    def slots(*settings, jobs=None, models=GRID.models[:1]):
        seeds = (9,) * len(models)
        grid = dataclasses.replace(GRID, settings=settings, models=models, seeds=seeds)
        return choose_slots(grid, jobs, "cuda", cells=99)

    graphs = slots("cuda_graph=true")
    assert all(slot.shared for slot in graphs)
    assert len(graphs) == 2 * worker.MAX_JOBS  # cores do not limit threads that wait
    assert not any(slot.shared for slot in slots())
    assert len(slots()) == 4
    assert not any(slot.shared for slot in slots("cuda_graph=true", jobs=2))  # one on each
    assert not any(slot.shared for slot in slots("cuda_graph=true", "data.augment.mixup=0.2"))
    precisions = ("cifar-resnet8:precision=tf32", "cifar-resnet8:precision=float32")
    assert not any(slot.shared for slot in slots("cuda_graph=true", models=precisions))
    assert not can_share(
        dataclasses.replace(GRID, settings=('trackers=["wandb"]', "cuda_graph=true"))
    )
    pretend_two_gpus(monkeypatch, memory=4 * estimate_cell_bytes(GRID), cores=4)
    assert len(slots()) < len(slots("cuda_graph=true"))
