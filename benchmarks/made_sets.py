"""Synthetic data sets with known ground truth, from class folders (SOURCE/train, test or val).

    python benchmarks/made_sets.py unknown SOURCE OUT --without horse,ship
    python benchmarks/made_sets.py digits OUT
    python benchmarks/made_sets.py wrong-labels SOURCE OUT --part test --images 6000 --seed 0
    python benchmarks/made_sets.py pairs SOURCE OUT --images 4000 --seed 0
    python benchmarks/made_sets.py subset SOURCE OUT --images 4000 --seed 0
    python benchmarks/made_sets.py score OUT CORRECTIONS

digits: OUT/train, the embedded digits as PNG files of 16 px. unknown: OUT/known without two
classes, whose test images are in OUT/unknown. wrong-labels: OUT/set with a share of the labels of
--part of SOURCE replaced by other classes at random, OUT/planted.csv has the true ones; `score`
gives the precision and recall of a corrections.csv of `resnets folds`. pairs: the middle halves of
two images side by side, both classes as labels in OUT/labels.csv. subset: OUT/train with the same
number of images of each class, for one seed always the first ones in the same order, and OUT/test.
"""

import argparse
import csv
import os
import random
from pathlib import Path

from PIL import Image

from resnets.data.dataset.source import ArrayPart
from resnets.data.sources.builtin import open_digits

Images = list[tuple[Path, str]]  # file and class


def read(source: Path, part: str) -> Images:
    """Return the images of a part, in the order of their paths."""
    if part == "test" and not (source / part).exists():
        part = "val"
    files = sorted(path for path in (source / part).glob("*/*") if path.is_file())
    return [(path, path.parent.name) for path in files]


def draw(images: Images, count: int, rng: random.Random) -> Images:
    """Return `count` images with equally many of each class."""
    by_class: dict[str, Images] = {}
    for image in images:
        by_class.setdefault(image[1], []).append(image)
    for each in by_class.values():
        rng.shuffle(each)
    return [image for each in by_class.values() for image in each[: count // len(by_class)]]


def link(file: Path, target: Path) -> None:
    """Put `file` at `target` without a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(file, target)


def make_digits(args: argparse.Namespace) -> None:
    """Write the embedded digits as files."""
    digits = open_digits().train
    assert isinstance(digits, ArrayPart)
    for index, (pixels, label) in enumerate(zip(digits.images, digits.labels, strict=True)):
        file = args.source / "train" / str(label) / f"{index:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[:, :, 0]).save(file)


def make_unknown(args: argparse.Namespace) -> None:
    """Leave classes out."""
    without = args.without.split(",")
    for part in ("train", "test"):
        for file, name in read(args.source, part):
            if name not in without:
                link(file, args.out / "known" / part / name / file.name)
            elif part == "test":
                link(file, args.out / "unknown" / name / file.name)


def make_wrong_labels(args: argparse.Namespace) -> None:
    """Plant wrong labels among training images."""
    rng = random.Random(args.seed)
    images = draw(read(args.source, args.part), args.images, rng)
    classes = sorted({name for _, name in images})
    wrong = set(rng.sample(range(len(images)), round(args.share * len(images))))
    rows = []
    for index, (file, true) in enumerate(images):
        given = rng.choice([name for name in classes if name != true]) if index in wrong else true
        link(file, args.out / "set" / given / f"{true}-{file.name}")
        if index in wrong:
            rows.append((f"{given}/{true}-{file.name}", given, true))
    with (args.out / "planted.csv").open("w", newline="") as output:
        csv.writer(output).writerows([("path", "label", "true"), *rows])


def score(args: argparse.Namespace) -> None:
    """Compare the corrections of `resnets folds` with what was planted."""

    def column(path: Path, name: str) -> dict[str, str]:
        with path.open(newline="") as file:
            return {row["path"]: row[name] for row in csv.DictReader(file)}

    planted, found = column(args.source / "planted.csv", "true"), column(args.out, "correction")
    hits = [path for path in found if path in planted]
    named = sum(found[path] == planted[path] for path in hits)
    print(
        f"{len(found)} named, {len(hits)} of {len(planted)} planted: precision"
        f" {100 * len(hits) / max(len(found), 1):.1f}%, recall"
        f" {100 * len(hits) / len(planted):.1f}%, true class named of {named}"
    )


def make_pairs(args: argparse.Namespace) -> None:
    """Put the middle halves of two images of different classes side by side."""
    rng = random.Random(args.seed)
    rows = []
    for part, count in (("train", args.images), ("test", args.images // 4)):
        images = draw(read(args.source, part), 2 * count, rng)
        rng.shuffle(images)
        (args.out / part).mkdir(parents=True)
        for index in range(count):
            pair = rng.sample(images, 2)
            while pair[0][1] == pair[1][1]:
                pair = rng.sample(images, 2)
            halves = [Image.open(file).convert("RGB") for file, _ in pair]
            side = halves[0].width
            whole = Image.new("RGB", (side, halves[0].height))
            for place, half in enumerate(halves):
                box = (side // 4, 0, side // 4 + side // 2, half.height)
                whole.paste(half.crop(box), (place * side // 2, 0))
            name = f"{part}/{index:05d}.png"
            whole.save(args.out / name)
            rows.append((name, ";".join(sorted(label for _, label in pair)), part))
    with (args.out / "labels.csv").open("w", newline="") as output:
        csv.writer(output).writerows([("path", "label", "split"), *rows])


def make_subset(args: argparse.Namespace) -> None:
    """Take fewer training images."""
    for file, name in draw(read(args.source, "train"), args.images, random.Random(args.seed)):
        link(file, args.out / "train" / name / file.name)
    for file, name in read(args.source, "test"):
        link(file, args.out / "test" / name / file.name)


KINDS = {
    "digits": make_digits,
    "unknown": make_unknown,
    "wrong-labels": make_wrong_labels,
    "pairs": make_pairs,
    "subset": make_subset,
    "score": score,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--without", help="unknown: classes to leave out")
    parser.add_argument("--part", default="train", help="wrong-labels: of SOURCE")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    KINDS[args.kind](args)


if __name__ == "__main__":
    main()
