"""OpenMP's wait policy on an idle machine and on a busy one."""

import json
import os
import subprocess
import sys

import pytest
import torch

from resnets.config import replace_fields
from resnets.recipes.small import digits
from resnets.train.run import run_training
from resnets.utils.machine import cpu_count, wait_policy
from resnets.utils.machine.wait_policy import SchedulerStats, WaitPolicy

TWO = pytest.mark.skipif(
    sys.platform != "linux" or cpu_count.affinity() < 2, reason="needs two cores and Linux"
)

# Seconds that threads ran and waited for a core, and their timeslices, in each second of training
# cifar-resnet20 with two threads on two cores, next to some 8 to 16 other programs.
SPINNING_BUSY = [
    SchedulerStats(0.28, 1.68, 87),
    SchedulerStats(0.18, 1.76, 75),
    SchedulerStats(0.41, 1.56, 133),
]
SLEEPING_BUSY = [
    SchedulerStats(0.37, 1.25, 3520),
    SchedulerStats(0.87, 0.74, 10000),
    SchedulerStats(0.12, 1.09, 780),
]
# On an idle machine, not measured but calculated: other programs take two cores 1% of the time, and
# each thread that wakes waits for 10 microseconds.
SPINNING_IDLE = SchedulerStats(1.96, 0.02, 60)
SLEEPING_IDLE = SchedulerStats(1.2, 0.1, 10000)


def test_busy_and_idle_machines_are_distinguished():
    assert all(each.wait_share > wait_policy.BUSY for each in SPINNING_BUSY)
    assert all(each.wait_share > wait_policy.IDLE for each in SLEEPING_BUSY)
    assert SPINNING_IDLE.wait_share < wait_policy.IDLE
    assert SLEEPING_IDLE.wait_share < wait_policy.IDLE


def policies(seconds, share_of):
    """The policy in each half second; `share_of(policy, now)` is what was measured then."""
    wait, found = WaitPolicy(), []
    for half in range(1, 2 * seconds + 1):
        found.append(wait.update(half / 2, share_of(wait.policy, half / 2)))
    return found


def test_threads_sleep_from_the_first_busy_measurement_to_the_first_idle_one():
    found = policies(60, lambda policy, now: 0.4 if 10 <= now < 40 else 0.0)
    assert set(found[:19]) == {"active"}
    assert set(found[19:79]) == {"passive"}
    assert set(found[79:]) == {"active"}


def test_an_idle_machine_keeps_spinning():
    assert set(policies(600, lambda policy, now: 0.1)) == {"active"}


def test_failed_returns_to_spinning_become_rare():
    """Where threads that sleep look undisturbed, and those that spin are not."""
    found = policies(600, lambda policy, now: 0.5 if policy == "active" else 0.0)
    assert 8 <= found.count("active") <= 12
    assert "active" in found[len(found) // 2 :]  # they do not cease


def test_short_bursts_of_load_do_not_add_up():
    """As when a checkpoint is written beside the loop: each costs a few seconds of sleeping."""
    found = policies(600, lambda policy, now: 0.4 if now % 20 < 1 else 0.0)
    assert found.count("passive") <= 0.15 * len(found)


def test_statistics_are_read_of_each_thread_and_of_those_that_began_meanwhile(tmp_path):
    def tell(thread, *numbers):
        (tmp_path / thread).mkdir(exist_ok=True)
        (tmp_path / thread / "schedstat").write_text(" ".join(map(str, numbers)) + "\n")

    tell("11", 5_000_000_000, 1_000_000_000, 40)
    tell("12", 3_000_000_000, 0, 10)
    before = SchedulerStats.read(tmp_path)
    tell("11", 6_000_000_000, 1_500_000_000, 50)
    tell("13", 1_000_000_000, 500_000_000, 5)
    (tmp_path / "12" / "schedstat").write_text("")  # it has ended
    assert SchedulerStats.between(before, SchedulerStats.read(tmp_path)) == SchedulerStats(
        2.0, 1.0, 15
    )


@pytest.mark.parametrize("lines", [[], ["0 0 0"], ["none"]])
def test_a_kernel_that_does_not_measure_is_noticed(tmp_path, lines):
    for number, line in enumerate(lines):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "schedstat").write_text(line)
    assert SchedulerStats.read(tmp_path) is None
    assert SchedulerStats.read(tmp_path / "none") is None


HEAD = """
import os, sys, time
from pathlib import Path
import torch
from resnets.utils.machine import wait_policy

torch.set_num_threads(2)
big = torch.ones(1 << 22)
big.aminmax()
"""

# While the first thread of the team does nothing, its second spins on, for ever, or sleeps too.
SLEEPS = (
    HEAD
    + """
def slept():
    found = 0
    for task in team:
        lines = (task / "status").read_text().splitlines()
        found += next(int(line.split()[1]) for line in lines if line.startswith("voluntary"))
    return found

def while_waiting():
    before = slept()
    for _ in range(30):
        time.sleep(0.003)
        big.aminmax()
    return slept() - before

team = [task for task in Path("/proc/self/task").iterdir() if int(task.name) != os.getpid()]
sleeping, found = wait_policy.PassiveWaiting(wait_policy.libgomp()), [while_waiting()]
for _ in range(2):
    sleeping.on()
    found.append(while_waiting())
    sleeping.off()
    found.append(while_waiting())
print(*found)
"""
)


def run(code, *words, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP", "GOMP"))}
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.ci
@TWO
def test_libgomps_threads_sleep_and_spin_again():
    (line,) = run(SLEEPS, GOMP_SPINCOUNT="1000000000000")
    spun, slept, spun_again, slept_again, spun_at_last = map(int, line.split())
    # 0 and 30 where the second thread gets a core at once.
    assert max(spun, spun_again, spun_at_last) < min(slept, slept_again)


SAME = (
    HEAD
    + """
import hashlib
layer = torch.nn.Sequential(*(torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(3)))
sleeping, sums = wait_policy.PassiveWaiting(wait_policy.libgomp()), set()
for switch in (sleeping.off, sleeping.on, sleeping.off):
    switch()
    torch.manual_seed(0)
    for each in layer:
        each.reset_parameters()
    layer.zero_grad()
    layer(torch.randn(32, 16, 32, 32)).square().mean().backward()
    gradients = b"".join(each.grad.numpy().tobytes() for each in layer.parameters())
    sums.add(hashlib.sha256(gradients).hexdigest())
print(len(sums))
"""
)


@pytest.mark.ci
@TWO
def test_results_do_not_depend_on_how_threads_wait():
    assert run(SAME) == ["1"]


# Other programs, more of them than cores, while a team of two computes: as long as it takes.
BUSY = (
    HEAD
    + """
import subprocess
messages = []
forever = [sys.executable, "-c", "while True: pass"]
others = [subprocess.Popen(forever) for _ in range(2 * len(os.sched_getaffinity(0)))]
try:
    with wait_policy.adapt_wait_policy(messages.append) as controller:
        end = time.monotonic() + 60
        while not messages and time.monotonic() < end:
            big.aminmax()
finally:
    for each in others:
        each.kill()
print(len(messages), controller.changes >= 1, *sorted(controller.to_json()))
"""
)


@pytest.mark.ci
@TWO
def test_under_real_load_threads_sleep_and_it_is_reported():
    assert run(BUSY) == ["1 True wait_passive wait_policy"]


@pytest.fixture
def two_threads(monkeypatch):
    for name in wait_policy.USER_SET:
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@TWO
@pytest.mark.parametrize(
    ("threads", "device", "environment", "reason"),
    [
        (2, "cpu", {}, None),
        (2, "cpu", {"OMP_NUM_THREADS": "2"}, None),
        (1, "cpu", {}, "torch uses one thread"),
        (2, "cuda", {}, "computes on cuda"),
        (2, "cpu", {"OMP_WAIT_POLICY": "active"}, "OMP_WAIT_POLICY is set"),
        (2, "cpu", {"GOMP_SPINCOUNT": "9"}, "GOMP_SPINCOUNT is set"),
    ],
)
def test_when_the_wait_policy_is_not_changed(
    threads, device, environment, reason, two_threads, monkeypatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    torch.set_num_threads(threads)
    with wait_policy.adapt_wait_policy(print, device) as controller:
        assert controller.fixed == reason
        written = controller.to_json()
    assert (written["wait_policy"] == "follows load") == (reason is None)


@TWO
def test_a_run_records_its_wait_policy(tmp_path, two_threads):
    recipe = replace_fields(digits("cifar-resnet8"), {"duration": "2it", "eval.every": "2it"})
    run_training(recipe, tmp_path / "run", device="cpu", quiet=True)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["wait_policy"] == "follows load"
    assert 0 <= environment["wait_passive"] <= 1
