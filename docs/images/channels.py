"""Measures and draws channels.png: classes that only a fifth channel, or only 16 bits, show.

    python docs/images/channels.py --data imagenette

Two made sets. "plots": photographs of Imagenette with two more channels, which show a soft spot
that is brighter in one of them: in the fifth in class "a", in the fourth in "b". "cells": 16-bit
gray images with stripes along ("a") or across ("b") that are dimmer than one step of 8 bits, beside
a bead so bright that the exposure cannot be longer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from guide_runs import (
    IMAGES,
    SEEDS,
    SIDE,
    SMALL,
    arguments,
    make_once,
    mean_and_spread,
    photographs,
    train,
)
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from result_tables import record

from resnets.report.figure_style import figure_style

EACH = {"train": 150, "test": 100}  # images of each class
CLASSES = ("a", "b")
LEVEL, AMPLITUDE, NOISE, BEAD = 257, 110, 5, 40_000  # of 65,535; one step of 8 bits is 257
FIELDS = {**SMALL, "data.augment.crop": "none", "data.resize": SIDE, "data.size": SIDE}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "red, green and blue alone": ("plots-rgb", {}),
    "all five, `data.channels=5`": ("plots", {"data.channels": 5}),
    "16 bits read as 8": ("cells", {"data.channels": 1}),
    "`data.keep_bits=true`": ("cells", {"data.channels": 1, "data.keep_bits": True}),
}
EPOCHS = {"plots-rgb": 15, "plots": 15, "cells": 40}
COMMAND = (
    "python docs/images/channels.py: resnets train scratch --data DATA --model cifar-resnet8 --set"
    " data.size=40 --set data.resize=40 --set data.augment.crop=none --set ema_decay=0 --epochs 15"
    " (of cells 40) --seed SEED, with the fields of the table"
)


def make_stack(photograph: Path, label: int, draw: np.random.Generator) -> NDArray[np.uint8]:
    """Return (5, SIDE, SIDE): a photograph, and two planes with a spot, brighter in one."""
    with Image.open(photograph) as opened:
        small = opened.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    rgb = np.asarray(small).transpose(2, 0, 1)
    y, x = np.mgrid[:SIDE, :SIDE]
    row, column = draw.integers(8, SIDE - 8, 2)
    spot = np.exp(-((y - row) ** 2 + (x - column) ** 2) / 40)
    gray = rgb.mean(0) / 2 + 40
    planes = [
        gray + 70 * spot * (0.5 if each == label else 1) + draw.normal(0, 8, gray.shape)
        for each in (0, 1)
    ]
    return np.concatenate([rgb, np.clip(planes, 0, 255).astype(np.uint8)])


def make_cell(label: int, draw: np.random.Generator) -> NDArray[np.uint16]:
    """Return (SIDE, SIDE): dim stripes and noise, and a bead of one pixel."""
    y, x = np.mgrid[:SIDE, :SIDE]
    stripes = np.sign(np.sin((y if label else x) * np.pi / 3 + draw.uniform(0, 6)))
    values = LEVEL + AMPLITUDE * stripes + draw.normal(0, NOISE, stripes.shape)
    row, column = draw.integers(0, SIDE, 2)
    values[row, column] = BEAD
    return np.clip(values, 0, 65535).astype(np.uint16)


def make_sets(photos: Path, folder: Path) -> None:
    """Write plots/ of .npy files, plots-rgb/ of their first three planes, and cells/."""
    draw, draw_cells = np.random.default_rng(0), np.random.default_rng(1)
    for split, parts in (("train", "train"), ("test", "val")):
        images = [path for paths in photographs(photos / parts).values() for path in paths]
        chosen = iter(draw.permutation(len(images)).tolist())
        for label, name in enumerate(CLASSES):
            for data in ("plots", "plots-rgb", "cells"):
                (folder / data / split / name).mkdir(parents=True)
            for number in range(EACH[split]):
                stack = make_stack(images[next(chosen)], label, draw)
                np.save(folder / "plots" / split / name / f"{number}.npy", stack)
                rgb = Image.fromarray(stack[:3].transpose(1, 2, 0).copy())
                rgb.save(folder / "plots-rgb" / split / name / f"{number}.png")
                cell = Image.fromarray(make_cell(label, draw_cells))
                cell.save(folder / "cells" / split / name / f"{number}.png")


def draw_figure(folder: Path) -> None:
    """Draw what the network gets of one image of each class: planes, and 8 or 16 bits."""
    panels: list[tuple[str, NDArray[Any], tuple[float, float] | None]] = []
    for name in CLASSES:
        stack = np.load(folder / "plots" / "test" / name / "1.npy")
        panels.append((f"{name}: photograph", stack[:3].transpose(1, 2, 0), None))
        panels += [(f"{name}: channel {4 + k}", stack[3 + k], (0, 255)) for k in (0, 1)]
        with Image.open(folder / "cells" / "test" / name / "1.png") as opened:
            cell = np.asarray(opened).astype(float)
        panels.append((f"{name}: as 8 bits", np.round(cell / 257), (0, 3)))
        panels.append((f"{name}: 16 bits", cell, (LEVEL - 2 * AMPLITUDE, LEVEL + 2 * AMPLITUDE)))
    with figure_style():
        plot = Figure(figsize=(8.4, 3.6))
        for axes, (title, pixels, limits) in zip(plot.subplots(2, 5).flat, panels, strict=True):
            low, high = limits or (None, None)
            axes.imshow(pixels, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            axes.set_title(title, fontsize=9)
            axes.set_axis_off()
        plot.savefig(IMAGES / "channels.png", dpi=120)


def main() -> None:
    """Train what is left, and write table and figure."""
    options = arguments(__doc__)
    folder = make_once(options.out / "channels", lambda each: make_sets(options.data, each))
    rows: list[list[str | float | None]] = []
    for number, (title, (data, fields)) in enumerate(ARMS.items()):
        runs = [
            train(
                "scratch",
                options.out / f"channels-{number}-{seed}",
                data=folder / data,
                epochs=EPOCHS[data],
                seed=seed,
                **{**FIELDS, **fields},
            )
            for seed in SEEDS
        ]
        errors = [run.result["test"]["top1_error"] for run in runs]
        what = "five channels" if data.startswith("plots") else "16 bits"
        rows.append([what, title, mean_and_spread(errors)])
    record("channels", COMMAND, ["set", "the network gets", "test error"], rows)
    draw_figure(folder)


if __name__ == "__main__":
    main()
