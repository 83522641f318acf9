"""Is the product right on a GPU, and how fast: everything in one command, in order of value.

    python benchmarks/gpu.py [--limit 540] [--only correct,ladder] [--results gpu.jsonl]
    python benchmarks/gpu.py --device cpu --tiny      (under a minute: tests this script)
    python benchmarks/gpu.py --publish gpu.jsonl      (tables of docs/gpu.md from the results)

Every result is appended to the file of results as it comes. A case that this commit has finished
on this hardware is not run again, so the command can be given until all is done; none starts that
the limit leaves no time for. A case that fails is recorded with its error, and the next one runs;
after an error of CUDA itself, which the process does not survive, the script starts itself anew.
No network is needed. docs/gpu.md says what to bring to a machine.

facts      versions, device, driver
correct    operators, networks and steps against float64; graphs against ordinary steps
ladder     ms per step of CIFAR networks: eager, compiled, one graph, one graph of compiled blocks
first      cifar-resnet20 by the paper's recipe, 64,000 steps, five seeds at once
waits      what makes the host wait in a step, by torch's own warnings
resnet50   training and prediction beside torchvision's script and timm
commands   about 20 commands of the product
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
    """Run the cases that are not done; returns the exit code."""
    options = parse(sys.argv[1:])
    if missing := missing_packages():
        print("\n".join(["missing here (docs/gpu.md):", *missing]))
        return 1
    from gpu_checks import record

    if options.publish is not None:
        for path in record.publish(options.publish):
            print(path)
        return 0
    import torch

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device here; to test the script: --device cpu --tiny")
        return 1
    from gpu_checks import facts
    from gpu_checks.case import Setting

    device = torch.empty(0, device=options.device).device
    ends = time.monotonic() + options.limit
    setting = Setting(device, options.data, options.out, ends, options.tiny)
    kept = record.Record(options.results, facts.hardware(device))
    wanted = [name for name in options.only.split(",") if name] or list(SECTIONS)
    if unknown := [name for name in wanted if name not in SECTIONS]:
        print(f"unknown section {unknown[0]!r}; there are: {', '.join(SECTIONS)}")
        return 2
    failed = set(filter(None, os.environ.get("GPU_CHECKS_FAILED", "").split("\n")))
    for name in wanted:
        try:
            cases = sections()[name](setting)
        except Exception as error:
            kept.add(name, "(section)", 0, None, one_line(error))
            print(f"{name}: failed: {one_line(error)}", flush=True)
            continue
        for case in cases:
            key = f"{name}/{case.name}"
            if kept.done(name, case.name):
                print(f"{key}: done before", flush=True)
            elif key not in failed and not run(setting, kept, name, case):
                failed.add(key)
                restart(options, ends, failed)
    print(f"{options.results}: {setting.left:.0f} s of {options.limit:.0f} are left")
    return 0


def run(setting, kept, section: str, case) -> bool:
    """Run one case and record it; False if CUDA is of no use to this process any more."""
    from gpu_checks.case import LeftOut

    key = f"{section}/{case.name}"
    if not setting.tiny and setting.left < case.seconds:
        print(f"{key}: not started, needs {case.seconds:.0f} s of {setting.left:.0f}", flush=True)
        return True
    start = time.monotonic()
    try:
        with time_limit(max(1.0, setting.left)):
            rows = case.run()
            setting.synchronize()
    except LeftOut as reason:
        print(f"{key}: left out: {reason}", flush=True)
        return True
    except (Exception, SystemExit) as error:
        kept.add(section, case.name, time.monotonic() - start, None, one_line(error))
        print(f"{key}: failed: {one_line(error)}", flush=True)
        return not (setting.cuda and any(word in str(error) for word in FATAL))
    finally:
        release(setting)
    kept.add(section, case.name, time.monotonic() - start, rows, None)
    for row in rows:
        text = ", ".join(f"{name} {value}" if name else str(value) for name, value in row.items())
        print(f"{key}: {text}", flush=True)
    return True


def release(setting) -> None:
    """Give up the memory and the compiled code of a case."""
    import gc

    import torch

    gc.collect()
    if setting.cuda:
        try:
            torch.cuda.empty_cache()
        except RuntimeError:  # the error that ended the case
            return
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


class time_limit:  # noqa: N801  (a context manager)
    """Context that raises TimeoutError in the main thread after some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            raise TimeoutError("the limit is reached")

        self.start = time.monotonic()
        self.handler = signal.signal(signal.SIGALRM, stop)
        self.before, _ = signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_: object) -> None:
        left = max(0.001, self.before - (time.monotonic() - self.start)) if self.before else 0
        signal.signal(signal.SIGALRM, self.handler)
        signal.setitimer(signal.ITIMER_REAL, left)


def restart(options: argparse.Namespace, ends: float, failed: set[str]) -> None:
    """Run this script anew in this process's place; the cases that failed are not tried again."""
    os.environ["GPU_CHECKS_FAILED"] = "\n".join(failed)
    words = [f"--limit={ends - time.monotonic():.0f}"]
    for name in ("device", "only", "data", "out", "results"):
        words.append(f"--{name}={getattr(options, name)}")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, __file__, *words, *(["--tiny"] * options.tiny)])


def sections() -> dict[str, Callable]:
    """The function that makes the cases of each section."""
    from gpu_checks import commands, correct, facts, full, ladder, resnet50, waits

    return {
        "facts": facts.cases,
        "correct": correct.cases,
        "ladder": ladder.cases,
        "first": full.first,
        "waits": waits.cases,
        "resnet50": resnet50.cases,
        "commands": commands.cases,
        "at-once": ladder.seeds_at_once,
        "full": full.others,
    }


SECTIONS = (
    "facts", "correct", "ladder", "first", "waits", "resnet50", "commands", "at-once", "full"
)  # fmt: skip


def missing_packages() -> list[str]:
    """Commands that install what the product needs and what is not here, the product itself too."""
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
    """Type and message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def parse(words: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--limit", type=float, default=540, help="seconds, all sections together")
    parser.add_argument("--only", default="", help="sections, separated by commas")
    parser.add_argument("--data", type=Path, default=Path("data"), help="cifar10.tar.xz and others")
    parser.add_argument("--results", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="what commands write")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, to test the script")
    parser.add_argument("--publish", type=Path, metavar="RESULTS", help="only write docs/results/")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
