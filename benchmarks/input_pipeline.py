"""Training images per second and core, from JPEG files to normalized batches.

All contenders make the same batches: 224 px RandomResizedCrop (area 0.08 to 1), random flip,
normalized, float32 (those called uint8 stop before normalization, which a GPU would do). Each runs
in a process of its own with one thread for torch, OpenMP and OpenCV; they take turns, and ratios
are of contenders in the same round. Rates are of CPU time (user and system, all threads of the
process), which other jobs on the machine affect little. Files are read from the page cache.

    python benchmarks/input_pipeline.py [--images 400] [--rounds 7]
        [--folder DIR | --archive imagenette160.tar]

Images: made here with the sizes of Imagenette (224 x 224, 12 KB) and of ImageNet (500 x 375,
110 KB). --folder DIR reads a folder of class folders instead. --archive reads the training images
of a tar (SET/train/CLASS/NAME), as they are and scaled to 500 x 375 px with grain.
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
from timing import (
    answer_requests,
    format_spread,
    ratios,
    start_contenders,
    stop_contenders,
    take_turns,
)

from resnets.data.decode import jpeg

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


def print_rates(title: str, seconds: dict[str, list[list[float]]], images: int) -> None:
    """Print a row for each contender; `images` of a round."""
    print(f"\n{title}\n{'':<23}{'images/s':>9}{'':>3}ratio of CPU time{'':>9}wall time")
    reference = [cpu for cpu, _ in seconds[REFERENCE]]
    for name, rounds in seconds.items():
        rate = statistics.median(images / cpu for cpu, _ in rounds)
        ratio = format_spread(ratios(reference, [cpu for cpu, _ in rounds]))
        wall = statistics.median(images / wall for _, wall in rounds)
        print(f"{name:<23}{rate:9,.0f}   {ratio:<26}{wall:9,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
    print(
        f"torch {torch.__version__}, {SIZE} px, {args.rounds} rounds; resnets decodes by {decoder}"
    )
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
            print_rates(f"{folder.name}: {describe(folder)}", seconds, args.batches * BATCH)


if __name__ == "__main__":
    main()
