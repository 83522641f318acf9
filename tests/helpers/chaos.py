"""A run that is killed at random times, again and again, until it is done; and runs that race.

    python tests/helpers/chaos.py [--processes 2] [--kills 100] [--steps 40] [--seed 1]

compares its weights and rows with those of a run that nothing befell, and prints what it did.
Each attempt is forked from a process that has imported everything (see forked.py).

    python tests/helpers/chaos.py --race 50 [--seed 1]

lets two processes race for one folder so often (see race.py) and prints how many were mixed.
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
    *("train", "digits", "--model", "cifar-resnet8", "--device", "cpu"),
    *("--set", "checkpoint_every=5it", "--set", "eval.every=200it", "--set", "log_every=5it"),
    *("--set", "ema_decay=0.9", "--set", "norm_batch=16", "--set", "batch_size=32"),
    *("--set", "data.augment.mixup=0.2", "--set", "keep_checkpoints=3"),
]


def train(kills: int, processes: int, steps: int = 40) -> list[str]:
    """Words of a run that is long enough for so many kills: each leaves it a dozen steps on."""
    return [*TRAIN, "--iterations", str(steps * kills), "--devices", str(processes)]


def start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    return forked.Popen(
        [sys.executable, "-m", "resnets", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def workers(process: subprocess.Popen[bytes], processes: int) -> list[int]:
    """The processes that train: `process` itself, or the children of the launcher."""
    if processes == 1:
        return [process.pid]
    return forked.children(process.pid)


def last_written(folder: Path) -> float:
    path = folder / "checkpoints" / "last.safetensors"
    return path.stat().st_mtime if path.exists() else 0.0


def chaos(
    folder: Path, train: Sequence[str], processes: int, wanted: int, seed: int
) -> tuple[int, Path]:
    """Kill the run of `train` up to `wanted` times, then let it end; the count and its folder.

    What is killed is any of the processes (the others follow), or all with their launcher. A kill
    comes up to two seconds after the first checkpoint of an attempt, so every attempt gets further;
    now and then it comes at any time, also while programs start.
    """
    luck, kills, what = random.Random(seed), 0, Counter[str]()
    out = folder / "chaos"
    words = [*train, "--out", str(out), "--go-on"]
    while True:
        before, process = last_written(out), start(words)
        if kills < wanted:
            early = luck.random() < 0.15
            while not early and process.poll() is None and last_written(out) <= before:
                time.sleep(0.01)
            time.sleep(luck.uniform(0, 2 if early else 0.5))
        if kills < wanted and process.poll() is None:
            whom, mine = luck.choice(("one", "all")), workers(process, processes)
            if whom == "one" and mine:
                os.kill(luck.choice(mine), signal.SIGKILL)
            else:
                process.kill()
                for pid in mine if processes > 1 else []:
                    os.kill(pid, signal.SIGKILL)
            kills, what[whom] = kills + 1, what[whom] + 1
        error = process.communicate()[1].decode()
        if process.returncode == 0:
            print(f"{kills} kills of {processes} process(es) ({dict(what)})", flush=True)
            return kills, out
        assert "Traceback" not in error, error


def races(folder: Path, wanted: int, seed: int) -> list[str]:
    """Two processes race `wanted` times, with another delay each time; what was wrong."""
    from race import MODES, race, references

    luck, wrong, what = random.Random(seed), list[str](), Counter[str]()
    whole = references(folder)
    for number in range(wanted):
        mode = MODES[number % len(MODES)]
        found = race(folder / str(number), whole, mode, (0.0, luck.choice((0.0, 0.01, 0.1, 0.5))))
        what[mode] += 1
        wrong += found
        print(f"{number + 1} races ({mode}): {found or 'not mixed'}", flush=True)
    print(f"{wanted} races ({dict(what)}), {len(wrong)} of them wrong or mixed", flush=True)
    return wrong


def main() -> None:
    from same import difference

    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=40, help="of training for each kill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--race", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.race:
            sys.exit(bool(races(Path(folder), given.race, given.seed)))
        whole = Path(folder) / "whole"
        words = train(given.kills, given.processes, given.steps)
        first = start([*words, "--out", str(whole)])
        error = first.communicate()[1].decode()  # a pipe that nobody reads would stop it
        assert first.returncode == 0, error
        kills, out = chaos(Path(folder), words, given.processes, given.kills, given.seed)
        found = difference(whole, out)
        print(found or f"weights and rows bitwise equal after {kills} kills")
        sys.exit(bool(found) or kills < given.kills)


if __name__ == "__main__":
    main()
