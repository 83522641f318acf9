"""Kill a training run at random times until it has finished; start two runs in one folder.

    python tests/helpers/chaos.py [--processes 2] [--kills 100] [--steps 40] [--seed 1]

compares the weights and rows of a killed and resumed run with those of an uninterrupted one. Each
attempt is forked from a process that has imported everything (see forked.py).

    python tests/helpers/chaos.py --race 50 [--seed 1]

lets two processes race for one folder 50 times (see concurrent_runs.py).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import forked

TRAIN = [
    "train", "digits", "--model", "cifar-resnet8", "--device", "cpu",
    "--set", "checkpoint_every=5it", "--set", "eval.every=200it", "--set", "log_every=5it",
    "--set", "ema_decay=0.9", "--set", "norm_batch=16", "--set", "batch_size=32",
    "--set", "data.augment.mixup=0.2", "--set", "keep_checkpoints=3",
]  # fmt: skip


def train_arguments(kills: int, processes: int, steps: int = 40) -> list[str]:
    """Arguments of a run that outlasts `kills` kills, each of which costs about a dozen steps."""
    return [*TRAIN, "--iterations", str(steps * kills), "--devices", str(processes)]


def start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    return forked.Popen(
        [sys.executable, "-m", "resnets", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def training_pids(process: subprocess.Popen[bytes], processes: int) -> list[int]:
    """The processes that train: `process` itself, or the children of the launcher."""
    if processes == 1:
        return [process.pid]
    return forked.children(process.pid)


def checkpoint_time(run: Path) -> float:
    path = run / "checkpoints" / "last.safetensors"
    return path.stat().st_mtime if path.exists() else 0.0


def train_with_kills(
    folder: Path, arguments: Sequence[str], processes: int, max_kills: int, seed: int
) -> tuple[int, Path]:
    """Kill a run up to `max_kills` times and resume it until it ends.

    Kills one of the processes (the others then end too), or all with their launcher. Most kills
    come up to 0.5 s after the first checkpoint of an attempt, so that every attempt advances; 15%
    come at any time within 2 s, also while programs start. Returns the number of kills and the
    run's folder.
    """
    rng, kills = random.Random(seed), Counter[str]()
    run = folder / "chaos"
    command = [*arguments, "--out", str(run), "--resume-if-exists"]
    while True:
        before, process = checkpoint_time(run), start(command)
        if kills.total() < max_kills:
            at_any_time = rng.random() < 0.15
            while not at_any_time and process.poll() is None and checkpoint_time(run) <= before:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 2 if at_any_time else 0.5))
        if kills.total() < max_kills and process.poll() is None:
            target, pids = rng.choice(("one", "all")), training_pids(process, processes)
            if target == "one" and pids:
                os.kill(rng.choice(pids), signal.SIGKILL)
            else:
                process.kill()
                for pid in pids if processes > 1 else []:
                    os.kill(pid, signal.SIGKILL)
            kills[target] += 1
        error = process.communicate()[1].decode()
        if process.returncode == 0:
            print(f"{kills.total()} kills of {processes} process(es) ({dict(kills)})", flush=True)
            return kills.total(), run
        assert "Traceback" not in error, error


def run_races(folder: Path, count: int, seed: int) -> list[str]:
    """Let two processes race `count` times, with random delays; returns what was wrong."""
    from concurrent_runs import MODES, race, train_references

    rng, problems, modes = random.Random(seed), list[str](), Counter[str]()
    references = train_references(folder)
    for number in range(count):
        mode = MODES[number % len(MODES)]
        delays = (0.0, rng.choice((0.0, 0.01, 0.1, 0.5)))
        found = race(folder / str(number), references, mode, delays)
        modes[mode] += 1
        problems += found
        print(f"{number + 1} races ({mode}): {found or 'not mixed'}", flush=True)
    print(f"{count} races ({dict(modes)}), {len(problems)} problems", flush=True)
    return problems


def main() -> None:
    from compare_runs import difference

    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=40, help="training steps per kill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--race", type=int, default=0, help="number of races, instead of kills")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.race:
            sys.exit(bool(run_races(folder, options.race, options.seed)))
        arguments = train_arguments(options.kills, options.processes, options.steps)
        reference = start([*arguments, "--out", str(folder / "reference")])
        error = reference.communicate()[1].decode()  # a full pipe would block the run
        assert reference.returncode == 0, error
        kills, run = train_with_kills(
            folder, arguments, options.processes, options.kills, options.seed
        )
        found = difference(folder / "reference", run)
        print(found or f"weights and rows bitwise equal after {kills} kills")
        sys.exit(bool(found) or kills < options.kills)


if __name__ == "__main__":
    main()
