"""Choose how a run executes on this machine: device, precision, kernels, compilation."""

from __future__ import annotations

import dataclasses
import logging
import os
import shlex
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from resnets.config import ConfigError, Recipe
from resnets.models import cost
from resnets.ops import compiler, conv_weight_grad
from resnets.utils.machine import cpu_count, environment
from resnets.utils.machine.precision import autocast, pick_precision, supports_precision
from resnets.weights.checkpoint.format import Checkpoint

# Compilation takes tens of seconds; it pays off where training takes minutes. Sustained training
# rates in multiply-adds per second, low enough that "auto" errs towards not compiling.
MULTIPLY_ADDS_PER_SECOND = {"cpu": 60e9, "cuda": 10e12, "mps": 1e12}
MIN_SECONDS_TO_COMPILE = 300.0


log = logging.getLogger("resnets")


@dataclass(frozen=True)
class ExecutionPlan:
    """How the "auto" settings of a recipe were resolved on this machine.

    The plan is stored in checkpoints ("execution_plan"): a resumed run uses its precision if the
    device supports it, and logs which other settings differ.

    Attributes:
        fused: Norm, addition and ReLU run in one CPU kernel (`ops.norm_act`); not with `compiled`.
        amx: Weight gradients of convolutions use AMX tiles (`ops.conv_weight_grad`).
        malloc_tuned: malloc does not return freed memory to the system (`tune_malloc`).
        cudnn_benchmark: cuDNN benchmarks its algorithms for each new shape; only for tasks whose
            images have few sizes.
        threads: Number of threads that compute a step on the CPU, on which the last bits of sums
            depend; 0 in checkpoints of earlier versions.
        cuda_graph: Steps are CUDA graphs; set after they were captured.
        cuda_graph_obstacle: Reason why they are not, if the recipe asks for them.
    """

    device: str
    precision: str
    compiled: bool
    fused: bool
    amx: bool
    malloc_tuned: bool
    cudnn_benchmark: bool = False
    threads: int = 0
    cuda_graph: bool = False
    cuda_graph_obstacle: str | None = None

    def __str__(self) -> str:
        parts = [self.precision, environment.device_name(torch.device(self.device))]
        parts += ["compiled"] if self.compiled else []
        parts += ["CUDA graph"] if self.cuda_graph else []
        parts += ["no CUDA graph"] if self.cuda_graph_obstacle is not None else []
        parts += ["cuDNN benchmark"] if self.cudnn_benchmark else []
        parts += ["CPU kernels" + ", AMX" * self.amx] if self.fused else []
        parts += ["malloc tuned"] if self.malloc_tuned else []
        return ", ".join(parts)

    def autocast(self) -> torch.autocast:
        """Return the autocast context of the forward pass."""
        return autocast(torch.device(self.device), self.precision)


def choose_plan(
    recipe: Recipe,
    model: Any,
    examples: int,
    device: str,
    checkpoint: Checkpoint | None = None,
    load: cpu_count.OtherLoad | None = None,
) -> ExecutionPlan:
    """Resolve the recipe's "auto" settings, and set the number of torch's threads.

    These are device, precision, compilation, kernels and malloc. load: cores that other programs
    use; a new run on the CPU does not use them.

    A run resumed from `checkpoint` keeps its precision if the device supports it and, on a device
    of the same type, its other settings where possible, because other settings give other results.
    """
    chosen = environment.pick_device(device)
    malloc_tuned = chosen.type == "cpu" and environment.tune_malloc()
    before = {} if checkpoint is None else checkpoint.meta.get("execution_plan", {})
    requested, previous = recipe.precision, before.get("precision")
    if requested == "auto" and previous and supports_precision(previous, chosen):
        requested = previous
    precision = pick_precision(requested, chosen, keep_bits=recipe.data.keep_bits)
    if torch.device(before.get("device", "cpu")).type != chosen.type:
        before = {}
    compiled, missing = recipe.compile == "on", _missing_compiler(chosen)
    if compiled and missing:
        raise ConfigError(f"compile=on: {missing}; install one, or --set compile=off")
    fused = chosen.type == "cpu" and not compiled and compiler.load_library("norm") is not None
    fused = fused and before.get("fused", True)
    has_known_cost = recipe.task == "classify" and not recipe.custom
    if recipe.compile == "auto" and not has_known_cost:
        what = "a custom network" if recipe.custom else f"task {recipe.task!r}"
        log.warning("compile=auto: not compiled, because the cost of %s is unknown", what)
    if recipe.compile == "auto" and not fused and has_known_cost:
        images = recipe.steps(recipe.duration, examples) * recipe.batch_size
        multiply_adds = 3 * images * cost.count_cost(model, recipe.model.input_size).multiply_adds
        rate = MULTIPLY_ADDS_PER_SECOND.get(chosen.type, MULTIPLY_ADDS_PER_SECOND["cpu"])
        compiled = multiply_adds / rate > MIN_SECONDS_TO_COMPILE
        compiled = before["compiled"] if before.get("fused") is fused else compiled
        if compiled and missing:
            log.warning("compile=auto: not compiled: %s", missing)
            compiled = False
    amx = fused and precision == "bfloat16" and conv_weight_grad.uses_amx()
    amx = amx and before.get("amx", True)
    benchmark = chosen.type == "cuda" and recipe.task in ("classify", "segment")
    torch.backends.cudnn.benchmark = benchmark
    if chosen.type == "cpu":
        torch.set_num_threads(_choose_threads(before, load))
    return ExecutionPlan(
        device=str(chosen),
        precision=precision,
        compiled=compiled,
        fused=fused,
        amx=amx,
        malloc_tuned=malloc_tuned,
        cudnn_benchmark=benchmark,
        threads=torch.get_num_threads(),
    )


def _choose_threads(before: dict[str, Any], load: cpu_count.OtherLoad | None) -> int:
    """Return the number of threads of a run on the CPU.

    before: the stored plan of a resumed run, or {}. In a step of a small network, threads
    synchronize a thousand times. If other programs use the cores, each synchronization waits for a
    thread without a core, so fewer threads are many times faster (docs/performance.md, "A busy
    machine").
    """
    threads = torch.get_num_threads()
    if cpu_count.is_fixed():
        return threads
    if stored := before.get("threads"):
        return min(stored, max(threads, cpu_count.cores()))
    return threads if load is None or threads == 1 else min(threads, load.free_cores())


def _missing_compiler(device: torch.device) -> str | None:
    """Return why torch.compile cannot work on `device`; None if it can."""
    if device.type == "cuda":  # Triton compiles its launchers in C
        if find_spec("triton") is None:
            return "Triton is not installed, which torch.compile needs on GPUs"
        names = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
        if not any(map(shutil.which, names)):
            return f"there is no C compiler ({', '.join(names)}), which Triton needs"
    else:  # as torch._inductor: CXX may have arguments, "ccache g++"
        default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
        words = shlex.split(os.environ.get("CXX", default))
        if not words or shutil.which(words[0]) is None:
            return f"there is no C++ compiler ({' '.join(words)})"
    headers = Path(sysconfig.get_path("include"))  # launchers and kernels are Python modules
    if sys.platform == "linux" and not (headers / "Python.h").is_file():
        return f"{headers} has no Python.h (package python3-dev)"
    return None


def plan_changes(checkpoint: Checkpoint, plan: ExecutionPlan) -> str:
    """Format the settings in which the checkpoint's plan differs from `plan`, for the log."""
    now = dataclasses.asdict(plan)
    then, changes = now | checkpoint.meta.get("execution_plan", {}), []
    if torch.device(then["device"]).type != torch.device(plan.device).type:
        changes.append(then["device"])
    if then["precision"] != plan.precision:
        changes.append(then["precision"])
    if then["threads"] not in (plan.threads, 0):
        changes.append(f"{then['threads']} threads")
    words = {
        "compiled": ("not compiled", "compiled"),
        "fused": ("no CPU kernels", "CPU kernels"),
        "amx": ("no AMX kernel", "AMX kernel"),
        "cuda_graph": ("no CUDA graph", "CUDA graph"),
    }
    if then["fused"] != now["fused"]:
        del words["amx"]  # included in "fused"
    changes += [word[then[name]] for name, word in words.items() if then[name] != now[name]]
    return f" (before: {', '.join(changes)})" if changes else ""
