"""The number of threads of a run: those that other programs leave, and fixed from its start on."""

import json
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from resnets.config import replace_fields
from resnets.recipes import recipe as named_recipe
from resnets.train.run import run_training
from resnets.utils.machine import cpu_count

TWO = pytest.mark.skipif(cpu_count.cores() < 2, reason="needs two cores")


@contextmanager
def all_cores_busy():
    """Endless loops, two per core."""
    forever = [sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(forever) for _ in range(2 * cpu_count.affinity())]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@pytest.fixture
def free_threads(monkeypatch):
    """As where OMP_NUM_THREADS is not set."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(cpu_count.affinity())
    yield monkeypatch
    torch.set_num_threads(before)


def short(steps):
    fields = {"duration": f"{steps}it", "eval.every": f"{steps}it"}
    return replace_fields(named_recipe("digits", "cifar-resnet8"), fields)


def environment(out):
    return json.loads((out / "environment.json").read_text())


@pytest.mark.ci
@TWO
def test_a_run_leaves_busy_cores_to_others_and_keeps_its_number_of_threads(tmp_path, free_threads):
    recipe = replace_fields(
        named_recipe("digits", "cifar-resnet8"), {"duration": "2it", "eval.every": "2it"}
    )
    out = tmp_path / "run"
    with all_cores_busy():
        result = run_training(recipe, out, device="cpu", quiet=True)
    assert environment(out)["threads"] == 1
    assert environment(out)["wait_policy"] == "unchanged: torch uses one thread"
    assert any(f"1 of {cpu_count.affinity()} threads" in each["note"] for each in result["history"])
    assert torch.get_num_threads() == cpu_count.affinity()  # restored

    run_training(None, out, device="cpu", quiet=True, duration="3it")
    assert environment(out)["threads"] == 1

    free_threads.setenv("OMP_NUM_THREADS", str(cpu_count.affinity()))
    run_training(None, out, device="cpu", quiet=True, duration="4it")
    assert environment(out)["threads"] == cpu_count.affinity()


@pytest.mark.ci
@TWO
def test_omp_num_threads_is_kept_on_a_busy_machine(tmp_path, free_threads):
    free_threads.setenv("OMP_NUM_THREADS", str(cpu_count.affinity()))
    recipe = replace_fields(
        named_recipe("digits", "cifar-resnet8"), {"duration": "1it", "eval.every": "1it"}
    )
    with all_cores_busy():
        run_training(recipe, tmp_path / "run", device="cpu", quiet=True)
    assert environment(tmp_path / "run")["threads"] == cpu_count.affinity()
