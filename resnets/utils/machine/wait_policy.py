"""Select OpenMP's wait policy by the load of the machine: spin when idle, sleep when busy.

The threads that compute a step synchronize after each of its parallel loops, a thousand times in a
step of a small network. By default libgomp lets threads that arrive early spin for some
milliseconds, which is fastest while each has a core of its own. If other programs use the cores,
they spin while the thread they wait for is not running, and often on the core it needs: a step then
takes tens of times as long.

A background thread measures, twice a second, how long the process's threads were runnable without
getting a core (`SchedulerStats`); `WaitPolicy` decides, and `PassiveWaiting` applies the decision.
Only the way of waiting changes, never the number of threads, on which sums and so the last bits of
results depend: it is chosen once, when a run starts (`train.execution_plan`).
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

from resnets.utils.machine import cpu_count

Policy = Literal["active", "passive"]  # as OMP_WAIT_POLICY calls them
TASKS = Path("/proc/self/task")
MAPS = Path("/proc/self/maps")
USER_SET = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # left as the user set them
OTHER_LIBRARIES = ("libomp.", "libomp-", "libiomp")  # LLVM's and Intel's

INTERVAL = 0.5  # seconds between two measurements
# Seconds that the kernel counts as waiting while a thread wakes up on an idle core.
WAKE_UP = 20e-6
BUSY, IDLE = 0.15, 0.08  # share of its time that a runnable thread waited for a core
MIN_HOLD, MAX_HOLD = 2.0, 120.0  # seconds of sleeping before spinning is tried again
SETTLED = 5.0  # seconds after which a change counts as successful


@dataclass(frozen=True)
class SchedulerStats:
    """Scheduler statistics of threads since their start.

    running: seconds on a core. waiting: seconds runnable without a core. timeslices: their number.
    """

    running: float
    waiting: float
    timeslices: int

    @classmethod
    def read(cls, tasks: Path = TASKS) -> dict[str, SchedulerStats] | None:
        """Read those of each thread of this process by id; None if the kernel has no schedstat."""
        stats = {}
        try:
            names = os.listdir(tasks)
        except OSError:
            return None
        for name in names:
            with suppress(OSError, ValueError):  # the thread has ended
                words = (tasks / name / "schedstat").read_text(encoding="ascii").split()
                running, waiting, timeslices = (int(word) for word in words)
                stats[name] = cls(running / 1e9, waiting / 1e9, timeslices)
        return stats if any(each.running for each in stats.values()) else None

    @staticmethod
    def between(
        before: dict[str, SchedulerStats], after: dict[str, SchedulerStats]
    ) -> SchedulerStats:
        """Sum over all threads from one reading to the next."""
        running, waiting, timeslices = 0.0, 0.0, 0
        for name, now in after.items():
            then = before.get(name, SchedulerStats(0.0, 0.0, 0))
            running += max(0.0, now.running - then.running)
            waiting += max(0.0, now.waiting - then.waiting)
            timeslices += max(0, now.timeslices - then.timeslices)
        return SchedulerStats(running, waiting, timeslices)

    @property
    def wait_share(self) -> float:
        """Share of its runnable time that a thread waited for a core, 0 to 1."""
        waiting = max(0.0, self.waiting - self.timeslices * WAKE_UP)
        return waiting / (self.running + waiting) if waiting else 0.0


class WaitPolicy:
    """Active until threads wait for cores, then passive until they no longer do.

    Sleeping threads compete less for cores than spinning ones, so a busy machine may look idle to
    them. If a return to spinning fails within SETTLED seconds, the next is tried after twice the
    time, at most MAX_HOLD.
    """

    def __init__(self) -> None:
        self.policy: Policy = "active"
        self._since = self._hold = 0.0

    def update(self, now: float, wait_share: float) -> Policy:
        """The policy from time `now` (seconds), given the wait share since the last update."""
        lasted = now - self._since
        if self.policy == "active" and wait_share > BUSY:
            failed = self._hold and lasted < SETTLED
            self._hold = min(MAX_HOLD, 2 * self._hold) if failed else MIN_HOLD
            self.policy, self._since = "passive", now
        elif self.policy == "passive" and wait_share < IDLE and lasted >= self._hold:
            self.policy, self._since = "active", now
        return self.policy


class PassiveWaiting:
    """Make libgomp's threads spin for microseconds only and then sleep.

    libgomp does so while there are more OpenMP threads than processors (its manual, at
    GOMP_SPINCOUNT), so this keeps a team of idle threads. Thread-safe.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self._thread: threading.Thread | None = None
        self._end = threading.Event()

    def on(self) -> None:
        """Start the idle team."""
        if self._thread is None:
            began = threading.Event()
            self._end.clear()
            self._thread = threading.Thread(target=self._keep, args=(began,), daemon=True)
            self._thread.start()
            began.wait()

    def off(self) -> None:
        """End the idle team."""
        if self._thread is not None:
            self._end.set()
            self._thread.join()
            self._thread = None

    def _keep(self, began: threading.Event) -> None:
        """Start a team, which libgomp keeps until the thread that started it ends."""
        count = cpu_count.affinity() + 1
        nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # of NULL, in each thread
        self.library.GOMP_parallel(nothing, None, ctypes.c_uint(count), ctypes.c_uint(0))
        began.set()
        self._end.wait()


class WaitPolicyController:
    """A background thread that adapts the wait policy of this process to the load of the machine.

    fixed: why the policy is not changed; None if it follows the load.
    """

    def __init__(self, log: Callable[[str], None], fixed: str | None = None) -> None:
        self.log = log
        self.fixed = fixed or _unsupported_reason()
        self.seconds: dict[Policy, float] = {"active": 0.0, "passive": 0.0}
        self.changes = 0
        self._logged: Policy = "active"
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        library = None if self.fixed else libgomp()
        if library is not None:
            self._thread = threading.Thread(
                target=self._run, args=(library,), name="wait-policy", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End the thread and restore active waiting."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def to_json(self) -> dict[str, Any]:
        """Wait policy and share of the time it was passive, for environment.json."""
        if self.fixed:
            return {"wait_policy": f"unchanged: {self.fixed}"}
        share = self.seconds["passive"] / max(1e-9, sum(self.seconds.values()))
        return {"wait_policy": "follows load", "wait_passive": round(share, 2)}

    def _run(self, library: ctypes.CDLL) -> None:
        policy, sleeping = WaitPolicy(), PassiveWaiting(library)
        before, mark = SchedulerStats.read(), time.monotonic()
        since = mark
        try:
            while not self._stop.wait(INTERVAL):
                after, now = SchedulerStats.read(), time.monotonic()
                if before is None or after is None:
                    return
                old, share = policy.policy, SchedulerStats.between(before, after).wait_share
                self.seconds[old] += now - mark
                if policy.update(now, share) != old:
                    sleeping.on() if policy.policy == "passive" else sleeping.off()
                    self.changes, since = self.changes + 1, now
                first = self.changes == 1
                if policy.policy != self._logged and (first or now - since >= SETTLED):
                    self._logged = policy.policy
                    self.log(_message(policy.policy, share))
                before, mark = after, now
        finally:
            sleeping.off()


@contextmanager
def adapt_wait_policy(
    log: Callable[[str], None], device: str = "cpu"
) -> Iterator[WaitPolicyController]:
    """Context in which the wait policy of this process follows the load; changes are logged.

    Does nothing if `device` is not the CPU, a variable of USER_SET is set, torch uses one thread,
    or its OpenMP library is not GNU's.
    """
    on_cpu = torch.device(device).type == "cpu"
    controller = WaitPolicyController(log, None if on_cpu else f"computes on {device}")
    controller.start()
    try:
        yield controller
    finally:
        controller.stop()


def libgomp() -> ctypes.CDLL | None:
    """The libgomp that torch uses; None if it uses another OpenMP library.

    Other packages bundle copies; torch's wheels have theirs next to its libraries.
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
    systems = [path for path in gnu if ".libs/" not in path]  # not bundled in a wheel
    for path in torchs or systems:
        with suppress(OSError):
            library = ctypes.CDLL(path)
            if hasattr(library, "GOMP_parallel"):
                return library
    return None


def _unsupported_reason() -> str | None:
    if named := [name for name in USER_SET if name in os.environ]:
        return f"{named[0]} is set"
    if torch.get_num_threads() == 1:
        return "torch uses one thread"
    if sys.platform != "linux" or libgomp() is None:
        return "torch's OpenMP library is not libgomp"
    return None if SchedulerStats.read() else "the kernel has no schedstat"


def _message(policy: Policy, share: float) -> str:
    if policy == "passive":
        return (
            f"the machine is busy (threads waited for a core {share:.0%} of their time): OpenMP"
            " threads sleep while they wait for each other; results do not change. If it stays"
            " busy, OMP_NUM_THREADS=1 may be many times faster (last bits differ)"
        )
    return "the machine is idle again: OpenMP threads spin while they wait for each other"
