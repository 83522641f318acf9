"""`resnets train --devices N`: N processes on this machine, started as by torchrun."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from resnets.config import ConfigError, Recipe, to_toml
from resnets.config.ranges import check_range
from resnets.utils.files.locks import run_folder
from resnets.utils.printable import echo

RENDEZVOUS = "localhost:0"  # at a free port


def launch(
    recipe: Recipe | None,
    out: Path | None,
    options: Sequence[str],
    device: str,
    devices: int,
    max_restarts: int,
) -> int:
    """Run `resnets train` in `devices` processes; returns the exit code.

    They train `recipe` in `out` or a new folder; without a recipe they resume the run in `out`. If
    one dies, all are restarted, up to `max_restarts` times. Signals are forwarded, and the
    processes have half a minute to save.
    """
    _check_devices(devices, max_restarts, device)
    if recipe is None:
        return _launch(["--resume", str(out), *options, "--device", device], devices, max_restarts)
    if out is None and "--resume-if-exists" in options:
        raise ConfigError("--resume-if-exists: needs --out, the run folder")
    with (
        run_folder(out, recipe.name) as folder,
        tempfile.TemporaryDirectory(prefix="resnets-") as temporary,
    ):
        path = Path(temporary) / "recipe.toml"
        path.write_text(to_toml(recipe), encoding="utf-8")
        arguments = [str(path), "--out", str(folder), *options, "--device", device]
        return _launch(arguments, devices, max_restarts)


def _check_devices(devices: int, max_restarts: int, device: str) -> None:
    """Raise ConfigError if `devices` processes cannot be started here."""
    import torch

    if "WORLD_SIZE" in os.environ:
        raise ConfigError(
            "--devices and --max-restarts: cannot be used in a process that torchrun started"
        )
    check_range("--devices", devices, "[1, inf)")
    check_range("--max-restarts", max_restarts, "[0, inf)")
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if gpus and devices > gpus:
        raise ConfigError(
            f"--devices {devices}: only {gpus} GPUs are available; use --device cpu for more "
            "processes"
        )


def _launch(arguments: Sequence[str], devices: int, max_restarts: int) -> int:
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from resnets.utils.machine.cpu_count import cores

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # reported below
    # One thread too many costs more than one too few.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // devices)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=RENDEZVOUS,
        max_restarts=max_restarts,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "resnets", "train", *arguments)
    except ChildFailedError as failed:
        rank, first = min(failed.failures.items(), key=lambda item: item[1].timestamp)
        echo(f"resnets train: rank {rank} {_describe_exit(first.exitcode)}", error=True)
        return max(1, first.exitcode)
    except SignalException as stop:
        return 130 if stop.sigval == signal.SIGINT else 0
    return 0


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}; resume with --resume"
    return f"failed first, with exit code {code}; its error is above"
