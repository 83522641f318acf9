"""Processes that die, hang or are stopped: a clear message, and nothing lost (real torchrun)."""

import json
import re
import signal
import sys
import time
from pathlib import Path

import chaos
import forked
import pytest
import torch
from compare_runs import difference
from scale_runs import ENVIRONMENT, TRAIN, finish, start

from resnets.weights.checkpoint.format import LAST, read_checkpoint

SLOW = pytest.mark.slow


def assert_same(one: Path, other: Path) -> None:
    assert difference(one, other) == ""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing befell."""
    out = tmp_path_factory.mktemp("faults") / "whole"
    code, _, err = finish(*TRAIN, "--devices", "2", "--out", str(out))
    assert code == 0, err
    return out


@pytest.mark.ci
def test_a_process_that_is_killed_starts_again_with_the_others(whole, tmp_path):
    out = tmp_path / "run"
    words = ("--devices", "2", "--max-restarts", "1", "--out", str(out))
    code, _, err = finish(*TRAIN, *words, fault="kill rank 1 at step 8 once", MARK=str(tmp_path))
    assert code == 0, err
    assert (tmp_path / "met").exists()
    # Rank 0 says that it lost another process, unless the launcher has ended it before.
    assert_same(whole, out)


@pytest.mark.slow
def test_without_restarts_the_run_ends_with_one_line_and_can_be_resumed(whole, tmp_path):
    out = tmp_path / "run"
    fault = "kill rank 1 at step 8 once"
    code, _, err = finish(
        *TRAIN, "--devices", "2", "--out", str(out), fault=fault, MARK=str(tmp_path)
    )
    assert code == 1
    assert "resnets train: rank 1 was ended by SIGKILL; resume with --resume" in err
    assert "Traceback" not in err
    code, _, err = finish("train", "--resume", str(out), "--devices", "2", "--device", "cpu")
    assert code == 0, err
    assert_same(whole, out)


def test_sigterm_saves_and_fewer_processes_resume(whole, tmp_path):
    out = tmp_path / "run"
    words = ("--devices", "2", "--set", "optim.shard=true", "--out", str(out))
    process = start(*TRAIN, *words, fault="wait at step 10")
    rows = out / "metrics.jsonl"
    while not (rows.exists() and '"step": 8' in rows.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert re.search(rf"stopped at step (9|10); saved {out / 'checkpoints' / LAST}", output)
    code, _, err = finish("train", "--resume", str(out), "--device", "cpu")  # one process
    assert code == 0, err
    one, other = (read_checkpoint(run / "checkpoints" / LAST).tensors for run in (whole, out))
    for name, tensor in one.items():  # the same batches; sums in another order
        assert torch.allclose(tensor.double(), other[name].double(), 0.05, 5e-3), name
    alone = json.loads((out / "environment.json").read_text())
    assert alone["processes"] == 1


@pytest.mark.slow
def test_all_processes_stop_when_one_gets_a_signal(whole, tmp_path):
    out = tmp_path / "run"
    words = ("--devices", "2", "--out", str(out))
    code, output, err = finish(*TRAIN, *words, fault="term rank 1 at step 8")
    assert code == 0, err
    assert f"stopped at step 8; saved {out / 'checkpoints' / LAST}" in output
    assert read_checkpoint(out / "checkpoints" / LAST).step == 8
    code, _, err = finish("train", "--resume", str(out), "--devices", "2", "--device", "cpu")
    assert code == 0, err
    assert_same(whole, out)


@pytest.mark.slow
def test_a_process_that_hangs_is_ended_and_says_where(tmp_path):
    out = tmp_path / "run"
    words = ("--devices", "2", "--hang-after", "8", "--out", str(out))
    code, _, err = finish(*TRAIN, *words, fault="hang rank 1 at step 8")
    assert code != 0
    assert re.search(r"rank \d of 2: step 9 did not finish within 8 s; last good checkpoint: ", err)
    assert re.search(r"rank 1 of 2: step 9 did not finish|in hang", err)
    assert "most recent call first" in err


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_stops_all(tmp_path):
    out = tmp_path / "run"
    code, _, err = finish(*TRAIN, "--devices", "2", "--out", str(out), fault="nan rank 1 at step 8")
    assert code == 1
    assert re.search(r"rank 0: the loss is nan at step (8|9|10); last good checkpoint: .*last", err)
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_thread_that_fails_to_read_ends_all_with_one_line_each(tmp_path):
    out = tmp_path / "run"
    words = ("--devices", "2", "--set", "data.augment.crop=random-resized", "--out", str(out))
    code, _, err = finish(*TRAIN, *words, fault="read rank 1 at step 8")
    assert code == 1
    assert re.search(r"resnets train: rank 1: images/\d+\.png: Input/output error", err)
    assert re.search(r"rank 0: lost another of the 2 processes at step \d; last good check", err)
    assert "Traceback" not in err


def test_torchrun_needs_a_folder_and_errors_are_printed_once(tmp_path):
    run = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    words = ("-m", "resnets", "train", "digits", "--data", "nowhere", "--out", str(tmp_path))
    done = forked.run(
        [*run, *words, "--device", "cpu"],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=300,
    )  # fmt: skip
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("resnets train")]
    assert len(lines) == 1
    assert lines[0].startswith("resnets train: rank 0: nowhere")
    for words, message in (
        (["--devices", "0"], "at least 1"),
        (["--devices", "2", "--go-on"], "--resume-if-exists: "),
    ):
        code, _, err = finish("train", "digits", *words)
        assert code == 2
        assert message in err


@pytest.mark.parametrize(
    ("processes", "kills"),
    [
        pytest.param(1, 3, marks=pytest.mark.ci),
        pytest.param(1, 20, marks=SLOW),
        pytest.param(2, 20, marks=SLOW),
    ],
)
def test_chaos(tmp_path, processes, kills):
    """Kills at random times; `python tests/helpers/chaos.py` does it 100 times."""
    whole = tmp_path / "whole"
    words = chaos.train_arguments(kills, processes)
    code, _, err = finish(*words, "--out", str(whole))
    assert code == 0, err
    done, out = chaos.train_with_kills(tmp_path, words, processes, kills, seed=5)
    assert done == kills
    assert_same(whole, out)
