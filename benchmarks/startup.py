"""Seconds until the first output of a command: --help, training, one prediction.

Each command runs in a process of its own, with the files in the page cache, seven times by default.

    python benchmarks/startup.py [--rounds 7] [--record startup]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from recording import make_parser, report
from timing import format_spread

COMMAND = [sys.executable, "-m", "resnets"]


def whole(arguments: list[str], folder: str) -> float:
    """Return the seconds until the command ends."""
    start = time.perf_counter()
    subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, check=True)
    return time.perf_counter() - start


def first_line(arguments: list[str], folder: str) -> float:
    """Return the seconds until the command prints a line; the command is then stopped."""
    start = time.perf_counter()
    command = [*COMMAND, *arguments]  # its progress goes to stderr
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
        process.kill()
    if not line.strip():
        raise RuntimeError(f"{' '.join(arguments)}: printed nothing")
    return seconds


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    from sklearn.datasets import load_sample_images  # seconds, which --help needs not

    image = str(Path(load_sample_images().filenames[0]))
    weights = "resnets:cifar10/cifar-resnet56"
    cases: list[tuple[str, str, Callable[[list[str], str], float], list[str]]] = [
        ("`resnets --help`", "0.3", whole, ["--help"]),
        ("first line of `resnets train digits`", "1", first_line, ["train", "digits"]),
        (f"`resnets predict {weights} IMAGE`, cold", "3", whole, ["predict", weights, image]),
    ]
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            [name, format_spread([measure(words, folder) for _ in range(args.rounds)]), goal]
            for name, goal, measure, words in cases
        ]
    report(args.record, ["", f"seconds (minimum to maximum of {args.rounds})", "goal"], rows)


if __name__ == "__main__":
    main()
