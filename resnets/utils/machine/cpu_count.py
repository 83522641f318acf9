"""Number of CPUs that this process may use, and of those that other programs leave free.

It is limited by affinity, cgroup quota and the share per local process.

In a container with a CPU quota the machine's other cores are still visible. Threads beyond the
quota do not help: the kernel suspends all of them for the rest of each period, and threads that
synchronize at barriers then wait for the suspended ones.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")
PROCESS = Path("/proc/self/cgroup")
STAT = Path("/proc/stat")
LIMIT = "RESNETS_CPU_LIMIT"  # the OMP_NUM_THREADS that `limit_threads` set, for child processes
MIN_WINDOW = 0.5  # seconds of the shortest measurement of other programs' load
TOLERANCE = 0.5  # cores that other programs may use before one core is left to them


def cores() -> int:
    """Return the CPU cores for this process, at least 1; its share if torchrun started several."""
    count = affinity()
    if (limit := quota()) is not None:
        count = min(count, max(1, int(limit)))
    if "LOCAL_WORLD_SIZE" in os.environ:
        from resnets.utils.machine.processes import environment_int  # deferred: slow to import

        count //= environment_int("LOCAL_WORLD_SIZE", least=1)
    return max(1, count)


def affinity() -> int:
    """Return the number of CPUs on which this process may be scheduled."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return count or 1


def quota(root: Path | None = None, process: Path | None = None) -> float | None:
    """Return the CPU quota of the cgroups of this process, such as 2.5 CPUs; None if unlimited.

    It is the smallest quota of all groups from the process's own up to the root, of version 2
    (cpu.max) and version 1 (cpu.cfs_quota_us). In a container, where parent groups are not visible,
    the process's own group is the root of the mount.
    """
    root, process = root or ROOT, process or PROCESS
    try:
        lines = process.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux, or no /proc
        return None
    limits = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            limits += [_read_quota_v2(folder) for folder in _group_folders(root, path)]
            limits += [_read_quota_v2(folder) for folder in _group_folders(root / "unified", path)]
        elif "cpu" in controllers.split(","):
            for mount in (root / controllers, root / "cpu"):
                limits += [_read_quota_v1(folder) for folder in _group_folders(mount, path)]
    return min((limit for limit in limits if limit is not None), default=None)


def limit_threads() -> None:
    """Limit the threads of OpenMP, and so of torch and our kernels, to the CPU quota.

    Called on import of the package; child processes inherit it. A set OMP_NUM_THREADS is kept.
    """
    if "OMP_NUM_THREADS" in os.environ or (allowed := cores()) >= affinity():
        return
    os.environ["OMP_NUM_THREADS"] = os.environ[LIMIT] = str(allowed)
    if (torch := sys.modules.get("torch")) is not None:  # has already read the variable
        torch.set_num_threads(allowed)


class OtherLoad:
    """Measure the cores that other programs use, from its creation on.

    stat: the kernel's statistics of all CPUs (proc_stat(5)).
    """

    def __init__(self, stat: Path = STAT) -> None:
        self._stat = stat
        self._begin = time.monotonic()
        self._before = self._seconds()

    def cores(self) -> float | None:
        """Return the mean number of cores that others used; None if unknown.

        Only cores that this process may use count. Waits until MIN_WINDOW seconds have passed.
        """
        if self._before is None:
            return None
        time.sleep(max(0.0, self._begin + MIN_WINDOW - time.monotonic()))
        passed, after = time.monotonic() - self._begin, self._seconds()
        return None if after is None else max(0.0, (after - self._before) / passed)

    def free_cores(self) -> int:
        """Return the whole cores that others leave, at least 1 and at most `cores()`."""
        others = self.cores()
        if others is None:
            return cores()
        return max(1, min(cores(), int(affinity() - others + TOLERANCE)))

    def _seconds(self) -> float | None:
        """Return the CPU seconds so far not spent by this process and its ended children."""
        usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        busy = 0
        for line in _read(self._stat).splitlines():
            name, *numbers = line.split()
            if name[:3] == "cpu" and name[3:].isdecimal() and int(name[3:]) in usable:
                user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, numbers)
                busy += user + nice + system + irq + softirq
        own = os.times()
        spent = own.user + own.system + own.children_user + own.children_system
        return busy / os.sysconf("SC_CLK_TCK") - spent if busy else None


def is_fixed() -> bool:
    """Whether the user set OMP_NUM_THREADS, which then fixes the number of threads."""
    number = os.environ.get("OMP_NUM_THREADS")
    return number is not None and number != os.environ.get(LIMIT)


def _group_folders(mount: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a group below `mount`, and those of its parent groups."""
    inside = PurePosixPath(path.lstrip("/"))
    if ".." in inside.parts:  # the process is outside the namespace's root
        inside = PurePosixPath()
    yield mount / inside
    yield from (mount / above for above in inside.parents)


def _read_quota_v2(folder: Path) -> float | None:
    """Read "MAX PERIOD" in microseconds from cpu.max; MAX may be "max"."""
    words = _read(folder / "cpu.max").split()
    return _divide(words[0], words[1]) if len(words) == 2 else None


def _read_quota_v1(folder: Path) -> float | None:
    """Read cpu.cfs_quota_us, -1 for unlimited, and cpu.cfs_period_us."""
    return _divide(
        _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    )


def _divide(limit: str, period: str) -> float | None:
    if not (limit.isdecimal() and period.isdecimal()) or int(period) == 0:
        return None
    return int(limit) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
