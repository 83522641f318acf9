"""OpenMP's threads spin on a quiet machine and sleep on a busy one.

The threads that compute a step meet after each of its parallel loops, a thousand times in a step
of a small network. By default libgomp lets those that come early spin for some milliseconds, which
is fastest as long as each has a core of its own. Where another program wants the cores too, they
spin while the thread they wait for is not running, and often on the core it needs: a step then
takes tens of times as long.

So a thread beside the loop measures, twice a second, how long the process's threads were ready to
run and did not get a core (`Demand`), `WaitPolicy` decides by it, and `SleepingThreads` carries it
out. Only the way of waiting changes, never the number of threads, on which sums and so the last
bits of results depend: results are the same on a quiet machine and on a busy one.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from resnets.utils import cpu_count

Policy = Literal["active", "passive"]  # as OMP_WAIT_POLICY calls them
TASKS = Path("/proc/self/task")
MAPS = Path("/proc/self/maps")
USER_SET = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # the user has decided
OTHER_LIBRARIES = ("libomp.", "libomp-", "libiomp")  # LLVM's and Intel's

INTERVAL = 0.5  # seconds between two measurements
# A thread that wakes on an idle core is counted as waiting too, until the core has it.
WAKING = 20e-6
BUSY, QUIET = 0.15, 0.08  # share of its time that a ready thread waited for a core
HOLD, LONGEST_HOLD = 2.0, 120.0  # seconds of sleeping before spinning is tried again
SETTLED = 5.0  # seconds after which a change is no longer a trial


@dataclass(frozen=True)
class Demand:
    """Seconds that the threads of this process ran, and were ready but did not; times they began.

    All of them since they were started; threads that ended are left out.
    """

    running: float
    waiting: float
    turns: int

    @classmethod
    def read(cls, tasks: Path = TASKS) -> dict[str, Demand] | None:
        """Of each thread by its id, from the kernel's schedstat; None where it has none."""
        found = {}
        try:
            names = os.listdir(tasks)
        except OSError:
            return None
        for name in names:
            with suppress(OSError, ValueError):  # it has ended meanwhile
                words = (tasks / name / "schedstat").read_text(encoding="ascii").split()
                running, waiting, turns = (int(word) for word in words)
                found[name] = cls(running / 1e9, waiting / 1e9, turns)
        return found if any(each.running for each in found.values()) else None

    @staticmethod
    def between(before: dict[str, Demand], after: dict[str, Demand]) -> Demand:
        """What all threads had from one reading to the next."""
        running, waiting, turns = 0.0, 0.0, 0
        for name, now in after.items():
            then = before.get(name, Demand(0.0, 0.0, 0))
            running += max(0.0, now.running - then.running)
            waiting += max(0.0, now.waiting - then.waiting)
            turns += max(0, now.turns - then.turns)
        return Demand(running, waiting, turns)

    @property
    def short_of_cores(self) -> float:
        """Share of the time in which a thread was ready to run and had no core, 0 to 1."""
        waiting = max(0.0, self.waiting - self.turns * WAKING)
        return waiting / (self.running + waiting) if waiting else 0.0


class WaitPolicy:
    """Active until threads go short of cores, then passive until they no longer do.

    Sleeping threads are disturbed less than spinning ones and so may look undisturbed on a machine
    that is still busy. Where a return to spinning fails at once the next one is tried after twice
    the time, LONGEST_HOLD at most.
    """

    def __init__(self) -> None:
        self.policy: Policy = "active"
        self._since = self._hold = 0.0

    def update(self, now: float, short_of_cores: float) -> Policy:
        """The policy from `now` on (seconds), by what was measured since the last update."""
        lasted = now - self._since
        if self.policy == "active" and short_of_cores > BUSY:
            failed = self._hold and lasted < SETTLED
            self._hold = min(LONGEST_HOLD, 2 * self._hold) if failed else HOLD
            self.policy, self._since = "passive", now
        elif self.policy == "passive" and short_of_cores < QUIET and lasted >= self._hold:
            self.policy, self._since = "active", now
        return self.policy


class SleepingThreads:
    """While it is on, libgomp's threads spin for microseconds and then sleep.

    libgomp does so while there are more OpenMP threads than processors (its manual, at
    GOMP_SPINCOUNT), so this keeps a team of threads that do nothing. `on` and `off` may be called
    at any time, in any thread.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self._thread: threading.Thread | None = None
        self._end = threading.Event()

    def on(self) -> None:
        """Start the team."""
        if self._thread is None:
            began = threading.Event()
            self._end.clear()
            self._thread = threading.Thread(target=self._keep, args=(began,), daemon=True)
            self._thread.start()
            began.wait()

    def off(self) -> None:
        """End it."""
        if self._thread is not None:
            self._end.set()
            self._thread.join()
            self._thread = None

    def _keep(self, began: threading.Event) -> None:
        """Have a team, which libgomp keeps until the thread that started it ends."""
        count = cpu_count.affinity() + 1
        nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # of NULL, in each thread
        self.library.GOMP_parallel(nothing, None, ctypes.c_uint(count), ctypes.c_uint(0))
        began.set()
        self._end.wait()


class LoadFollower:
    """Keeps the wait policy of this process fit for the load of the machine.

    fixed: why the policy is left as it is; None where it follows the load.
    """

    def __init__(self, log: Callable[[str], None], fixed: str | None = None) -> None:
        self.log = log
        self.fixed = fixed or _reason_not_to()
        self.seconds: dict[Policy, float] = {"active": 0.0, "passive": 0.0}
        self.changes = 0
        self._said: Policy = "active"
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to follow."""
        library = None if self.fixed else libgomp()
        if library is not None:
            self._thread = threading.Thread(
                target=self._follow, args=(library,), name="load", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Leave the process as it was found."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def to_json(self) -> dict[str, Any]:
        """How OpenMP's threads wait, and the share of the time they slept; for environment.json."""
        if self.fixed:
            return {"wait_policy": f"as it is: {self.fixed}"}
        share = self.seconds["passive"] / max(1e-9, sum(self.seconds.values()))
        return {"wait_policy": "follows load", "wait_passive": round(share, 2)}

    def _follow(self, library: ctypes.CDLL) -> None:
        policy, sleeping = WaitPolicy(), SleepingThreads(library)
        before, mark = Demand.read(), time.monotonic()
        since = mark
        try:
            while not self._stop.wait(INTERVAL):
                after, now = Demand.read(), time.monotonic()
                if before is None or after is None:
                    return
                old, share = policy.policy, Demand.between(before, after).short_of_cores
                self.seconds[old] += now - mark
                if policy.update(now, share) != old:
                    sleeping.on() if policy.policy == "passive" else sleeping.off()
                    self.changes, since = self.changes + 1, now
                first = self.changes == 1
                if policy.policy != self._said and (first or now - since >= SETTLED):
                    self._said = policy.policy
                    self.log(_message(policy.policy, share))
                before, mark = after, now
        finally:
            sleeping.off()


@contextmanager
def follow_load(log: Callable[[str], None], device: str = "cpu") -> Iterator[LoadFollower]:
    """Let the wait policy follow the load, in all threads of this process, until the block ends.

    `log` is told of changes. Nothing is done where `device` is not the CPU, the user has set one of
    USER_SET, one thread computes, or torch's OpenMP library is not GNU's.
    """
    on_cpu = torch.device(device).type == "cpu"
    follower = LoadFollower(log, None if on_cpu else f"computes on {device}")
    follower.start()
    try:
        yield follower
    finally:
        follower.stop()


def libgomp() -> ctypes.CDLL | None:
    """The libgomp that torch computes with, None where it is another library.

    Packages bring copies of their own; torch's wheels have theirs beside its libraries.
    """
    try:
        lines = MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    paths = dict.fromkeys(line.split(maxsplit=5)[5] for line in lines if "omp" in line)
    gnu = [path for path in paths if os.path.basename(path).startswith("libgomp")]
    torchs = [path for path in gnu if Path(path).is_relative_to(Path(torch.__file__).parent)]
    if not torchs and any(os.path.basename(path).startswith(OTHER_LIBRARIES) for path in paths):
        return None
    systems = [path for path in gnu if ".libs/" not in path]  # what wheels bring for themselves
    for path in torchs or systems:
        with suppress(OSError):
            library = ctypes.CDLL(path)
            if hasattr(library, "GOMP_parallel"):
                return library
    return None


def _reason_not_to() -> str | None:
    if named := [name for name in USER_SET if name in os.environ]:
        return f"{named[0]} is set"
    if torch.get_num_threads() == 1:
        return "one thread computes"
    if sys.platform != "linux" or libgomp() is None:
        return "torch's OpenMP library is not libgomp"
    return None if Demand.read() else "the kernel does not say how long threads wait"


def _message(policy: Policy, share: float) -> str:
    if policy == "passive":
        return (
            f"the machine is busy (threads waited for a core {share:.0%} of their time): OpenMP"
            " threads sleep while they wait for each other; results do not change"
        )
    return "the machine is quiet again: OpenMP threads spin while they wait for each other"
