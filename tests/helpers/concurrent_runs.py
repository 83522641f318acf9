"""Two processes that race for one folder, and a check that their files are not mixed.

Modes: "out", two runs into one --out; "names", two runs without --out; "resume", two processes that
resume one run.
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

from compare_runs import difference

# Children fork from a clean process that has imported everything once.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["resnets.train.run", "resnets.cli.train", "sklearn.datasets"])

MODES = ("out", "names", "resume")
TRAIN = [
    "train", "digits", "--model", "cifar-resnet8", "--device", "cpu", "--iterations", "4",
    "--set", "checkpoint_every=2it", "--set", "eval.every=4it", "--set", "log_every=1it",
    "--set", "batch_size=32", "--set", "precision=float32",
]  # fmt: skip


def run_command(
    folder: Path, arguments: Sequence[str], barrier: Any, delay: float, pipe: Any
) -> None:
    """Run one command in `folder` when all are ready; sends its exit code and stderr."""
    import torch

    from resnets.cli.main import main

    os.chdir(folder)
    torch.set_num_threads(1)
    sys.stdout = io.StringIO()
    sys.stderr = stderr = io.StringIO()
    barrier.wait()
    time.sleep(delay)
    pipe.send((main(arguments), stderr.getvalue()))


def run_together(
    folder: Path, commands: Sequence[Sequence[str]], delays: Sequence[float]
) -> list[tuple[int, str]]:
    """The exit code and stderr of each of several commands that start together in `folder`."""
    barrier, pipes, processes = FORKS.Barrier(len(commands)), [], []
    for arguments, delay in zip(commands, delays, strict=True):
        reader, writer = FORKS.Pipe(duplex=False)
        process = FORKS.Process(
            target=run_command, args=(folder, list(arguments), barrier, delay, writer)
        )
        process.start()
        writer.close()
        pipes.append(reader)
        processes.append(process)
    results = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    return results


def train_references(folder: Path) -> list[Path]:
    """Uninterrupted runs of seeds 0 and 1."""
    runs = [folder / "reference-0", folder / "reference-1"]
    for seed, run in enumerate(runs):
        arguments = [*TRAIN, "--seed", str(seed), "--out", str(run)]
        ((code, stderr),) = run_together(folder, [arguments], [0.0])
        assert code == 0, stderr
    return runs


def race(folder: Path, references: Sequence[Path], mode: str, delays: Sequence[float]) -> list[str]:
    """Let two processes race in the new `folder`; returns what is wrong with the outcome."""
    folder.mkdir()
    if mode == "resume":
        shutil.copytree(references[0], folder / "run")
        for name in ("checkpoints/last.safetensors", "result.json", "report.html"):
            (folder / "run" / name).unlink()
        commands = [["train", "--resume", "run", "--device", "cpu"]] * 2
    else:
        out = ["--out", "run"] if mode == "out" else []
        commands = [[*TRAIN, "--seed", str(seed), *out] for seed in (0, 1)]
    results = run_together(folder, commands, delays)
    codes = sorted(code for code, _ in results)
    problems = []
    allowed = {"out": ([0, 2],), "names": ([0, 0],), "resume": ([0, 2], [0, 0])}[mode]
    if codes not in allowed:
        problems.append(f"{mode}: exit codes {codes}: {[err[-300:] for _, err in results]}")
    for code, stderr in results:
        if code == 2 and not any(text in stderr for text in ("is writing into", "contains a run")):
            problems.append(f"{mode}: {stderr[-300:]}")
    if mode == "names":
        runs = sorted((folder / "runs").iterdir())
        if [run.name for run in runs] != ["digits-1", "digits-2"]:
            problems.append(f"names: folders {[run.name for run in runs]}")
        seeds = [read_seed(run) for run in runs]
        if sorted(seeds) != [0, 1]:
            problems.append(f"names: seeds {seeds}")
    else:
        runs = [folder / "run"]
    problems += [f"{mode}: {text}" for run in runs if (text := find_difference(run, references))]
    return problems


def read_seed(run: Path) -> int:
    for line in (run / "recipe.toml").read_text().splitlines():
        if line.startswith("seed = "):
            return int(line.removeprefix("seed = "))
    raise AssertionError(f"{run}: no seed")


def find_difference(run: Path, references: Sequence[Path]) -> str:
    """How a run differs from the reference of its seed; "" where it does not."""
    reference = references[read_seed(run)]
    steps, expected = (
        [(row["kind"], row["step"]) for row in map(json.loads, text.splitlines())]
        for text in ((each / "metrics.jsonl").read_text() for each in (run, reference))
    )
    if steps != expected:
        return f"mixed rows: {steps}"
    return difference(reference, run)
