"""The machine and its software: devices, memory allocator, cache folder, versions."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.utils.errors import ConfigError
from resnets.utils.machine import cpu_count, mps_fallback

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def pick_device(name: str = "auto") -> torch.device:
    """Return the device to compute on; "auto" is the current CUDA device, else MPS, else the CPU.

    A CUDA device becomes the current one of this thread, which kernels without tensors, events and
    pinned memory use. Raises ConfigError if `name` is not a device or is not usable here.
    """
    if name == "auto":
        kind = "mps" if torch.backends.mps.is_available() else "cpu"
        name = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else kind
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        if not _is_device(name):  # torch would list all kinds of devices that it knows
            raise ConfigError(
                f"--device {name}: must be auto, cpu, cuda, mps, or one of several, such as cuda:1"
            ) from None
        reason = " ".join(str(error).split(".")[0].split())
        raise ConfigError(f"--device {name}: not usable here ({reason})") from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif device.type == "mps":
        mps_fallback.warn_if_late()
    return device


def _is_device(name: str) -> bool:
    """Return whether `name` is a device as torch writes them, on this machine or not."""
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


def copy_to_device(
    values: Tensor | NDArray[Any], device: torch.device, *, pin: bool = True
) -> Tensor:
    """Copy `values` to `device`; to CUDA without blocking the host.

    CUDA synchronizes before it copies from pageable memory, so the values are pinned first. pin:
    False for a whole data set, whose copy may block. Only CUDA keeps the memory that an
    asynchronous copy reads; MPS would read it after it is freed.
    """
    tensor = torch.as_tensor(values)
    if pin and device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")


def copy_to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors of one dtype on the CPU; from a GPU by one copy, which is one wait for it."""
    if all(each.device.type == "cpu" for each in tensors):
        return list(tensors)
    flat = torch.cat([each.reshape(-1) for each in tensors]).cpu()
    parts = flat.split([each.numel() for each in tensors])
    return [part.view(each.shape) for part, each in zip(parts, tensors, strict=True)]


def accumulator_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of sums over many batches on `device`: float64, or float32 on MPS."""
    return torch.float32 if device.type == "mps" else torch.float64


def cpu_flags() -> str:
    """Return the feature flags of the CPU from /proc/cpuinfo, or its architecture without it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def cache_folder() -> Path:
    """Return the cache folder: $RESNETS_CACHE, else `resnets` in $XDG_CACHE_HOME or ~/.cache.

    A user without a home folder, as in containers, gets one in the folder of temporary files.
    """
    try:
        if folder := os.environ.get("RESNETS_CACHE"):
            return Path(folder).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "resnets"
    except RuntimeError:  # pathlib's, where no home folder is known
        return _temporary_cache()


@functools.cache
def _temporary_cache() -> Path:
    """Return a temporary folder that only this user can write.

    It is shared by all processes of the user, or else removed when this process ends.
    """
    shared = Path(tempfile.gettempdir()) / f"resnets-{os.geteuid()}"
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileExistsError):
            shared.mkdir(mode=0o700)
        status = shared.lstat()  # another user may have created it, or a link
        is_private = status.st_uid == os.geteuid() and not status.st_mode & 0o077
        if stat.S_ISDIR(status.st_mode) and is_private:
            return shared
    private = tempfile.mkdtemp(prefix="resnets-")
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return Path(private)


def tune_malloc() -> bool:
    """Let glibc's malloc keep freed pages instead of returning them to the system at every step.

    Eager CPU steps allocate and free the same large activations repeatedly; by default each
    allocation above 128 KiB is a new mmap whose pages fault one by one. Returns False if the
    allocator is not glibc's, or the user has set its thresholds.
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
    """Return a thread pool whose threads do not start OpenMP threads; the caller's threads do.

    Otherwise each would start its own OpenMP team, and once there are more OpenMP threads than
    cores, all teams wait passively: a training step on two cores then takes 1.5 times as long, for
    the rest of the run.
    """
    count, all_started = torch.get_num_threads(), threading.Barrier(workers + 1)
    pool = ThreadPoolExecutor(workers, name, initializer=_use_one_thread)
    try:
        for _ in range(workers):
            pool.submit(all_started.wait)
        all_started.wait()
    finally:
        all_started.abort()  # if not all could start, those that did must not wait forever
        torch.set_num_threads(count)  # of this thread, and of later ones
    return pool


def _use_one_thread() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # a thread that has not called this takes the last number set


def release_cached_memory() -> None:
    """Release memory cached by the allocators of glibc and the GPU, after running out of memory."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def describe(device: torch.device) -> dict[str, Any]:
    """Return versions, hardware and threads, as written to environment.json."""
    names = ("resnets", "torch", "torchvision", "numpy", "pillow", "scikit-learn")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: metadata.version(name) for name in names},
        **_own_commit(),
        "device": device_name(device),
        **accelerator(device),
        "cores": os.cpu_count(),
        "affinity": cpu_count.affinity(),
        "cpu_quota": cpu_count.quota(),
        "threads": torch.get_num_threads(),
    }


@functools.cache
def _own_commit() -> dict[str, str]:
    """Return the commit of this package, as it was at the first call: later ones did not run."""
    return source_commit(Path(__file__).resolve().parents[3])


def source_commit(folder: Path) -> dict[str, str]:
    """Return the git commit of the working tree in `folder`, {} if it is none.

    It ends in "-changed" if tracked files differ from the commit.
    """
    if not (folder / ".git").exists():
        return {}
    command = ["git", "-C", str(folder), "describe", "--always", "--exclude=*", "--abbrev=10"]
    try:
        found = subprocess.run(
            [*command, "--dirty=-changed"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": found.stdout.strip()}


def accelerator(device: torch.device) -> dict[str, Any]:
    """Return what results on a GPU depend on besides its name: memory, versions; {} for a CPU.

    gpu_memory: bytes. driver: version of NVIDIA's kernel module, None if unknown.
    """
    if device.type == "mps":
        return {"macos": platform.mac_ver()[0]}
    if device.type != "cuda":
        return {}
    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu_memory": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "driver": _nvidia_driver(),
    }


def _nvidia_driver(path: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    try:
        match = re.search(r"NVRM version:.*?\s(\d+\.[\d.]+)", path.read_text(encoding="utf-8"))
    except OSError:
        return None
    return match[1] if match else None


def device_name(device: torch.device) -> str:
    """Return the name of `device`, such as "NVIDIA H200" or "Intel(R) Xeon(R), 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            model = next((line.split(":")[1].strip() for line in file if "model name" in line), "")
    except OSError:
        model = platform.processor()
    threads = torch.get_num_threads()
    return f"{model or platform.machine()}, {threads} thread{'s' if threads > 1 else ''}"
