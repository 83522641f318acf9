"""The machine: versions, device, driver, memory, compiler."""

from __future__ import annotations

import platform
import shutil
import subprocess

import torch
import torchvision

from gpu_checks.case import Case, Row, Setting


def hardware(device: torch.device) -> str:
    """Describe the machine in a few words, for the tables."""
    if device.type != "cuda":
        return f"CPU ({platform.machine()}), torch {torch.__version__}"
    gpu = torch.cuda.get_device_properties(device)
    return f"one {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, torch {torch.__version__}"


def cases(setting: Setting) -> list[Case]:
    """Return one case, with a row for each fact."""
    return [Case("machine", 2, lambda: _facts(setting))]


def _facts(setting: Setting) -> list[Row]:
    facts = {
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "C compiler": shutil.which("cc") or shutil.which("gcc") or "none",
        "timm": _version("timm"),
    }
    if setting.cuda:
        gpu = torch.cuda.get_device_properties(setting.device)
        facts |= {
            "GPU": gpu.name,
            "compute capability": f"{gpu.major}.{gpu.minor}",
            "multiprocessors": str(gpu.multi_processor_count),
            "memory": f"{gpu.total_memory / 2**30:.1f} GiB",
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
            "bfloat16": str(torch.cuda.is_bf16_supported(including_emulation=False)),
            "driver, clocks, power": _query("driver_version,clocks.sm,clocks.max.sm,power.limit"),
        }
    return [{"fact": name, "value": value} for name, value in facts.items()]


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _query(fields: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 else "unknown"
