"""Timing of contenders: each is built in its own process, and they run in turn in rounds.

Thread pools and allocators belong to a process, and the speed of a machine changes over minutes;
the ratio of two contenders in the same round compares times that were measured shortly after each
other.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO


def min_seconds(
    function: Callable[[], object], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the least time of `rounds` calls of `function`, after one call to warm up."""
    function()
    seconds = []
    for _ in range(rounds):
        start = clock()
        function()
        seconds.append(clock() - start)
    return min(seconds)


def answer_requests(make: Callable[[], Callable[[str], Any]]) -> None:
    """Main function of a contender's process: build it, then answer each line of stdin as JSON.

    `make` returns the function that answers a line. An error while building is the first answer.
    """
    answers, sys.stdout = sys.stdout, sys.stderr
    try:
        answer = make()
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0][:120]
        _send(answers, {"error": f"{type(error).__name__}: {first_line}"})
        return
    _send(answers, {})
    for line in sys.stdin:
        _send(answers, answer(line.strip()))


def _send(stream: TextIO, answer: Any) -> None:
    print(json.dumps(answer), file=stream, flush=True)


def start_contenders(
    commands: Mapping[str, Sequence[str]],
    environments: Mapping[str, Mapping[str, str]] | None = None,
    *,
    quiet: bool = False,
) -> dict[str, subprocess.Popen[str]]:
    """Start `python COMMAND` for each contender; those that cannot be built are reported.

    environments: additional environment variables, by contender. quiet: discard stderr.
    """
    processes = {}
    for name, command in commands.items():
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            text=True,
            bufsize=1,
            env=os.environ | (environments or {}).get(name, {}),
        )
        line = process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process has ended"}
        if "error" in answer:
            process.kill()
            remedy = "; pip install 'resnets[bench]'" if "ModuleNotFound" in answer["error"] else ""
            print(f"skipped: {name}: {answer['error']}{remedy}", flush=True)
        else:
            processes[name] = process
    return processes


def take_turns(
    processes: Mapping[str, subprocess.Popen[str]], request: object, rounds: int
) -> dict[str, list[Any]]:
    """Send `request` to each contender in turn, in each round; return the answers.

    A first round warms up and is not counted.
    """
    answers: dict[str, list[Any]] = {name: [] for name in processes}
    for number in range(rounds + 1):
        for name, process in processes.items():
            process.stdin.write(f"{request}\n")
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{name}: the process has ended")
            if number:
                answers[name].append(json.loads(line))
    return answers


def stop_contenders(processes: Mapping[str, subprocess.Popen[str]]) -> None:
    """End the processes."""
    for process in processes.values():
        process.communicate()


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def format_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> str:
    """Format the ratio of each round as `format_spread`; "1.00" of a contender to itself."""
    if list(numerators) == list(denominators):
        return "1.00"
    return format_spread(ratios(numerators, denominators))


def format_spread(values: Sequence[float], spec: str = ".2f") -> str:
    """Format median, minimum and maximum as "1.52 (1.50 to 1.61)"."""
    middle, low, high = (
        format(each, spec) for each in (statistics.median(values), min(values), max(values))
    )
    return f"{middle} ({low} to {high})"
