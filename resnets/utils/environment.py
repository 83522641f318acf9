"""The machine a run stands on: device, number formats, allocator, and what to write down of it."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import platform
import shutil
import stat
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.utils import cpu_count
from resnets.utils.errors import ConfigError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def pick_device(name: str = "auto") -> torch.device:
    """The device to compute on; "auto" is the first CUDA device, else Apple's, else the CPU.

    Raises ConfigError for a name that is no device, or one that does not work here.
    """
    if name != "auto":
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            reason = " ".join(str(error).split(".")[0].split())
            raise ConfigError(f"--device {name}: not usable here ({reason})") from None
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_precision(wanted: str, device: torch.device) -> str:
    """Resolve "auto": "bfloat16" where `device` multiplies it natively, else "float32"."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        return "bfloat16" if _cpu_has_bf16() else "float32"
    return "float32"


def computes(precision: str, device: torch.device) -> bool:
    """Whether `device` computes in `precision` at all, be it slowly."""
    if precision == "float32" or device.type == "cpu":
        return True
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def copy_to_device(values: Tensor | NDArray[Any], device: torch.device) -> Tensor:
    """`values` on `device`; the host does not wait for the copy.

    CUDA copies from pageable memory only after it has waited for the stream, so they go through
    pinned memory.
    """
    tensor = torch.as_tensor(values)
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def sum_dtype(device: torch.device) -> torch.dtype:
    """The type in which sums over many batches are kept on `device`: MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; torch older than 2.12 cannot be asked."""
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(processor_flags().split())


def processor_flags() -> str:
    """What this processor can do, as Linux names it; elsewhere what kind it is."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def cache() -> Path:
    """The folder of what is made or fetched once for this user and machine.

    $RESNETS_CACHE, else `resnets` in the user's cache: $XDG_CACHE_HOME, else ~/.cache. A user
    without a home, as in containers, has one among the temporary files.
    """
    try:
        if own := os.environ.get("RESNETS_CACHE"):
            return Path(own).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "resnets"
    except RuntimeError:  # pathlib's, where no home folder is known
        return _temporary_cache()


@functools.cache
def _temporary_cache() -> Path:
    """A folder that nobody else can write to: the same for all processes of this user, else one
    that ends with this process."""
    shared = Path(tempfile.gettempdir()) / f"resnets-{os.geteuid()}"
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileExistsError):
            shared.mkdir(mode=0o700)
        found = shared.lstat()  # anybody may have made it, or a link
        ours = found.st_uid == os.geteuid() and not found.st_mode & 0o077
        if stat.S_ISDIR(found.st_mode) and ours:
            return shared
    private = tempfile.mkdtemp(prefix="resnets-")
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return Path(private)


def tune_malloc() -> bool:
    """Have glibc keep freed pages instead of returning them to the system at every step.

    Eager CPU steps allocate and free the same large activations again and again; by default each
    allocation above 128 KiB is a fresh mmap whose pages fault one by one. Returns False where the
    allocator is not glibc's, or the user has set its thresholds already.
    """
    if sys.platform != "linux" or any(key.startswith("MALLOC_") for key in os.environ):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        done = (
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30),
            libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1),
            libc.mallopt(M_TOP_PAD, 1 << 26),
        )
    except (OSError, AttributeError):
        return False
    return all(done)


def single_threaded_pool(workers: int, name: str) -> ThreadPoolExecutor:
    """A pool whose threads each compute on one core, beside a thread that computes on all of them.

    Else each would get a team of OpenMP threads of its own, and once there are more of those than
    cores, no team waits actively any more: a training step on two cores then takes 1.5 times as
    long, for the rest of the run.
    """
    count, all_here = torch.get_num_threads(), threading.Barrier(workers + 1)
    pool = ThreadPoolExecutor(workers, name, initializer=_compute_alone)
    try:
        for _ in range(workers):
            pool.submit(all_here.wait)
        all_here.wait()
    finally:
        all_here.abort()  # where not all could start, those that did do not wait for ever
        torch.set_num_threads(count)  # of this thread, and of threads to come
    return pool


def _compute_alone() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread that has not asked yet takes the last number that was set


def give_back_pages() -> None:
    """Return what the allocator keeps, of glibc's and of CUDA's, after memory ran out."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def describe(device: torch.device) -> dict[str, Any]:
    """What a run depended on: versions, hardware, threads. Written as environment.json."""
    names = ("resnets", "torch", "torchvision", "numpy", "pillow", "scikit-learn")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: metadata.version(name) for name in names},
        "device": device_name(device),
        "cores": os.cpu_count(),
        "affinity": cpu_count.affinity(),
        "cpu_quota": cpu_count.quota(),
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str:
    """A person's name for `device`, such as "NVIDIA H200" or "Intel(R) Xeon(R), 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            model = next((line.split(":")[1].strip() for line in file if "model name" in line), "")
    except OSError:
        model = platform.processor()
    threads = torch.get_num_threads()
    return f"{model or platform.machine()}, {threads} thread{'s' if threads > 1 else ''}"
