"""A killed run, resumed, ends with the weights of a run that was never stopped, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time

import forked
import pytest
import torch
from paths import HELPERS

from resnets.train.log.timing import STAGES
from resnets.weights.checkpoint.format import LAST, read_checkpoint

pytestmark = pytest.mark.timeout(900)  # seconds; ten are enough where nothing else runs
STEPS = 32
HELD = (HELPERS / "pause_at_step.py", "MainProcess", STEPS - 2)
# From data.augment.policy on: all random draws, by sample and by step, and images that grow.
TRAIN = f"""
    train digits --model cifar-resnet8 --iterations {STEPS} --set checkpoint_every=7it
    --set eval.every=16it --set log_every=5it --set ema_decay=0.9 --device cpu
    --set data.augment.policy=rand --set data.augment.random_erase=0.25
    --set data.augment.mixup=0.2 --set data.augment.cutmix=1.0 --set data.augment.repeats=2
    --set data.balance=sqrt --set data.grow_from=8 --set data.grow_step=4
""".split()


def start(*words, program=("-m", "resnets")):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return forked.Popen(
        [sys.executable, *map(str, program), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(*words):
    process = start(*words)
    out, err = process.communicate(timeout=400)
    return process.returncode, out, err


def wait_for_step(folder, step, process):
    """Wait until metrics.jsonl shows `step`."""
    path = folder / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and any(
            json.loads(line)["step"] >= step for line in path.read_text().splitlines()[:-1]
        ):
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"step {step} not reached: {process.communicate()}")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, out, err = finish(*TRAIN, "--out", str(folder))
    assert code == 0, out + err
    return folder


def rows(folder):
    timing = {"images_per_second", "seconds_per_step", "waiting_for_data", "seconds", *STAGES}
    return [
        {key: value for key, value in json.loads(line).items() if key not in timing}
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def assert_same_end(one, other):
    ours, theirs = (read_checkpoint(run / "checkpoints" / LAST) for run in (one, other))
    assert ours.meta["step"] == theirs.meta["step"] == STEPS
    assert ours.tensors.keys() == theirs.tensors.keys()
    differing = [n for n in ours.tensors if not torch.equal(ours.tensors[n], theirs.tensors[n])]
    assert not differing
    assert rows(one) == rows(other)
    results = [json.loads((run / "result.json").read_text()) for run in (one, other)]
    assert results[0]["test"] == results[1]["test"]


@pytest.mark.parametrize("step", [10, 20])
def test_sigkill_then_resume_is_bitwise_equal(uninterrupted, tmp_path, step):
    folder = tmp_path / "run"
    process = start(*TRAIN, "--out", str(folder), program=HELD)
    wait_for_step(folder, step, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "result.json").exists()
    code, out, err = finish("train", "--resume", str(folder), "--device", "cpu")
    assert code == 0, out + err
    assert_same_end(uninterrupted, folder)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_stop_signal_saves_and_the_run_resumes(uninterrupted, tmp_path, number, code):
    folder = tmp_path / "run"
    process = start(*TRAIN, "--out", str(folder), program=HELD)
    wait_for_step(folder, 10, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    assert f"resnets train --resume {folder}" in out
    stopped_at = read_checkpoint(folder / "checkpoints" / LAST).meta["step"]
    assert 10 <= stopped_at < STEPS
    code, out, err = finish("train", "--resume", str(folder), "--device", "cpu")
    assert code == 0, out + err
    assert f"resuming at step {stopped_at}" in err
    assert_same_end(uninterrupted, folder)


def test_resuming_a_finished_run_changes_nothing(uninterrupted):
    before = (uninterrupted / "checkpoints" / LAST).read_bytes()
    code, out, err = finish("train", "--resume", str(uninterrupted), "--device", "cpu")
    assert code == 0, out + err
    assert (uninterrupted / "checkpoints" / LAST).read_bytes() == before


def test_run_folder_is_not_overwritten(uninterrupted):
    code, _, err = finish(*TRAIN, "--out", str(uninterrupted))
    assert code == 2
    assert f"{uninterrupted} already contains a run; use --resume" in err
