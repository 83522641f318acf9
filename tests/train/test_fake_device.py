"""Training and commands on a simulated CUDA or MPS device (helpers/fake_device.py)."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import forked
import pytest

HELPERS = Path(__file__).parents[1] / "helpers"
TRAINING = ("plain", "settings", "optimizers", "tasks", "evaluation", "resume", "tools")
DETECTION = ("detectors", "inference")

# Waits per step or evaluation.
TASKS = ("focal", "distill", "signals", "text", "quantized")
SCALER = {"value read, train/optim/grad_scaler.py": 1}
OPTIMIZERS = {
    "lamb": {},
    "muon": {},
    "float16 lamb": SCALER,
    "float16 muon": SCALER,
    "hold": {"value read, train/step.py": 1},
}
SUMS = {"copy to the host, evaluate/metrics/multiclass.py": 8}
EVALUATIONS = {
    "digits": SUMS,
    "signals": SUMS,
    "text": {"value read, sequence/evaluate.py": 1},
    "sets of labels": {},
}
STEPS_OF_DETECTORS = {
    "detect fpn": 2 + 5,
    "detect c4": 2 + 4,
    "instances": 2 + 6,
    "localize": 1,
    "localize rcnn": 3,
}
INFERENCE = {
    "detect fpn": [2 + 4, 4 + 4],
    "detect c4": [2 + 3, 4 + 3],
    "instances": [2 + 5, 4 + 5],
    "refined": [2 + 6, 4 + 6],
    "two scales": [2 + 6, 4 + 6],
    "localize": [1, 1],
    "localize rcnn": [2, 2],
    "segment": [1, 1],
}


def on_device(kind: str, folder: Path, *parts: str) -> Any:
    """What fake_device_runs.py prints."""
    path = os.pathsep.join([str(HELPERS), *sys.path])
    done = forked.run(
        [sys.executable, str(HELPERS / "fake_device_runs.py"), kind, str(folder), *parts],
        env={**os.environ, "PYTHONPATH": path, "RESNETS_NATIVE": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
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


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Parts that train, in one process, whose start takes seconds."""
    return on_device("cuda", tmp_path_factory.mktemp("cuda"), *TRAINING, "graph", "threads")


@pytest.fixture(scope="module")
def detection(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return on_device("cuda", tmp_path_factory.mktemp("detection"), *DETECTION)


def test_cuda_equals_the_cpu(cuda, cpu) -> None:
    assert cuda["mixed"] == "RuntimeError"
    assert cuda["plain"]["loss"] == cpu["plain"]["loss"]
    assert cuda["resumed"] == cpu["resumed"]
    gpu = {"device_name": "simulated", "gpu_memory": 80 << 30, "compute_capability": "9.0"}
    gpu |= {"precision": "float32", "cudnn_benchmark": True}
    assert cuda["environment"].items() >= gpu.items()
    assert {"cuda", "cudnn", "driver"} <= cuda["environment"].keys()
    assert_tools_work(cuda)


def test_a_step_does_not_synchronize(cuda) -> None:
    """In the loop of a run, with other settings, and for other losses and tasks."""
    assert cuda["plain"]["waits"] == {}
    assert cuda["settings"] == {"mixing": {}, "policy": {}, "float16": {}}
    assert cuda["tasks"] == {name: {} for name in TASKS}
    assert cuda["graph"] == {"steps": 8, "waits": {}}


def test_an_evaluation_waits_for_its_sums(cuda) -> None:
    """The sums are read at the end; the data lie on the device since the first evaluation."""
    assert cuda["evaluation"] == EVALUATIONS


def test_a_step_of_a_detector_waits_for_lengths_and_suppressions_only(detection) -> None:
    """Two images: one suppression each; boxes to keep, samples of both halves, objects, levels."""
    assert detection["detectors"] == STEPS_OF_DETECTORS


def test_inference_of_a_batch_waits_for_suppressions_and_a_constant_number_of_copies(
    detection,
) -> None:
    """One and two images: two suppressions each; proposals, levels, candidates and the outputs."""
    assert detection["inference"] == INFERENCE


def test_cells_in_threads_equal_cells_alone(cuda) -> None:
    (in_threads, alone), streams = cuda["threads"]
    assert in_threads == alone
    assert in_threads[0] != in_threads[1]
    assert streams <= 2  # later cells use those of ended ones


def test_synchronizing_steps_synchronize_once(cuda) -> None:
    """For a gradient that is not finite, by an optimizer that is not fused, and for the error."""
    assert cuda["optimizers"] == OPTIMIZERS


def test_a_resumed_run_on_mps_equals_the_cpu_without_float64(tmp_path: Path, cpu) -> None:
    """Steps, evaluations, checkpoints and reports of a small network."""
    found = on_device("mps", tmp_path, "resume")
    assert found["mixed"] == "RuntimeError"
    assert found["resumed"] == pytest.approx(cpu["resumed"], rel=1e-6)


def without_copies(found: dict[str, Any]) -> dict[str, Any]:
    """Waits other than copies to the device, which always block on MPS."""
    return {
        name: {kind: n for kind, n in waits.items() if not kind.startswith("copy to the device")}
        for name, waits in found.items()
    }


@pytest.mark.ci
def test_mps_equals_the_cpu_without_float64(tmp_path: Path, cpu) -> None:
    """Detectors and their outputs are compared with the CPU's in the process."""
    found = on_device("mps", tmp_path, *TRAINING, *DETECTION)
    assert found["mixed"] == "RuntimeError"
    assert found["plain"]["loss"] == pytest.approx(cpu["plain"]["loss"], rel=1e-6)
    assert found["resumed"] == pytest.approx(cpu["resumed"], rel=1e-6)
    assert_tools_work(found)
    assert without_copies(found["settings"]) == {"mixing": {}, "policy": {}, "float16": SCALER}
    assert without_copies(found["tasks"]) == {name: {} for name in TASKS}
    assert without_copies(found["optimizers"]) == OPTIMIZERS
    assert without_copies(found["evaluation"]) == EVALUATIONS
    assert found["detectors"].keys() == STEPS_OF_DETECTORS.keys()
    assert found["inference"].keys() == INFERENCE.keys()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_commands_work_on_a_device(kind: str, tmp_path: Path) -> None:
    found = on_device(kind, tmp_path, "plain", "commands")
    assert found["statuses"] == [0] * 7


def test_a_checkpoint_waits_for_copies_from_a_device_that_is_not_the_current_one(
    tmp_path: Path,
) -> None:
    assert on_device("cuda:1", tmp_path) is True
