"""Measures and draws groups.png: validation with and without data.group, on bursts of frames.

    python docs/images/groups.py --data imagenette

Each of 240 photographs of Imagenette is cut into a burst of five frames that overlap, as a camera
on a tripod takes them. The test images are 300 other photographs, one frame each.
"""

from __future__ import annotations

import random
import statistics
from pathlib import Path

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
from PIL import Image, ImageEnhance
from result_tables import record

from resnets.report.figure_style import SERIES, figure_style

PHOTOGRAPHS, FRAMES, TESTED = 24, 5, 30  # of each class; frames of each photograph
GROUP = "regex:([^/]+)_frame"
ARMS = {"none": None, GROUP: GROUP}
COMMAND = (
    "python docs/images/groups.py: resnets train scratch --data DATA --model cifar-resnet8 --set"
    " data.size=32 --set data.resize=36 --set ema_decay=0 --set data.val_fraction=0.2 --set"
    " eval.every=40ep --epochs 40 --seed SEED --set data.split_seed=SEED, with and without --set"
    " 'data.group=regex:([^/]+)_frame'"
)


def make_set(photos: Path, folder: Path) -> None:
    """Write NAME_frameN.png: train/ of bursts, test/ of one frame of each of other photographs."""
    for split, part, count, frames in (
        ("train", "train", PHOTOGRAPHS, FRAMES),
        ("test", "val", TESTED, 1),
    ):
        for name, images in photographs(photos / part).items():
            (folder / split / name).mkdir(parents=True)
            for path in images[:count]:
                for number, frame in enumerate(burst(path, frames)):
                    frame.save(folder / split / name / f"{path.stem}_frame{number}.png")


def burst(path: Path, count: int) -> list[Image.Image]:
    """Cut overlapping frames of 7/8 of a photograph's sides, of slightly different exposure."""
    draw = random.Random(path.stem)
    with Image.open(path) as opened:
        photograph = opened.convert("RGB")
    width, height = (7 * side // 8 for side in photograph.size)
    frames = []
    for _ in range(count):
        left = draw.randrange(photograph.width - width + 1)
        top = draw.randrange(photograph.height - height + 1)
        frame = photograph.crop((left, top, left + width, top + height))
        frame = frame.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        frames.append(ImageEnhance.Brightness(frame).enhance(draw.uniform(0.9, 1.1)))
    return frames


def draw(found: dict[str, list[tuple[float, float]]]) -> None:
    """Draw validation and test error of each run, joined by a line."""
    with figure_style():
        plot = Figure(figsize=(6.4, 3.2))
        panels = plot.subplots(1, 2, sharey=True)
        titles = ("split by image", "split by burst (data.group)")
        for axes, title, pairs, color in zip(
            panels, titles, found.values(), (SERIES[0], SERIES[3]), strict=True
        ):
            for pair in pairs:
                axes.plot((0, 1), pair, "o-", color=color, lw=1, ms=4)
            axes.set(title=title, xlim=(-0.3, 1.3), ylim=(0, 100))
            axes.set_xticks((0, 1), ("validation says", "new photographs"))
            axes.grid(visible=False, axis="x")
        panels[0].set_ylabel("error (%)")
        plot.savefig(IMAGES / "groups.png", dpi=120)


def main() -> None:
    """Train what is left, and write table and figure."""
    options = arguments(__doc__)
    data = make_once(options.out / "bursts", lambda folder: make_set(options.data, folder))
    found: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    for seed in SEEDS:
        for number, (arm, group) in enumerate(ARMS.items()):
            fields = {
                "data.val_fraction": 0.2,
                "data.split_seed": seed,
                "data.group": group,
                "eval.every": "40ep",  # so that validation chooses nothing
            }
            run = train(
                "scratch",
                options.out / f"groups-{number}-{seed}",
                data=data,
                epochs=40,
                seed=seed,
                **{**SMALL, **fields},
            )
            pair = (run.result[split]["top1_error"] for split in ("val", "test"))
            found[arm].append(tuple(pair))
    columns = ["`data.group`", "validation error", "error on new photographs", "difference"]
    rows = []
    for arm, pairs in found.items():
        val, test = zip(*pairs, strict=True)
        gap = statistics.fmean(test) - statistics.fmean(val)
        title = f"`{arm}`" if arm == GROUP else arm
        rows.append([title, mean_and_spread(val), mean_and_spread(test), f"{gap:+.1f} points"])
    record("groups", COMMAND, columns, rows)
    draw(found)


if __name__ == "__main__":
    main()
