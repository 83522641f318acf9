"""Measures and draws imbalance.png: weights, sampling and the focal loss on imbalanced classes.

    python docs/images/imbalance.py --data imagenette

Five classes of Imagenette keep 300 training images and five keep 20; the test images are its 1,000
validation images, all of 40 px. Twelve runs of 20 epochs.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from guide_runs import (
    IMAGES,
    SEEDS,
    SMALL,
    arguments,
    class_errors,
    make_once,
    mean_and_spread,
    photographs,
    shrink,
    train,
)
from matplotlib.figure import Figure
from result_tables import record

import resnets
from resnets.report.figure_style import SERIES, figure_style

FREQUENT, RARE = 300, 20
ARMS = {
    "none": {},
    "class_weights=auto": {"loss.class_weights": "auto"},
    "kind=focal": {"loss.kind": "focal"},
    "balance=classes": {"data.balance": "classes"},
}
LABELS = ("none", "weights", "focal", "sampling")
COMMAND = (
    "python docs/images/imbalance.py: resnets train scratch --data DATA --model cifar-resnet8 --set"
    " data.size=32 --set data.resize=36 --set data.val_fraction=0 --set ema_decay=0 --epochs 20"
    " --seed SEED, with --set loss.class_weights=auto, loss.kind=focal or data.balance=classes"
)


def make_set(photos: Path, folder: Path) -> None:
    """Write train/ and test/: every second class keeps 300 images, the others 20."""
    for number, (name, images) in enumerate(photographs(photos / "train").items()):
        shrink(images[: RARE if number % 2 else FREQUENT], folder / "train" / name)
    for name, images in photographs(photos / "val").items():
        shrink(images, folder / "test" / name)


def measure(run: resnets.Run) -> dict[str, float]:
    """Return balanced error, macro F1 and the mean errors of frequent and rare classes."""
    errors = list(class_errors(run).values())
    counts = list(run.result["train"]["class_counts"].values())
    rare = [count < FREQUENT / 2 for count in counts]
    return {
        "balanced": run.result["test"]["balanced_error"],
        "f1": run.result["test"]["macro_f1"],
        "frequent": statistics.fmean(e for e, few in zip(errors, rare, strict=True) if not few),
        "rare": statistics.fmean(e for e, few in zip(errors, rare, strict=True) if few),
    }


def draw(found: dict[str, list[dict[str, float]]]) -> None:
    """Draw the errors of all runs, and bars at their means."""
    with figure_style():
        plot = Figure(figsize=(8.6, 3.4))
        panels = plot.subplots(1, 3, sharey=True)
        titles = {
            "balanced": "balanced error",
            "frequent": "classes of 300",
            "rare": "classes of 20",
        }
        for axes, (key, title) in zip(panels, titles.items(), strict=True):
            for place, runs in enumerate(found.values()):
                values = [run[key] for run in runs]
                color = SERIES[3] if place else SERIES[0]
                axes.bar(place, statistics.fmean(values), color=color, alpha=0.35)
                axes.plot([place] * len(values), values, "o", color=color, ms=4)
            axes.set(title=title, ylim=(0, 103))
            axes.set_xticks(range(len(found)), LABELS)
            axes.grid(visible=False, axis="x")
        panels[0].set_ylabel("error (%)")
        plot.savefig(IMAGES / "imbalance.png", dpi=120)


def main() -> None:
    """Train what is left, and write table and figure."""
    options = arguments(__doc__)
    data = make_once(options.out / "imbalanced", lambda folder: make_set(options.data, folder))
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for seed in SEEDS:
        for number, (arm, changes) in enumerate(ARMS.items()):
            run = train(
                "scratch",
                options.out / f"imbalance-{number}-{seed}",
                data=data,
                epochs=20,
                seed=seed,
                **{**SMALL, "data.val_fraction": 0, **changes},
            )
            found[arm].append(measure(run))
    titles = {
        "balanced": "balanced error",
        "f1": "macro F1",
        "frequent": "error of classes of 300",
        "rare": "error of classes of 20",
    }
    rows = [
        [f"`{arm}`" if "=" in arm else arm,
         *(mean_and_spread([run[key] for run in runs]) for key in titles)]
        for arm, runs in found.items()
    ]  # fmt: skip
    record("imbalance", COMMAND, ["settings", *titles.values()], rows)
    draw(found)


if __name__ == "__main__":
    main()
