"""Correctness and speed on a GPU in one command, in order of value.

    python benchmarks/gpu.py [--limit 540] [--only correct,ladder] [--results gpu.jsonl]
    python benchmarks/gpu.py --device cpu --tiny      (under a minute: tests this script)
    python benchmarks/gpu.py --publish gpu.jsonl      (writes the tables of docs/gpu.md)

Each result is appended to the file of results at once. A case that this commit has finished on this
hardware is not run again, so repeat the command until all cases are done; a case starts only if the
limit leaves enough time for it. A case that fails is recorded with its error, and the next one
runs; after a CUDA error, which makes the process unusable, the script restarts itself. No network
is needed. docs/gpu.md lists what to install.

facts      versions, device, driver
correct    operators, models and steps against float64; CUDA graphs against ordinary steps
ladder     ms per step of CIFAR models: eager, compiled, one graph, one graph of compiled blocks
first      cifar-resnet20 with the paper's recipe, 64,000 steps, five seeds at a time
waits      operations that make the host wait for the device, from torch's warnings
resnet50   training and inference, compared with torchvision's script and timm
commands   about 25 commands of the package
at-once    several runs in one process
full       the other recipes, as time allows
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package, where not installed

NEEDED = {
    "docstring_parser": "docstring-parser",
    "pydantic": "pydantic",
    "rich": "rich",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "tomli_w": "tomli-w",
    "torchvision": "torchvision",
    "tyro": "tyro",
}
FATAL = (
    "CUDA error",
    "device-side assert",
    "illegal memory access",
    "CUBLAS_STATUS",
    "cuDNN error",
)


def main() -> int:
    """Run the cases that are not done yet; returns the exit code."""
    options = parse(sys.argv[1:])
    if missing := missing_packages():
        print("\n".join(["missing packages (docs/gpu.md):", *missing]))
        return 1
    from gpu_checks import record

    if options.publish is not None:
        for path in record.publish(options.publish):
            print(path)
        return 0
    import torch

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device; to test the script: --device cpu --tiny")
        return 1
    from gpu_checks import facts
    from gpu_checks.case import Setting

    device = torch.empty(0, device=options.device).device
    deadline = time.monotonic() + options.limit
    setting = Setting(device, options.data, options.out, deadline, options.tiny)
    results = record.Record(options.results, facts.hardware(device))
    names = [name for name in options.only.split(",") if name] or list(SECTIONS)
    if unknown := [name for name in names if name not in SECTIONS]:
        print(f"unknown section {unknown[0]!r}; known: {', '.join(SECTIONS)}")
        return 2
    failed = set(filter(None, os.environ.get("GPU_CHECKS_FAILED", "").split("\n")))
    for name in names:
        try:
            cases = sections()[name](setting)
        except Exception as error:
            results.add(name, "(section)", 0, None, one_line(error))
            print(f"{name}: failed: {one_line(error)}", flush=True)
            continue
        for case in cases:
            key = f"{name}/{case.name}"
            if results.is_done(name, case.name):
                print(f"{key}: already done", flush=True)
            elif key not in failed and not run_case(setting, results, name, case):
                failed.add(key)
                restart(options, deadline, failed)
    print(f"{options.results}: {setting.seconds_left:.0f} s of {options.limit:.0f} are left")
    return 0


def run_case(setting, results, section: str, case) -> bool:
    """Run a case and record it; returns False after a CUDA error."""
    from gpu_checks.case import Skipped

    key = f"{section}/{case.name}"
    if not setting.tiny and setting.seconds_left < case.seconds:
        print(
            f"{key}: not started, needs {case.seconds:.0f} s of {setting.seconds_left:.0f}",
            flush=True,
        )
        return True
    start = time.monotonic()
    try:
        with time_limit(max(1.0, setting.seconds_left)):
            rows = case.run()
            setting.synchronize()
    except Skipped as reason:
        print(f"{key}: skipped: {reason}", flush=True)
        return True
    except (Exception, SystemExit) as error:
        results.add(section, case.name, time.monotonic() - start, None, one_line(error))
        print(f"{key}: failed: {one_line(error)}", flush=True)
        return not (setting.cuda and any(word in str(error) for word in FATAL))
    finally:
        free_memory(setting)
    results.add(section, case.name, time.monotonic() - start, rows, None)
    for row in rows:
        text = ", ".join(f"{name} {value}" if name else str(value) for name, value in row.items())
        print(f"{key}: {text}", flush=True)
    return True


def free_memory(setting) -> None:
    """Free the memory and the compiled code of a case."""
    import gc

    import torch

    gc.collect()
    if setting.cuda:
        try:
            torch.cuda.empty_cache()
        except RuntimeError:  # the same CUDA error again
            return
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


class time_limit:  # noqa: N801  (a context manager)
    """Context manager that raises TimeoutError in the main thread after some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            raise TimeoutError("the time limit is reached")

        self.start = time.monotonic()
        self.handler = signal.signal(signal.SIGALRM, stop)
        self.before, _ = signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_: object) -> None:
        left = max(0.001, self.before - (time.monotonic() - self.start)) if self.before else 0
        signal.signal(signal.SIGALRM, self.handler)
        signal.setitimer(signal.ITIMER_REAL, left)


def restart(options: argparse.Namespace, deadline: float, failed: set[str]) -> None:
    """Replace this process by a new one of this script, which skips the cases that failed."""
    os.environ["GPU_CHECKS_FAILED"] = "\n".join(failed)
    arguments = [f"--limit={deadline - time.monotonic():.0f}"]
    for name in ("device", "only", "data", "out", "results"):
        arguments.append(f"--{name}={getattr(options, name)}")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, __file__, *arguments, *(["--tiny"] * options.tiny)])


def sections() -> dict[str, Callable]:
    """Return the function that makes the cases of each section."""
    from gpu_checks import commands, correct, facts, full, ladder, resnet50

    return {
        "facts": facts.cases,
        "correct": correct.cases,
        "ladder": ladder.cases,
        "first": full.first,
        "waits": ladder.waits,
        "resnet50": resnet50.cases,
        "commands": commands.cases,
        "at-once": ladder.seeds_at_once,
        "full": full.others,
    }


SECTIONS = (
    "facts", "correct", "ladder", "first", "waits", "resnet50", "commands", "at-once", "full"
)  # fmt: skip


def missing_packages() -> list[str]:
    """Return the pip commands that install missing packages, and resnets itself."""
    from importlib import metadata
    from importlib.util import find_spec

    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    commands = [f"pip install {' '.join(missing)}"] if missing else []
    try:
        metadata.version("resnets")  # runs record it
    except metadata.PackageNotFoundError:
        commands.append("pip install --no-deps --no-build-isolation -e .")
    return commands


def one_line(error: BaseException) -> str:
    """Format type and message of an error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--limit", type=float, default=540, help="seconds for all sections")
    parser.add_argument("--only", default="", help="sections, separated by commas")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder with cifar10.tar.xz and others"
    )
    parser.add_argument("--results", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument(
        "--out", type=Path, default=Path("runs/gpu"), help="folder for the output of commands"
    )
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, to test the script")
    parser.add_argument(
        "--publish", type=Path, metavar="RESULTS", help="write docs/results/ and exit"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
