"""Time and memory of a training step by depth: both should grow linearly.

    python benchmarks/depth.py [--depths 20,56,110,218,434,866,1202] [--batch 32] [--out depth.png]
        [--record depth-cost]

CIFAR residual networks, as `resnets train` trains them (bfloat16 if the CPU supports it). Each
depth runs in its own process; memory is the peak of the process minus its memory before the first
step. The line is a least-squares fit in depth; its largest residual, in percent, says how linear a
cost is. --record writes both lines; the costs of each depth are printed only.
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
from recording import Cell, make_parser, report
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
    parser = make_parser(__doc__)
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
    for name, recompute in (("as it is", 0), ("activation checkpointing", 1)):
        rounds: list[list[dict[str, float]]] = []
        for _ in range(args.rounds):
            rounds.append([_run_depth(depth, recompute, args) for depth in depths])
        best = [min(each["ms"] for each in row) for row in zip(*rounds, strict=True)]
        peak = [statistics.median(e["mib"] for e in row) for row in zip(*rounds, strict=True)]
        rows[name] = [{"ms": ms, "mib": mib} for ms, mib in zip(best, peak, strict=True)]
    report(
        None,
        ["", "layers", "step, ms", "memory, MiB"],
        [
            [name, depth, round(each["ms"], 1), round(each["mib"])]
            for name, costs in rows.items()
            for depth, each in zip(depths, costs, strict=True)
        ],
    )
    first, last = f"{depths[0]:,}", f"{depths[-1]:,}"
    columns = [
        f"CIFAR residual networks of {first} to {last} layers, batch size {args.batch}",
        "a layer, ms",
        "deviation from a straight line",
        "a layer, MiB",
        "its deviation",
        f"memory at {last} layers, MiB",
    ]
    setup = f"time: least of {args.rounds} rounds of {args.steps} steps; memory: median"
    report(args.record, columns, [_line(name, depths, rows[name]) for name in rows], setup)
    plot(depths, rows, args.out)
    print(args.out)


def _line(name: str, depths: list[int], costs: list[dict[str, float]]) -> list[Cell]:
    """Return the costs of a layer, and how far those of a step are from a straight line."""
    ms = [each["ms"] / depth for depth, each in zip(depths, costs, strict=True)]
    deviations = []
    for key in ("ms", "mib"):
        values = np.array([each[key] for each in costs])
        line = np.polyval(np.polyfit(depths, values, 1), depths)
        deviations.append(f"{max(abs(values - line)) / max(values):.1%}")
    mib = costs[-1]["mib"]
    each_ms = f"{min(ms):.2f} to {max(ms):.2f}"
    return [name, each_ms, deviations[0], round(mib / depths[-1], 2), deviations[1], round(mib)]


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
