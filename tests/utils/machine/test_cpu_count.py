"""CPUs available to a process: affinity and cgroup quota."""

import os
import subprocess
import sys

import pytest
import torch

from resnets.utils.machine import cpu_count


def tree(folder, line, files):
    """A fake cgroup file system in `folder` and the /proc/self/cgroup that belongs to it."""
    (folder / "process").write_text(line + "\n")
    for name, text in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return folder / "cgroup", folder / "process"


V1 = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc"


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/pod/box", {"pod/box/cpu.max": "max 100000", "pod/cpu.max": "50000 100000"}, 0.5),
        ("0::/pod/box", {"pod/box/cpu.max": "100000 50000", "pod/cpu.max": "3 1"}, 2.0),
        ("0::/../elsewhere", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/gone", {}, None),
        ("0::/", {"cpu.max": "rubbish"}, None),
        ("0::/", {"cpu.max": "100 0"}, None),
        (
            V1,
            {
                "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "250000",
                "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000",
            },
            2.5,
        ),
        # In a container the path of /proc is the host's, and the mount starts at the group itself.
        (V1, {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("0::/\n" + V1, {"unified/cpu.max": "100000 100000"}, 1.0),
        ("", {}, None),
    ],
)
def test_quota_of_both_versions(tmp_path, line, files, expected):
    assert cpu_count.quota(*tree(tmp_path, line, files)) == expected


def test_without_cgroups_the_quota_is_unlimited(tmp_path):
    assert cpu_count.quota(tmp_path, tmp_path / "none") is None


CODE = """
from pathlib import Path
from resnets.utils.machine import cpu_count
cpu_count.ROOT, cpu_count.PROCESS = Path({root!r}), Path({process!r})
cpu_count.limit_threads()
import torch
from resnets.study.grid.worker import choose_slots
print(cpu_count.cores(), torch.get_num_threads(), len(choose_slots(None, None, "cpu", 8)))
"""


def threads_under(root, process, *prefix, **environment):
    clean = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    code = CODE.format(root=str(root), process=str(process))
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.ci
@pytest.mark.skipif(cpu_count.affinity() < 2, reason="one core has nothing to leave out")
def test_threads_workers_and_study_jobs_follow_the_quota(tmp_path):
    root, process = tree(tmp_path, "0::/", {"cpu.max": "150000 100000"})
    assert threads_under(root, process) == [1, 1, 1]
    assert threads_under(root, process, OMP_NUM_THREADS="2")[1] == 2  # set by the user


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="taskset")
def test_threads_follow_the_affinity(tmp_path):
    first = min(os.sched_getaffinity(0))
    root, process = tree(tmp_path, "0::/", {"cpu.max": "max 100000"})
    assert threads_under(root, process, "taskset", "-c", str(first)) == [1, 1, 1]


class FakeStat:
    """A /proc/stat with two CPUs of this process and one of others, and time that passes."""

    def __init__(self, path, monkeypatch):
        self.path, self.now, self.ticks = path, 100.0, os.sysconf("SC_CLK_TCK")
        self.own = 0.0
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
        monkeypatch.setattr(os, "times", lambda: os.times_result((self.own, 0, 0, 0, 0)))
        monkeypatch.setattr(cpu_count.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(cpu_count.time, "sleep", self.sleep)
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        self.busy = [50.0, 60.0, 70.0]
        self.write()

    def sleep(self, seconds):
        self.pass_time(seconds)

    def pass_time(self, seconds, *, cpus=(0.0, 0.0, 0.0), own=0.0):
        self.now += seconds
        self.own += own * seconds
        self.busy = [busy + share * seconds for busy, share in zip(self.busy, cpus, strict=True)]
        self.write()

    def write(self):
        lines = [f"cpu {int(sum(self.busy) * self.ticks)} 0 0 1 0 0 0 0 0 0"]
        for number, busy in enumerate(self.busy):  # idle and waiting for disks do not count
            lines.append(f"cpu{number} {int(busy * self.ticks)} 0 0 999 777 0 0 0 0 0")
        self.path.write_text("\n".join([*lines, "intr 5", "procs_running 9"]) + "\n")


@pytest.mark.parametrize(
    ("cpus", "own", "others", "free"),
    [
        ((0.0, 0.0, 1.0), 0.0, 0.0, 2),
        ((1.0, 0.25, 1.0), 1.0, 0.25, 2),  # this process and a little beside it
        ((1.0, 1.0, 0.0), 1.0, 1.0, 1),
        ((1.0, 1.0, 0.0), 0.25, 1.75, 1),  # never none
    ],
)
def test_cores_that_other_programs_use(tmp_path, monkeypatch, cpus, own, others, free):
    stat = FakeStat(tmp_path / "stat", monkeypatch)
    load = cpu_count.OtherLoad(stat.path)
    stat.pass_time(4.0, cpus=cpus, own=own)
    assert load.cores() == pytest.approx(others, abs=0.02)
    assert load.free_cores() == free


def test_other_load_is_measured_for_some_time(tmp_path, monkeypatch):
    stat = FakeStat(tmp_path / "stat", monkeypatch)
    load = cpu_count.OtherLoad(stat.path)
    assert load.cores() == 0.0
    assert stat.now == 100.0 + cpu_count.MIN_WINDOW


@pytest.mark.parametrize("text", ["", "cpu 1 2 3\nintr 7\n"])
def test_without_statistics_of_cpus_all_cores_count(tmp_path, text):
    (tmp_path / "stat").write_text(text)
    load = cpu_count.OtherLoad(tmp_path / "stat")
    assert load.cores() is None
    assert load.free_cores() == cpu_count.cores()


def test_a_quota_does_not_count_as_the_users_number_of_threads(monkeypatch):
    for name in ("OMP_NUM_THREADS", cpu_count.LIMIT):
        monkeypatch.delenv(name, raising=False)
    assert not cpu_count.is_fixed()
    monkeypatch.setattr(cpu_count, "affinity", lambda: 16)
    monkeypatch.setattr(cpu_count, "quota", lambda: 4.0)
    threads = torch.get_num_threads()
    cpu_count.limit_threads()
    torch.set_num_threads(threads)
    assert os.environ["OMP_NUM_THREADS"] == "4"
    assert not cpu_count.is_fixed()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cpu_count.is_fixed()
    os.environ.pop(cpu_count.LIMIT, None)
