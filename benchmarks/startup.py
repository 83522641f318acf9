"""Seconds until the first output of a command: --help, training, one prediction.

Each command runs in a process of its own, with the files in the page cache, seven times by default.

    python benchmarks/startup.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sklearn.datasets import load_sample_images

COMMAND = [sys.executable, "-m", "resnets"]


def whole(arguments: list[str], folder: str) -> float:
    """Return the seconds until the command ends."""
    start = time.perf_counter()
    subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, check=True)
    return time.perf_counter() - start


def first_line(arguments: list[str], folder: str) -> float:
    """Return the seconds until the command prints a line; the command is then stopped."""
    start = time.perf_counter()
    with subprocess.Popen([*COMMAND, *arguments], cwd=folder, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
        process.kill()
    if not line.strip():
        raise RuntimeError(f"{' '.join(arguments)}: printed nothing")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    image = Path(load_sample_images().filenames[0])
    weights = "resnets:cifar10/cifar-resnet56"
    cases: dict[str, tuple[Callable[[list[str], str], float], list[str]]] = {
        "resnets --help": (whole, ["--help"]),
        "first line of resnets train digits": (first_line, ["train", "digits"]),
        "resnets predict, one image": (whole, ["predict", weights, str(image)]),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (measure, arguments) in cases.items():
            seconds = [measure(arguments, folder) for _ in range(rounds)]
            median = statistics.median(seconds)
            print(f"{name:<36}{median:6.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
