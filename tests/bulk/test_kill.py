"""Bulk prediction whose processes are killed repeatedly, also under Ray."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bulk_runs import children, contents, kill, predict_here, save_list, start, wait_for_shards
from paths import HELPERS

SHARDS = ("--shard-size", "100")
KILLS = 30


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_thirty_kills_at_random_times_change_nothing(digits_run, tmp_path):
    """The first process, all, or a worker is killed, from the first import to the last shard."""
    data, out = save_list(tmp_path, 60_000), tmp_path / "out"
    predict_here(digits_run, data, tmp_path / "reference", shard_size=100)
    rng = np.random.default_rng()
    kills = dict.fromkeys(("first", "all", "worker"), 0)
    while sum(kills.values()) < KILLS:
        process = start(digits_run, data, out, *SHARDS, "--processes", str(rng.integers(1, 4)))
        before = len(list(out.glob("part-*")))
        if rng.random() < 0.75:  # otherwise also while the program starts
            wait_for_shards(process, out, before + 1)
        time.sleep(rng.exponential(1.5))
        if process.poll() is not None:  # a fast machine has finished: remove half of the shards
            assert process.returncode == 0, process.communicate()
            for part in sorted(out.glob("part-*"))[::2]:
                part.unlink()
            continue
        target = str(rng.choice(list(kills)))
        if target == "worker":
            # The youngest child is a worker, or the server that workers are forked from.
            for pid in children(process.pid)[-1:]:
                os.kill(pid, signal.SIGKILL)
                kills["worker"] += 1
            time.sleep(rng.exponential(1.0))
        else:
            kills[target] += 1
        kill(process, group=target == "all")
    process = start(digits_run, data, out, *SHARDS, "--processes", "2")
    _, stderr = process.communicate()
    print(kills)
    assert process.returncode == 0, stderr
    assert contents(out) == contents(tmp_path / "reference")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_worker_is_replaced_while_the_others_continue(digits_run, tmp_path):
    data, out = save_list(tmp_path, 20_000), tmp_path / "out"
    predict_here(digits_run, data, tmp_path / "reference", shard_size=100)
    process = start(digits_run, data, out, *SHARDS, "--processes", "2")
    for count in (5, 60):
        wait_for_shards(process, out, count)
        os.kill(children(process.pid)[-1], signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert stderr.count("died (SIGKILL)") == 2
    assert contents(out) == contents(tmp_path / "reference")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ray_replaces_a_killed_worker_and_loses_no_row(digits_run, tmp_path):
    pytest.importorskip("ray.data", reason="Ray is not installed")
    data, out = save_list(tmp_path, 20_000), tmp_path / "out"
    predict_here(digits_run, data, tmp_path / "reference", shard_size=100)
    process = start(digits_run, data, out, *SHARDS, "--processes", "2", "--engine", "ray")
    wait_for_shards(process, out, 3)
    workers = [pid for pid in children(process.pid) if "MapBatches(_Actor)" in read_name(pid)]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert contents(out) == contents(tmp_path / "reference")


def read_name(pid: int) -> str:
    """The command line of a process; "" if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text("utf-8", "replace")
    except OSError:
        return ""


MEASURE = """
import resource, sys
from pathlib import Path
sys.path.append(sys.argv[1])
from bulk_runs import predict_here
predict_here(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), shard_size=int(sys.argv[5]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


@pytest.mark.ci
def test_memory_does_not_grow_with_the_data_set(digits_run, tmp_path):
    """Eight times as many images, of 3 MB each when decoded, all in one shard."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((1000, 1000)).save(tmp_path / "large.jpg")
    peaks = []
    for count in (40, 320):
        data = tmp_path / f"{count}.txt"
        data.write_text("large.jpg\n" * count, "utf-8")
        arguments = [HELPERS, digits_run, data, tmp_path / f"out-{count}", count]
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *map(str, arguments)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 60, peaks  # MiB; the decoded images would take 800
