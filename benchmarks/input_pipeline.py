"""Training pictures a second and core, from stored JPEGs to normalised batches, ours against peers.

All make the same thing: batches of 224 px RandomResizedCrop (area 0.08 to 1), flipped at random,
normalised, float32 (those called uint8 stop before normalising, as where a GPU does it). Each
contender lives in its own process with one thread for torch, OpenMP and OpenCV; they take turns, so
a ratio compares neighbours in time. Rates are of CPU time (all threads of the process, user and
system): other jobs on the machine slow the clock on the wall, and hardly this. Files are read from
the page cache.

    python benchmarks/input_pipeline.py [--pictures 400] [--rounds 7] [--folder DIR]

Pictures: Imagenette as shared for development (224 x 224, 11 KB), and the same made ImageNet-like:
scaled to 500 x 375 with grain (deviation 9) in place of the detail that is not there, quality 95,
which gives ImageNet's median size (105 KB). --folder takes a folder of class folders instead.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sized
from pathlib import Path

import numpy as np
import torch
from input_peers import (
    BATCH,
    MEAN,
    SIZE,
    STD,
    Batches,
    decoding_alone,
    opencv,
    simplejpeg,
    torchvision_v1,
    torchvision_v2,
)
from PIL import Image

from resnets.config import AugmentSpec, DataSpec, Preprocess
from resnets.data import Preprocessor, TrainStream, open_data, order
from resnets.data.dataset.quarantine import Quarantine
from resnets.data.dataset.reader import Plan, read_ahead
from resnets.data.decode import jpeg
from resnets.data.loading.pack_write import pack as write_pack
from resnets.data.sources.open import find_source
from resnets.data.transforms.augment import train_views
from resnets.utils import environment

STORED = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenette160.tar"
REFERENCE = "torchvision v1"


def write_pictures(folder: Path, count: int, enlarge: bool) -> None:
    """`count` training pictures of Imagenette as a folder of class folders."""
    rng = np.random.default_rng(0)
    with tarfile.open(STORED) as tar:
        members = [each for each in tar if each.isreg() and "/train/" in each.name]
        for number in np.linspace(0, len(members) - 1, count).astype(int):
            member = members[number]
            data = tar.extractfile(member).read()
            if enlarge:
                small = Image.open(io.BytesIO(data)).convert("RGB")
                large = small.resize((500, 500), Image.Resampling.BICUBIC).crop((0, 62, 500, 437))
                grain = rng.normal(0, 9, (375, 500, 1)).round()
                pixels = (np.asarray(large) + grain).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(encoded := io.BytesIO(), "JPEG", quality=95)
                data = encoded.getvalue()
            path = folder / Path(member.name).parent.name / Path(member.name).name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(data)


def ours(source: Path, uint8: bool = False) -> Batches:
    """The product's own stream with one decode thread."""
    environment.tune_malloc()
    spec = DataSpec(
        source=str(source),
        size=SIZE,
        workers=1,
        val_fraction=0.0,
        test_fraction=0.0,
        normalize="imagenet",
        in_memory="never",
        augment=AugmentSpec(crop="random-resized", scale=(0.08, 1.0), flip=True),
    )
    preprocessor = Preprocessor(Preprocess(size=SIZE, resize=SIZE, mean=MEAN, std=STD))
    split, cpu = open_data(spec).train, torch.device("cpu")
    if uint8:  # what crosses to a GPU; flipped there
        return (pixels for _, pixels in read_ahead(split, plans(split, spec, preprocessor), 1))
    stream = TrainStream(split, spec, preprocessor, BATCH, 0, cpu)
    return (batch.images for batch in stream.batches())


def plans(split: Sized, spec: DataSpec, preprocessor: Preprocessor) -> Iterator[Plan]:
    for start in itertools.count(0, BATCH):
        epochs, rows = order.positions(len(split), 0, start, BATCH)
        views = train_views(spec.augment, preprocessor, 0, epochs, rows)
        yield Plan(rows, epochs, views)


def pack(folder: Path, out: Path, size: int) -> None:
    spec = DataSpec(source=str(folder))
    write_pack(find_source(spec), out, size, quarantine=Quarantine.of(spec))


CONTENDERS: dict[str, Callable[[Path, Path], Batches]] = {
    REFERENCE: lambda folder, _: torchvision_v1(folder),
    "torchvision.io + v2": lambda folder, _: torchvision_v2(folder),
    "OpenCV": lambda folder, _: opencv(folder),
    "simplejpeg + OpenCV": lambda folder, _: simplejpeg(folder),
    "ours": lambda folder, _: ours(folder),
    "ours, uint8": lambda folder, _: ours(folder, uint8=True),
    "ours, packed": lambda _, packed: ours(packed),
    "ours, packed, uint8": lambda _, packed: ours(packed, uint8=True),
    "libjpeg-turbo alone": lambda folder, _: decoding_alone(folder),
}
NEEDS = {
    "libjpeg-turbo alone": ["simplejpeg"],
    "OpenCV": ["cv2"],
    "simplejpeg + OpenCV": ["cv2", "simplejpeg"],
}


def contenders() -> list[str]:
    """Those whose packages are installed."""
    here = {name: all(map(importlib.util.find_spec, NEEDS.get(name, []))) for name in CONTENDERS}
    for name in (name for name, installed in here.items() if not installed):
        print(f"left out: {name} (pip install opencv-python-headless simplejpeg)")
    return [name for name, installed in here.items() if installed]


def serve(contender: str, folder: Path, packed: Path) -> None:
    """Child process: for each number read, make so many batches; answer CPU and wall seconds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batches = CONTENDERS[contender](folder, packed)
    next(batches)
    settle()
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(int(line)):
            next(batches)
        wall = time.perf_counter() - wall
        settle()  # what is read ahead belongs to the batches that made room for it
        print(json.dumps((time.process_time() - cpu, wall)), flush=True)


def settle() -> None:
    """Wait until no thread of this process works any more."""
    before = -1.0
    while (now := time.process_time()) - before > 0.002:
        before = now
        time.sleep(0.1)


def measure(folder: Path, packed: Path, rounds: int, batches: int) -> dict[str, list[list[float]]]:
    """For each contender [CPU seconds, wall seconds] of each round."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    base = [sys.executable, __file__, "--folder", str(folder), "--packed", str(packed), "--serve"]
    children = {
        name: subprocess.Popen(
            [*base, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for name in contenders()
    }
    seconds: dict[str, list[list[float]]] = {name: [] for name in children}
    for turn in range(rounds + 1):
        for name, child in children.items():
            child.stdin.write(f"{batches}\n")
            child.stdin.flush()
            answer = child.stdout.readline()
            if not answer:
                sys.exit(f"{name} failed")
            if turn:  # the first turn warms up
                seconds[name].append(json.loads(answer))
    for child in children.values():
        child.communicate()
    return seconds


def show(title: str, seconds: dict[str, list[list[float]]], count: int) -> None:
    print(f"\n{title}\n{'':<22}{'images/s':>9}{'':>3}ratio of CPU time{'':>9}on the wall")
    reference = [cpu for cpu, _ in seconds[REFERENCE]]
    for name, rounds in seconds.items():
        rate = statistics.median(count / cpu for cpu, _ in rounds)
        ratios = [a / cpu for a, (cpu, _) in zip(reference, rounds, strict=True)]
        wall = statistics.median(count / wall for _, wall in rounds)
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        print(f"{name:<22}{rate:9,.0f}{middle:7.2f} ({low:.2f} to {high:.2f}){wall:14,.0f}")


def describe(folder: Path) -> str:
    paths = [path for path in folder.rglob("*") if path.is_file()][:1000]
    sizes = [Image.open(path).size for path in paths]
    width, height = (statistics.median(side) for side in zip(*sizes, strict=True))
    weight = statistics.median(path.stat().st_size for path in paths) / 1000
    return f"median {width:.0f} x {height:.0f}, {weight:.0f} KB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=4, help=f"of {BATCH}, in a round")
    parser.add_argument("--folder", type=Path, help="folder of class folders, in place of both")
    parser.add_argument("--pack-size", type=int, default=400, help="shorter side of a packed set")
    parser.add_argument("--packed", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.folder, args.packed)
        return
    decoder = "libjpeg-turbo, in part" if jpeg.available() else "Pillow"
    print(f"torch {torch.__version__}, {SIZE} px, {args.rounds} rounds in turn; ours by {decoder}")
    with tempfile.TemporaryDirectory() as place:
        folders = {"given": args.folder} if args.folder else {"Imagenette": None, "enlarged": None}
        for name, folder in folders.items():
            if folder is None:
                folder = Path(place, name)
                write_pictures(folder, args.pictures, enlarge=name == "enlarged")
            packed = Path(place, f"{name}.pack")
            pack(folder, packed, args.pack_size)
            seconds = measure(folder, packed, args.rounds, args.batches)
            show(f"{name}: {describe(folder)}", seconds, args.batches * BATCH)


if __name__ == "__main__":
    main()
