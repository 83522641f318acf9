"""Which altered copies `resnets data check` finds: writes docs/results/near-duplicates.json.

    python benchmarks/near_duplicates.py imagenette [--count 400]

Images of a set of class folders are the training images; the test images are copies of them,
altered in one way; each should be found as the near-duplicate of its original.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs"))

import result_tables
from made_sets import draw, read

from resnets.cli.main import main as resnets


def scaled(image: Image.Image, factor: float) -> Image.Image:
    """Return an image resized by `factor`."""
    return image.resize((round(image.width * factor), round(image.height * factor)))


def cropped(image: Image.Image) -> Image.Image:
    """Return the middle nine tenths of an image."""
    width, height = image.size
    return image.crop((width // 20, height // 20, width - width // 20, height - height // 20))


# title, how an image is altered, quality of the JPEG it is saved as
ALTERATIONS: list[tuple[str, Callable[[Image.Image], Image.Image], int]] = [
    ("saved as JPEG of quality 50", lambda image: image, 50),
    ("saved as JPEG of quality 20", lambda image: image, 20),
    ("enlarged threefold, quality 95", lambda image: scaled(image, 3), 95),
    ("resized to two thirds, quality 95", lambda image: scaled(image, 2 / 3), 95),
    ("resized to 0.4, quality 50", lambda image: scaled(image, 0.4), 50),
    ("cropped to nine tenths, quality 95", cropped, 95),
    ("mirrored, quality 95", ImageOps.mirror, 95),
]


def main() -> None:
    """Check one set for each alteration."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--count", type=int, default=400)
    options = parser.parse_args()
    images = draw(read(options.source, "train"), options.count, random.Random(0))
    rows: list[list[str | float | None]] = []
    for title, alter, quality in ALTERATIONS:
        with tempfile.TemporaryDirectory() as temporary:
            found, wrong = _check(Path(temporary), images, alter, quality)
        rows.append([title, f"{100 * found / len(images):.1f}%", wrong])
        print(*rows[-1], sep="\t", flush=True)
    command = f"python benchmarks/near_duplicates.py imagenette --count {options.count}"
    result_tables.record("near-duplicates", command, ["copies", "found", "false matches"], rows)


def _check(
    folder: Path, images: list[tuple[Path, str]], alter: Callable[[Image.Image], Image.Image],
    quality: int,
) -> tuple[int, int]:  # fmt: skip
    """Return how many copies are found, and how many matches are not of a copy and its original."""
    for path, name in images:
        original = folder / "set" / "train" / name / path.name
        copy = folder / "set" / "test" / name / f"{path.stem}.jpg"
        for each in (original, copy):
            each.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, original)
        with Image.open(path) as image:
            alter(image.convert("RGB")).save(copy, quality=quality)
    resnets(["data", "check", str(folder / "set"), "--out", str(folder / "report")])
    with (folder / "report" / "files.csv").open(encoding="utf-8", newline="") as file:
        pairs = {
            (Path(row["path"]).stem, Path(row["other_image"]).stem)
            for row in csv.DictReader(file)
            if row["finding"].startswith("near-") and row["other_image"]
        }
    found = {one for one, other in pairs if one == other}
    return len(found), sum(one != other for one, other in pairs)


if __name__ == "__main__":
    main()
