"""Correctness and speed on a GPU in one command, in order of value.

    python benchmarks/gpu.py [--limit 540] [--only correct,ladder] [--results gpu.jsonl]
    python benchmarks/gpu.py --device cpu --tiny      (under a minute: tests this script)
    python benchmarks/gpu.py --publish gpu.jsonl      (writes the tables of docs/gpu.md)

Each result is appended to the file of results at once. A case that this commit has finished on this
hardware (`first` and `full`: any commit) is not run again, so repeat the command with the same file
until all cases are done. A case starts only if the limit leaves enough time for it, and is stopped
at several times its estimate. A case that fails is recorded with its error and traceback, and the
next one runs, in a new process if a CUDA error, a crash or a hang made the last one unusable. The
exit code is 1 if a case of this run failed, has a wrong verdict or was skipped for lack of data. No
network is needed. docs/gpu.md lists what to install.

Cases that compile for minutes run last. To run a section before those that precede it: --only.

facts      versions, device, driver
correct    operators, models and steps against float64; CUDA graphs against ordinary steps
ladder     ms per step of CIFAR models: eager, compiled, one graph, one graph of compiled blocks
first      cifar-resnet20 with the paper's recipe, 64,000 steps, five seeds at a time
waits      operations that make the host wait for the device, from torch's warnings
basics     the most used of the package's commands
full       32, 44, 56 and 110 layers; plain networks; second seeds; a wider cifar10-speedrun
resnet50   training and inference, compared with torchvision's script and timm
commands   the other commands
at-once    several runs in one process
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType

START = time.monotonic()  # before torch is imported
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the package, where not installed

NEEDED = {
    "docstring_parser": "docstring-parser",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "pydantic": "pydantic",
    "rich": "rich",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tomli_w": "tomli-w",
    "torchvision": "torchvision",
    "tyro": "tyro",
}
SECTIONS = {
    "facts": "facts.cases",
    "correct": "correct.cases",
    "ladder": "ladder.cases",
    "first": "full.first",
    "waits": "ladder.waits",
    "basics": "commands.basics",
    "full": "full.others",
    "resnet50": "resnet50.cases",
    "commands": "commands.others",
    "at-once": "ladder.seeds_at_once",
}
MAX_TRACEBACK = 8000  # characters
LEAST = 30  # seconds that a case gets, besides three times its estimate


def main() -> int:
    """Run the cases that are not done yet, in a child process; returns the exit code."""
    options = parse(sys.argv[1:])
    if missing := missing_packages():
        print("\n".join(["missing packages (docs/gpu.md):", *missing]))
        return 1
    add_metadata(ROOT)
    from gpu_checks import supervisor

    if options.publish is not None:
        from gpu_checks import record

        written = record.publish(options.publish)
        print("\n".join(map(str, written)) or f"{options.publish}: nothing to publish")
        return 0 if written else 1
    if supervisor.is_child():
        return run_cases(options)
    return supervisor.supervise(options.results, START + options.limit)


def run_cases(options: argparse.Namespace) -> int:
    """Run the cases that are not done yet in this process; returns the exit code."""
    import torch

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device; to test the script: --device cpu --tiny")
        return 1
    from gpu_checks import facts, record, supervisor
    from gpu_checks.case import Setting

    supervisor.enable_traces()
    device = torch.empty(0, device=options.device).device
    failed = supervisor.failed_before()
    results = record.Record(options.results, facts.hardware(device), options.tiny, failed)
    deadline = START + options.limit
    setting = Setting(
        device, options.data, options.out, deadline, options.tiny, failed=results.failed
    )
    names = [name for name in options.only.split(",") if name] or list(SECTIONS)
    if unknown := [name for name in names if name not in SECTIONS]:
        print(f"unknown section {unknown[0]!r}; known: {', '.join(SECTIONS)}")
        return 2
    cases = [(name, case) for name in names for case in make_cases(name, setting, results)]
    for name, case in sorted(cases, key=lambda each: each[1].late):
        key = f"{name}/{case.name}"
        if results.is_done(name, case.name, any_commit=case.any_commit):
            print(f"{key}: already done", flush=True)
        elif key not in results.failed and not run_case(setting, results, name, case):
            return supervisor.UNUSABLE
    print(f"{options.results}: {setting.seconds_left:.0f} s are left")
    if without_data := setting.missing_files and not options.tiny:
        print("\n".join(["missing, their cases were skipped:", *sorted(setting.missing_files)]))
    if results.failed:
        print("\n".join(["failed or wrong:", *sorted(results.failed)]))
    return 1 if results.failed or without_data else 0


def make_cases(name: str, setting, results) -> list:
    """Return the cases of a section; records the error if its module cannot be imported."""
    if f"{name}/(section)" in results.failed:  # in an earlier process of this run
        return []
    module, _, function = SECTIONS[name].partition(".")
    try:
        return getattr(importlib.import_module(f"gpu_checks.{module}"), function)(setting)
    except Exception as error:
        results.add(name, "(section)", 0, None, one_line(error), format_traceback(error))
        print(f"{name}: failed: {format_traceback(error)}", flush=True)
        return []


def run_case(setting, results, section: str, case) -> bool:
    """Run a case and record it; returns False if no other case can run in this process."""
    from gpu_checks import supervisor
    from gpu_checks.case import Skipped, is_fatal

    from resnets.train.cuda_graph import capture

    key = f"{section}/{case.name}"
    if not setting.tiny and setting.seconds_left < case.seconds:
        print(
            f"{key}: not started, needs {case.seconds:.0f} s of {setting.seconds_left:.0f}",
            flush=True,
        )
        return True
    start = time.monotonic()
    limit = max(1.0, min(setting.seconds_left, LEAST + 3 * case.seconds))
    supervisor.note_case(results.line(section, case.name), limit)
    try:
        with time_limit(limit):
            rows = case.run()
            setting.synchronize()
    except Skipped as reason:
        print(f"{key}: skipped: {reason}", flush=True)
        return True
    except (Exception, SystemExit, TimeLimit) as error:
        text = format_traceback(error)
        results.add(section, case.name, time.monotonic() - start, None, one_line(error), text)
        print(f"{key}: failed: {text}", flush=True)
        # What was stopped at its limit may have been capturing a graph.
        unusable = isinstance(error, TimeLimit) or is_fatal(error) or capture.failed
        return not (setting.cuda and unusable)
    else:
        results.add(section, case.name, time.monotonic() - start, rows, None)
        usable = not (setting.cuda and capture.failed)  # also if the case went on without a graph
    finally:
        supervisor.note_case(None)
        free_memory(setting)
    for row in rows:
        text = ", ".join(f"{name} {value}" if name else str(value) for name, value in row.items())
        print(f"{key}: {text}", flush=True)
    return usable


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


class TimeLimit(BaseException):
    """A case took too long. Not an `Exception`: commands report those and continue."""


class time_limit:  # noqa: N801  (a context manager)
    """Context manager that raises `TimeLimit` in the main thread after some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __enter__(self) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            raise TimeLimit(f"stopped after {self.seconds:.0f} s")

        self.start = time.monotonic()
        self.handler = signal.signal(signal.SIGALRM, stop)
        self.before, _ = signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_: object) -> None:
        left = max(0.001, self.before - (time.monotonic() - self.start)) if self.before else 0
        signal.signal(signal.SIGALRM, self.handler)
        signal.setitimer(signal.ITIMER_REAL, left)


def missing_packages() -> list[str]:
    """Return the pip command that installs missing packages."""
    from importlib.util import find_spec

    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    return [f"pip install {' '.join(missing)}"] if missing else []


def add_metadata(root: Path) -> None:
    """Write resnets.egg-info, as an installation does, if there is none: runs record the version.

    Installing needs a setuptools that is newer than many machines without a network have.
    """
    import tomllib
    from importlib import metadata

    if any(metadata.distributions(name="resnets")):
        return
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = root / "resnets.egg-info"
    folder.mkdir(exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: resnets\nVersion: {project['version']}\n"
    (folder / "PKG-INFO").write_text(text, encoding="utf-8")


def one_line(error: BaseException) -> str:
    """Format type and message of an error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def format_traceback(error: BaseException) -> str:
    """Format the traceback of an error and of those that led to it, without the middle if long."""
    text = "".join(traceback.format_exception(error))
    half = MAX_TRACEBACK // 2
    return text if len(text) <= MAX_TRACEBACK else f"{text[:half]}\n[...]\n{text[-half:]}"


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
