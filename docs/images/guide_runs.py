"""What the scripts of the guides share: sets made from photographs, runs, results and figures.

Each script takes the folder of Imagenette (class folders in train/ and val/) and a folder for its
sets and runs. Finished runs are kept, so that a script that was stopped goes on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

import resnets
from resnets.train.write_results import RESULT
from resnets.utils.files.json import read_object
from resnets.utils.printable import echo

# The scripts import result_tables after this module.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

IMAGES = Path(__file__).resolve().parent
SEEDS = (0, 1, 2)
SIDE = 40  # px of the sets made here, of which networks see crops of 32
SMALL = {"model": "cifar-resnet8", "data.size": 32, "data.resize": 36, "ema_decay": 0}
NAMES = (
    "tench", "English springer", "cassette player", "chain saw", "church", "French horn",
    "garbage truck", "gas pump", "golf ball", "parachute",
)  # fmt: skip


def arguments(description: str | None) -> argparse.Namespace:
    """Parse the options that all scripts have."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("imagenette"), help="Imagenette")
    parser.add_argument("--out", type=Path, default=Path("runs/guides"), help="sets and runs")
    return parser.parse_args()


def photographs(folder: Path) -> dict[str, list[Path]]:
    """Return the images of each class of Imagenette, by the class's name."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return {name: sorted(path.iterdir()) for name, path in zip(NAMES, classes, strict=True)}


def make_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return a folder that `make` writes, unless it is there."""
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.partial")
        partial.mkdir(parents=True)
        make(partial)
        partial.rename(folder)
    return folder


def shrink(images: Iterable[Path], folder: Path, side: int = SIDE) -> None:
    """Write images as PNG files of `side` x `side` px into a new folder."""
    folder.mkdir(parents=True)
    for path in images:
        with Image.open(path) as image:
            small = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
        small.save(folder / f"{path.stem}.png")


def shrink_splits(photos: Path, folder: Path, trained: int, tested: int) -> None:
    """Write train/ and test/ of the first `trained` and `tested` photographs of each class."""
    for split, part, count in (("train", "train", trained), ("test", "val", tested)):
        for name, images in photographs(photos / part).items():
            shrink(images[:count], folder / split / name)


def train(recipe: Any, folder: Path, **options: Any) -> resnets.Run:
    """Train a run, or return the finished one."""
    if (folder / RESULT).is_file():
        return resnets.Run(folder)
    echo(str(folder))
    return resnets.train(recipe, out=folder, resume=True, quiet=True, **options)


def class_errors(run: resnets.Run) -> dict[str, float]:
    """Return the test error of each class in percent, from an evaluation that the run keeps."""
    stored = run.folder / "evaluation" / "evaluation.json"
    if not stored.is_file():
        resnets.evaluate(run, out=stored.parent, quiet=True)
    found = read_object(stored)
    return {row["class"]: 100 * (1 - row["recall"]) for row in found["per_class"]}


def mean_and_spread(values: Sequence[float]) -> str:
    """Format mean and standard deviation of percents: "61.8% ± 0.4"."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}%{spread}"
