"""Training images per second and core, from JPEG files to normalized batches.

All contenders make the same batches: 224 px RandomResizedCrop (area 0.08 to 1), random flip,
normalized, float32 (those called uint8 stop before normalization, which a GPU would do). Each runs
in a process of its own with one thread for torch, OpenMP and OpenCV; they take turns, and ratios
are of contenders in the same round. Rates are of CPU time (user and system, all threads of the
process), which other jobs on the machine affect little. Files are read from the page cache.

    python benchmarks/input_pipeline.py [--images 400] [--rounds 7]
        [--folder DIR | --archive imagenette160.tar] [--record NAME]

Images: made here with the sizes of Imagenette (224 x 224, 12 KB) and of ImageNet (500 x 375,
110 KB). --folder DIR reads a folder of class folders instead. --archive reads the training images
of a tar (SET/train/CLASS/NAME), as they are and scaled to 500 x 375 px with grain.
The table has three columns for each set of images; docs/results/input-pipeline.json joins the
columns of three runs, and packed-input.json those of two sizes of a packed set.
OpenCV and simplejpeg: pip install 'resnets[bench]'. DALI, which is large and needs no GPU here:
pip install nvidia-dali-cuda120 nvidia-nvimgcodec-cu12.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from input_contenders import BATCH, CONTENDERS, REFERENCE, SIZE, pack
from jpeg_files import describe, extract_images, write_images
from recording import Cell, make_parser, report
from timing import (
    answer_requests,
    format_ratio,
    start_contenders,
    stop_contenders,
    take_turns,
)

from resnets.data.decode import jpeg

TITLES = {  # of contenders in the table
    REFERENCE: "torchvision v1 (ImageFolder, Pillow)",
    "torchvision.io + v2": "torchvision.io and v2",
    "simplejpeg + OpenCV": "simplejpeg, scaled decode; OpenCV resizes",
    "resnets, uint8": "resnets, uint8 output (as transferred to a GPU)",
    "resnets, packed": "resnets, packed set",
    "resnets, packed, uint8": "resnets, packed set, uint8 output",
    "libjpeg-turbo alone": "libjpeg-turbo alone, whole images",
}
WARM_UP = 12  # batches, after which no memory is touched for the first time


def make_contender(name: str, folder: Path, packed: Path) -> Callable[[str], tuple[float, float]]:
    """Return a function that makes COUNT batches, and returns CPU and wall seconds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batches = CONTENDERS[name](folder, packed)
    for _ in range(WARM_UP):
        next(batches)
    wait_until_idle()

    def measure(count: str) -> tuple[float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(int(count)):
            next(batches)
        wall = time.perf_counter() - wall
        wait_until_idle()  # images that were read ahead replace those that the batches used
        return time.process_time() - cpu, wall

    return measure


def wait_until_idle() -> None:
    """Wait until no thread of this process is running."""
    before = -1.0
    while (now := time.process_time()) - before > 0.002:
        before = now
        time.sleep(0.1)


def measure(folder: Path, packed: Path, args: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Return [CPU seconds, wall seconds] of each round, by contender."""
    command = [__file__, "--folder", str(folder), "--packed", str(packed), "--contender"]
    contenders = start_contenders(
        {name: [*command, name] for name in CONTENDERS},
        {name: {"OMP_NUM_THREADS": "1"} for name in CONTENDERS},
    )
    seconds = take_turns(contenders, args.batches, args.rounds)
    stop_contenders(contenders)
    return seconds


def rate_cells(name: str, seconds: dict[str, list[list[float]]], images: int) -> list[Cell]:
    """Return rate of CPU time, ratio and rate of wall time of a contender; `images` of a round."""
    if name not in seconds:
        return [None] * 3
    times = {each: [cpu for cpu, _ in rounds] for each, rounds in seconds.items()}
    rate = statistics.median(images / cpu for cpu in times[name])
    wall = statistics.median(images / wall for _, wall in seconds[name])
    return [round(rate), format_ratio(times[REFERENCE], times[name]), round(wall)]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=400, help="images to make or extract")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=4, help=f"of {BATCH}, in each round")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--folder", type=Path, help="folder of class folders")
    source.add_argument("--archive", type=Path, help="tar with the training images of a data set")
    parser.add_argument("--pack-size", type=int, default=400, help="shorter side of a packed set")
    parser.add_argument("--packed", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.images < BATCH:
        parser.error(f"--images {args.images}: must be at least {BATCH}, the batch size")
    if args.contender:
        answer_requests(lambda: make_contender(args.contender, args.folder, args.packed))
        return
    decoder = "libjpeg-turbo for parts of images" if jpeg.available() else "Pillow"
    setup = f"torch {torch.__version__}, one thread each, {SIZE} px, {args.rounds} rounds"
    rows: dict[str, list[Cell]] = {name: [TITLES.get(name, name)] for name in CONTENDERS}
    columns = [""]
    with tempfile.TemporaryDirectory() as temporary:
        folders = [args.folder] if args.folder else [Path(temporary, n) for n in ("small", "large")]
        for folder in folders:
            large = folder.name == "large"
            if args.archive is not None:
                extract_images(args.archive, folder, args.images, large=large)
            elif args.folder is None:
                write_images(folder, args.images, large=large)
            packed = Path(temporary, f"{folder.name}.pack")
            pack(folder, packed, args.pack_size)
            seconds = measure(folder, packed, args)
            columns += [f"{describe(folder)}: images/s per core", "ratio", "images/s of wall time"]
            for name, row in rows.items():
                row += rate_cells(name, seconds, args.batches * BATCH)
    measured = [row for row in rows.values() if any(row[1:])]
    report(args.record, columns, measured, f"{setup}; resnets decodes by {decoder}")


if __name__ == "__main__":
    main()
