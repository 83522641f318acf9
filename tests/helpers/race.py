"""Two processes that race for one folder, and whether what they wrote is mixed.

"out": two runs into one --out. "names": two runs without --out. "resume": two resume one run.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from same import difference

# Children fork from a clean process that has imported everything once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["resnets.train.run", "resnets.cli.train", "sklearn.datasets"])

MODES = ("out", "names", "resume")
TRAIN = [
    *("train", "digits", "--model", "cifar-resnet8", "--device", "cpu", "--iterations", "4"),
    *("--set", "checkpoint_every=2it", "--set", "eval.every=4it", "--set", "log_every=1it"),
    *("--set", "batch_size=32", "--set", "precision=float32"),
]


def command(folder: Path, words: Sequence[str], start: Any, delay: float, answer: Any) -> None:
    """Run one command in `folder` when all are ready; sends its exit code and what it said."""
    import torch

    from resnets.cli.main import main

    os.chdir(folder)
    torch.set_num_threads(1)
    sys.stdout = io.StringIO()
    sys.stderr = said = io.StringIO()
    start.wait()
    time.sleep(delay)
    answer.send((main(words), said.getvalue()))


def at_once(
    folder: Path, commands: Sequence[Sequence[str]], delays: Sequence[float]
) -> list[tuple[int, str]]:
    """The exit code and stderr of each of several commands that start together in `folder`."""
    start, pipes, children = FORKS.Barrier(len(commands)), [], []
    for words, delay in zip(commands, delays, strict=True):
        ours, theirs = FORKS.Pipe(duplex=False)
        child = FORKS.Process(target=command, args=(folder, list(words), start, delay, theirs))
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    answers = [pipe.recv() for pipe in pipes]
    for child in children:
        child.join()
    return answers


def references(folder: Path) -> list[Path]:
    """The runs of seed 0 and 1 that nothing disturbs."""
    runs = [folder / "whole-0", folder / "whole-1"]
    for seed, run in enumerate(runs):
        ((code, said),) = at_once(folder, [[*TRAIN, "--seed", str(seed), "--out", str(run)]], [0.0])
        assert code == 0, said
    return runs


def race(folder: Path, whole: Sequence[Path], mode: str, delays: Sequence[float]) -> list[str]:
    """Let two processes race in the new `folder`; what is wrong with the outcome."""
    folder.mkdir()
    if mode == "resume":
        shutil.copytree(whole[0], folder / "run")
        for name in ("checkpoints/last.safetensors", "result.json", "report.html"):
            (folder / "run" / name).unlink()
        commands = [["train", "--resume", "run", "--device", "cpu"]] * 2
    else:
        out = ["--out", "run"] if mode == "out" else []
        commands = [[*TRAIN, "--seed", str(seed), *out] for seed in (0, 1)]
    answers = at_once(folder, commands, delays)
    codes = sorted(code for code, _ in answers)
    wrong = []
    allowed = {"out": ([0, 2],), "names": ([0, 0],), "resume": ([0, 2], [0, 0])}[mode]
    if codes not in allowed:
        wrong.append(f"{mode}: exit codes {codes}: {[said[-300:] for _, said in answers]}")
    for code, said in answers:
        if code == 2 and not any(text in said for text in ("is writing into", "contains a run")):
            wrong.append(f"{mode}: {said[-300:]}")
    if mode == "names":
        runs = sorted((folder / "runs").iterdir())
        if [run.name for run in runs] != ["digits-1", "digits-2"]:
            wrong.append(f"names: folders {[run.name for run in runs]}")
        seeds = [_seed(run) for run in runs]
        if sorted(seeds) != [0, 1]:
            wrong.append(f"names: seeds {seeds}")
    else:
        runs = [folder / "run"]
    wrong += [f"{mode}: {text}" for run in runs if (text := _mixed(run, whole))]
    return wrong


def _seed(run: Path) -> int:
    for line in (run / "recipe.toml").read_text().splitlines():
        if line.startswith("seed = "):
            return int(line.removeprefix("seed = "))
    raise AssertionError(f"{run}: no seed")


def _mixed(run: Path, whole: Sequence[Path]) -> str:
    """How a run differs from the undisturbed one of its seed."""
    alone = whole[_seed(run)]
    ours, theirs = (
        [json.loads(line) for line in (each / "metrics.jsonl").read_text().splitlines()]
        for each in (run, alone)
    )
    steps, others = ([(row["kind"], row["step"]) for row in rows] for rows in (ours, theirs))
    if steps != others:
        return f"mixed rows: {steps}"
    return difference(alone, run)
