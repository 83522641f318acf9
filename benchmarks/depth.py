"""Time and memory of a training step by depth: both should grow linearly.

    python benchmarks/depth.py [--depths 20,56,110,218,434,866,1202] [--batch 32] [--out depth.png]

CIFAR residual networks, as `resnets train` trains them (bfloat16 if the CPU supports it). Each
depth runs in its own process; memory is the peak of the process minus its memory before the first
step. The line is a least-squares fit in depth; its largest residual, in percent, says how linear a
cost is.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from timing import min_seconds


def measure_steps(depth: int, batch: int, steps: int, recompute: bool) -> dict[str, float]:
    """Return the milliseconds of a step of one depth, and its memory in MiB."""
    import torch
    from training import Training, random_images

    from resnets.config import Recipe
    from resnets.models import catalog

    recipe = Recipe(model=catalog.spec(f"cifar-resnet{depth}"), batch_size=batch)
    training = Training(torch.device("cpu"), recipe, random_images(16 * batch, 32))
    training.model.recompute = recompute
    before = _peak_memory()
    seconds = min_seconds(training.step, steps)
    return {"ms": 1000 * seconds, "mib": _peak_memory() - before}


def _peak_memory() -> float:
    """Return the peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def plot(depths: list[int], rows: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Plot both costs by depth, with the fitted lines."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, key, title in zip(
        axes, ("ms", "mib"), ("time of a step, ms", "memory of a step, MiB"), strict=True
    ):
        for (name, costs), color in zip(rows.items(), ("#0b5fa5", "#c2410c"), strict=True):
            values = [each[key] for each in costs]
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
    parser.add_argument("--measure", nargs=2, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        depth, recompute = args.measure
        print(json.dumps(measure_steps(depth, args.batch, args.steps, bool(recompute))))
        return
    depths = [int(text) for text in args.depths.split(",")]
    rows: dict[str, list[dict[str, float]]] = {}
    for name, recompute in (("stored", 0), ("recomputed", 1)):
        rounds: list[list[dict[str, float]]] = []
        for _ in range(args.rounds):
            rounds.append([_run_depth(depth, recompute, args) for depth in depths])
        best = [min(each["ms"] for each in row) for row in zip(*rounds, strict=True)]
        peak = [statistics.median(e["mib"] for e in row) for row in zip(*rounds, strict=True)]
        rows[name] = [{"ms": ms, "mib": mib} for ms, mib in zip(best, peak, strict=True)]
    print(f"batch {args.batch}; least of {args.rounds} rounds of {args.steps} steps")
    for name, costs in rows.items():
        for depth, each in zip(depths, costs, strict=True):
            print(
                f"{name:<11} {depth:>5} layers {each['ms']:>9,.1f} ms {each['ms'] / depth:>7.3f} "
                f"ms per layer {each['mib']:>8,.0f} MiB {each['mib'] / depth:>7.2f} MiB per layer"
            )
        for key in ("ms", "mib"):
            values = [each[key] for each in costs]
            line = np.polyval(np.polyfit(depths, values, 1), depths)
            residual = max(abs(values - line)) / max(values)
            print(f"{name:<11} {key}: largest residual of the line {residual:.1%} of the largest")
    plot(depths, rows, args.out)
    print(args.out)


def _run_depth(depth: int, recompute: int, args: argparse.Namespace) -> dict[str, float]:
    words = ["--measure", str(depth), str(recompute), "--batch", str(args.batch)]
    done = subprocess.run(
        [sys.executable, __file__, *words, "--steps", str(args.steps)],
        capture_output=True,
        text=True,
        check=True,
    )
    print(f"{depth} layers: {done.stdout.strip()}", file=sys.stderr)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
