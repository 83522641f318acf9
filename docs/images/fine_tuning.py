"""Measures and draws fine-tuning.png: layer-wise learning-rate decay on few images.

    python docs/images/fine_tuning.py --data imagenette

Twenty training images of each of Imagenette's classes at 40 px, and 50 test images; the weights are
those of CIFAR-10 that come with the package (its ten classes are others, but for dogs and trucks).
"""

from __future__ import annotations

import statistics
from typing import Any

from guide_runs import (
    IMAGES,
    SEEDS,
    SMALL,
    arguments,
    make_once,
    mean_and_spread,
    shrink_splits,
    train,
)
from matplotlib.figure import Figure
from result_tables import record

from resnets.report.figure_style import SERIES, figure_style

TRAINED, TESTED = 20, 50  # images of each class
WEIGHTS = {"model": "cifar-resnet20", "weights": "resnets:cifar10/cifar-resnet20"}
ARMS: dict[str, dict[str, Any]] = {
    "random weights": {"model": "cifar-resnet20"},
    "pretrained": WEIGHTS,
    "`layer_decay=0.7`": {**WEIGHTS, "finetune.layer_decay": 0.7},
    "`layer_decay=0.3`": {**WEIGHTS, "finetune.layer_decay": 0.3},
    "`head_first=1`": {**WEIGHTS, "finetune.head_first": 1.0},
}
COMMAND = (
    "python docs/images/fine_tuning.py: resnets train scratch --data DATA --model cifar-resnet20"
    " --set weights=resnets:cifar10/cifar-resnet20 --set data.size=32 --set data.resize=36 --set"
    " data.val_fraction=0 --set ema_decay=0 --set batch_size=32 --set optim.lr=0.02 --epochs 20"
    " --seed SEED, with the fields of the table"
)


def draw(found: dict[str, list[float]]) -> None:
    """Draw the errors of all runs."""
    with figure_style():
        plot = Figure(figsize=(6.4, 2.8))
        axes = plot.subplots()
        for place, errors in enumerate(found.values()):
            color = SERIES[3] if place else SERIES[0]
            axes.barh(place, statistics.fmean(errors), color=color, alpha=0.35)
            axes.plot(errors, [place] * len(errors), "o", color=color, ms=4)
        axes.set(xlabel="test error (%)", xlim=(0, 100), ylim=(len(found) - 0.4, -0.6))
        axes.set_yticks(range(len(found)), [name.strip("`") for name in found])
        axes.grid(visible=False, axis="y")
        plot.savefig(IMAGES / "fine-tuning.png", dpi=120)


def main() -> None:
    """Train what is left, and write table and figure."""
    options = arguments(__doc__)
    data = make_once(
        options.out / "few", lambda folder: shrink_splits(options.data, folder, TRAINED, TESTED)
    )
    common = {**SMALL, "data.val_fraction": 0, "batch_size": 32, "optim.lr": 0.02}
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number, (arm, fields) in enumerate(ARMS.items()):
        for seed in SEEDS:
            run = train(
                "scratch",
                options.out / f"fine-tuning-{number}-{seed}",
                data=data,
                epochs=20,
                seed=seed,
                **{**common, **fields},
            )
            found[arm].append(run.result["test"]["top1_error"])
    rows: list[list[str | float | None]] = [
        [arm, mean_and_spread(errors), *(f"{error:.1f}%" for error in errors)]
        for arm, errors in found.items()
    ]
    columns = ["weights, `finetune.`", "test error", *(f"seed {seed}" for seed in SEEDS)]
    record("fine-tuning", COMMAND, columns, rows)
    draw(found)


if __name__ == "__main__":
    main()
