"""Training and commands on a simulated CUDA or MPS device (helpers/fake_device.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"


def on_device(kind: str, folder: Path, *parts: str) -> Any:
    """What fake_device_runs.py prints."""
    path = os.pathsep.join([str(HELPERS), *sys.path])
    done = subprocess.run(
        [sys.executable, str(HELPERS / "fake_device_runs.py"), kind, str(folder), *parts],
        env={**os.environ, "PYTHONPATH": path, "RESNETS_NATIVE": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def cpu(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return on_device("cpu", tmp_path_factory.mktemp("cpu"))


def assert_tools_work(found: Any) -> None:
    """Evaluation, Grad-CAM, a detector, an export and bulk prediction on the device."""
    assert found["tools"] == [0, 0, 0]
    assert found["explained"] == 1
    assert found["exported"] < 1e-4
    assert found["bulk_processes"] == 1


def test_cuda_equals_the_cpu_and_a_step_does_not_synchronize(tmp_path: Path, cpu) -> None:
    found = on_device(
        "cuda", tmp_path, "settings", "graph", "resume", "cell", "tools", "evaluation"
    )
    assert found["mixed"] == "RuntimeError"
    assert found["plain"]["loss"] == cpu["plain"]["loss"]
    assert found["resumed"] == cpu["resumed"]
    assert found["cell"]
    gpu = {"device_name": "simulated", "gpu_memory": 80 << 30, "compute_capability": "9.0"}
    gpu |= {"precision": "float32", "cudnn_benchmark": True}
    assert found["environment"].items() >= gpu.items()
    assert {"cuda", "cudnn", "driver"} <= found["environment"].keys()
    for settings in ("plain", "mixing", "policy", "float16"):
        assert found[settings]["waits"] == {}, settings
    assert found["graph"]["steps"] == 8
    assert found["graph"]["waits"] == {}
    # The sums are read at the end; the data lie on the device since the first evaluation.
    sums = {"copy to the host, evaluate/metrics/multiclass.py": 8}
    assert found["evaluation of digits"] == sums
    assert found["evaluation of signals"] == sums
    assert found["evaluation of text"] == {"value read, sequence/evaluate.py": 1}
    assert found["evaluation of sets of labels"] == 0
    assert_tools_work(found)


def test_a_step_of_a_detector_waits_for_lengths_and_suppressions_only(tmp_path: Path) -> None:
    """Two images: one suppression each; boxes to keep, samples of both halves, objects, levels."""
    found = on_device("cuda", tmp_path, "detectors")["detectors"]
    rest = {"detect c4": 2 + 4, "instances": 2 + 6, "localize": 1, "localize rcnn": 3}
    assert found == {"detect fpn": 2 + 5, **rest}


def test_inference_of_a_batch_waits_for_suppressions_and_a_constant_number_of_copies(
    tmp_path: Path,
) -> None:
    """One and four images: two suppressions each; proposals, levels, candidates and the outputs."""
    found = on_device("cuda", tmp_path, "inference")["inference"]
    suppressions = {
        "detect fpn": [2 + 4, 8 + 4],
        "detect c4": [2 + 3, 8 + 3],
        "instances": [2 + 5, 8 + 5],
        "refined": [2 + 6, 8 + 6],
        "two scales": [2 + 6, 8 + 6],
    }
    assert found == suppressions | {"localize": [1, 1], "localize rcnn": [2, 2], "segment": [1, 1]}


def test_cells_in_threads_equal_cells_alone(tmp_path: Path) -> None:
    (in_threads, alone), streams = on_device("cuda", tmp_path, "threads")["threads"]
    assert in_threads == alone
    assert in_threads[0] != in_threads[1]
    assert streams <= 2  # later cells use those of ended ones


def test_steps_of_other_losses_and_tasks_do_not_synchronize(tmp_path: Path) -> None:
    found = on_device("cuda", tmp_path, "tasks")
    for task in ("focal", "distill", "signals", "text"):
        assert found[task]["waits"] == {}, task


def test_synchronizing_steps_synchronize_once(tmp_path: Path) -> None:
    """For a gradient that is not finite, by an optimizer that is not fused, and for the error."""
    found = on_device("cuda", tmp_path, "optimizers")
    once = {"value read, train/optim/grad_scaler.py": 1}
    expected = {"lamb": {}, "muon": {}, "float16 lamb": once, "float16 muon": once}
    expected["hold"] = {"value read, train/step.py": 1}
    assert {name: found[name]["waits"] for name in expected} == expected


def test_mps_equals_the_cpu_without_float64(tmp_path: Path, cpu) -> None:
    found = on_device("mps", tmp_path, "resume", "tools")
    assert found["mixed"] == "RuntimeError"
    assert found["plain"]["loss"] == pytest.approx(cpu["plain"]["loss"], rel=1e-6)
    assert found["resumed"] == pytest.approx(cpu["resumed"], rel=1e-6)
    assert_tools_work(found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_commands_work_on_a_device(kind: str, tmp_path: Path) -> None:
    found = on_device(kind, tmp_path, "commands")
    assert found["statuses"] == [0] * 7


def test_a_checkpoint_waits_for_copies_from_a_device_that_is_not_the_current_one(
    tmp_path: Path,
) -> None:
    assert on_device("cuda:1", tmp_path) is True
