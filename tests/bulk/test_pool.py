"""The worker pool: no shard lost, dead workers replaced, no orphans."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bulk_workers import IMAGES, Plan, exit_at_start
from paths import HELPERS

from resnets.bulk.pool import Progress, ShardDone, ShardFailed, WorkerDied, WorkerError, run_shards


def test_each_shard_is_done_once_by_several_processes(tmp_path: Path):
    events = list(run_shards(Plan(tmp_path, slow=0.02).make, range(8), 2))
    assert sorted(event.shard for event in events if isinstance(event, ShardDone)) == list(range(8))
    pids = {note.read_text() for note in tmp_path.iterdir()}
    assert len(pids) == 2
    assert str(os.getpid()) not in {pid.strip() for pid in pids}
    assert sum(event.images for event in events if isinstance(event, Progress)) == 8 * IMAGES


def test_dead_workers_are_replaced_and_their_shards_redone(tmp_path: Path):
    events = list(run_shards(Plan(tmp_path, deaths=((1, 1), (4, 2))).make, range(6), 2))
    assert sorted(event.shard for event in events if isinstance(event, ShardDone)) == list(range(6))
    died = [(event.shard, event.reason) for event in events if isinstance(event, WorkerDied)]
    assert sorted(died) == [(1, "SIGKILL"), (4, "SIGKILL"), (4, "SIGKILL")]
    # What the dead had reported does not count.
    assert sum(event.images for event in events if isinstance(event, Progress)) == 6 * IMAGES


def test_a_returned_shard_goes_to_an_idle_worker(tmp_path: Path):
    """The worker of shard 0 has nothing to do any more when that of shard 1 dies."""
    events = list(run_shards(Plan(tmp_path, deaths=((1, 1),), slow=0.3).make, range(2), 2))
    assert [event.shard for event in events if isinstance(event, ShardDone)] == [0, 1]
    assert sum(event.images for event in events if isinstance(event, Progress)) == 2 * IMAGES


def test_a_shard_that_kills_every_worker_is_skipped_and_the_others_are_done(tmp_path: Path):
    events = list(run_shards(Plan(tmp_path, deaths=((2, 99),)).make, range(5), 1))
    assert [event.shard for event in events if isinstance(event, ShardFailed)] == [2]
    assert sorted(event.shard for event in events if isinstance(event, ShardDone)) == [0, 1, 3, 4]
    assert len([event for event in events if isinstance(event, WorkerDied)]) == 3


def test_an_error_common_to_all_workers_stops_them(tmp_path: Path):
    with pytest.raises(WorkerError, match="No space left"):
        list(run_shards(Plan(tmp_path, fail_at=1).make, range(50), 2))


def test_workers_that_never_get_ready_are_not_retried_forever():
    with pytest.raises(WorkerError, match=r"exit code 3"):
        list(run_shards(exit_at_start, range(2), 1))


def test_workers_end_with_the_first_process_however_it_ends(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from bulk_workers import Plan;"
        "from resnets.bulk.pool import run_shards\n"
        "if __name__ == '__main__':\n"
        "    list(run_shards(Plan(Path(sys.argv[1]), slow=60.0).make, range(2), 2))\n"
    )
    script = tmp_path / "first.py"
    script.write_text(f"import sys; sys.path.append({str(HELPERS)!r})\n{code}")
    notes = tmp_path / "notes"
    notes.mkdir()
    first = subprocess.Popen([sys.executable, str(script), str(notes)])
    while sum(note.stat().st_size > 0 for note in notes.iterdir()) < 2:
        assert first.poll() is None
        time.sleep(0.02)
    pids = [int(note.read_text()) for note in notes.iterdir()]
    first.kill()
    first.wait()
    ends = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < ends
        time.sleep(0.02)
