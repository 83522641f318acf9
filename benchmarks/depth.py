"""Time and memory of a training step against depth: both should grow linearly.

    python benchmarks/depth.py [--depths 20,56,110,218,434,866,1202] [--batch 32] [--out depth.png]

CIFAR residual nets, bfloat16 where the CPU has it, as `resnets train` trains them. Each depth runs
in its own process; memory is the peak of the process less what it held before the first step. The
line is the least-squares fit in depth; what it misses, in percent, says how linear a cost is.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np


def work(depth: int, batch: int, steps: int, recompute: bool) -> None:
    """One depth: prints milliseconds a step and mebibytes."""
    import torch

    from resnets.config import Recipe
    from resnets.data.batch import Batch
    from resnets.models import build, catalog
    from resnets.models.norm import use_cpu_kernels
    from resnets.train.data_parallel import DataParallelModel
    from resnets.train.loss import classification_loss
    from resnets.train.state import new_state
    from resnets.train.step import TrainStep
    from resnets.utils import environment
    from resnets.utils.precision import pick_precision

    environment.tune_malloc()
    spec = catalog.spec(f"cifar-resnet{depth}")
    net = build(spec).to(memory_format=torch.channels_last)
    net.recompute = recompute
    use_cpu_kernels(net)
    recipe = Recipe(model=spec, batch_size=batch)
    state, forward = new_state(net, recipe, 1000), DataParallelModel(net)
    images = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
    given = Batch(images, torch.arange(batch) % 10, torch.arange(batch))
    bf16 = pick_precision("auto", torch.device("cpu")) == "bfloat16"
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
    step = TrainStep(state, forward, classification_loss(), autocast, recipe)
    before, seconds = _peak(), []
    for _ in range(steps + 1):
        begin = time.perf_counter()
        step(given)
        seconds.append(time.perf_counter() - begin)
    found = {"ms": 1000 * min(seconds[1:]), "mib": _peak() - before}
    print(json.dumps(found))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def plot(depths: list[int], rows: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Both costs against depth, with the lines that fit."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, key, title in zip(
        axes, ("ms", "mib"), ("time of a step, ms", "memory of a step, MiB"), strict=True
    ):
        for (name, found), color in zip(rows.items(), ("#0b5fa5", "#c2410c"), strict=True):
            values = [each[key] for each in found]
            axis.plot(depths, values, "o", color=color, label=name)
            axis.plot(depths, np.polyval(np.polyfit(depths, values, 1), depths), color=color)
        axis.set(title=title, xlabel="layers", xlim=(0, None), ylim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--depths", default="20,56,110,218,434,866,1202")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("depth.png"))
    parser.add_argument("--work", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work[0], given.batch, given.steps, bool(given.work[1]))
        return
    depths = [int(text) for text in given.depths.split(",")]
    rows: dict[str, list[dict[str, float]]] = {}
    for name, recompute in (("stored", 0), ("recomputed", 1)):
        rounds: list[list[dict[str, float]]] = []
        for _ in range(given.rounds):
            rounds.append([_measure(depth, recompute, given) for depth in depths])
        best = [min(each["ms"] for each in row) for row in zip(*rounds, strict=True)]
        peak = [statistics.median(e["mib"] for e in row) for row in zip(*rounds, strict=True)]
        rows[name] = [{"ms": ms, "mib": mib} for ms, mib in zip(best, peak, strict=True)]
    print(f"batch {given.batch}; least of {given.rounds} rounds of {given.steps} steps")
    for name, found in rows.items():
        for depth, each in zip(depths, found, strict=True):
            print(
                f"{name:<11} {depth:>5} layers {each['ms']:>9,.1f} ms {each['ms'] / depth:>7.3f} "
                f"ms a layer {each['mib']:>8,.0f} MiB {each['mib'] / depth:>7.2f} MiB a layer"
            )
        for key in ("ms", "mib"):
            values = [each[key] for each in found]
            line = np.polyval(np.polyfit(depths, values, 1), depths)
            off = max(abs(values - line)) / max(values)
            print(f"{name:<11} {key}: at most {off:.1%} of the largest off a straight line")
    plot(depths, rows, given.out)
    print(given.out)


def _measure(depth: int, recompute: int, given: argparse.Namespace) -> dict[str, float]:
    words = ["--work", str(depth), str(recompute), "--batch", str(given.batch)]
    done = subprocess.run(
        [sys.executable, __file__, *words, "--steps", str(given.steps)],
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    print(f"{depth} layers: {done.stdout.strip()}", file=sys.stderr)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
