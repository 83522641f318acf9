"""CPU time a picture of each random change, on whole batches as training makes them.

    python benchmarks/augment.py [--size 224] [--batch 128] [--rounds 5]

One thread; CPU time, not wall time, so that other work on the machine counts little. The base is
flip and normalisation; each line below adds one change to it. The last lines are what others do to
one PIL picture in a loader's worker (timm's and torchvision's policies), conversion included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from resnets.config import AugmentSpec, DataSpec, Preprocess
from resnets.data import TensorSplit, TrainStream
from resnets.data.transforms.preprocess import Preprocessor
from resnets.utils import environment

BASE = AugmentSpec(flip=True)
CHANGES = {
    "pca_color": {"pca_color": 0.1},
    "policy rand": {"policy": "rand"},
    "policy trivial": {"policy": "trivial"},
    "erase 0.25": {"erase": 0.25},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
}


def spent(work: Callable[[], object], rounds: int) -> float:
    """Least CPU seconds of one call."""
    work()
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    environment.tune_malloc()
    side, count, rounds = given.size, given.batch, given.rounds
    noise = np.random.default_rng(0).integers(0, 256, (count, side // 16, side // 16, 3), np.uint8)
    pictures = [Image.fromarray(each).resize((side, side)) for each in noise]
    images = torch.from_numpy(np.stack([np.asarray(each) for each in pictures]))
    split = TensorSplit(images, torch.zeros(count, dtype=torch.int64), ("one",), "noise")
    preprocessor = Preprocessor(Preprocess(size=side, resize=side))

    def stream(change: dict, grow_from: int | None = None) -> Callable[[], object]:
        spec = DataSpec(size=side, augment=replace(BASE, **change), grow_from=grow_from)
        device = torch.device("cpu")
        batches = TrainStream(split, spec, preprocessor, count, 0, device).batches(0, 1 << 30)
        return lambda: next(batches)

    base = spent(stream({}), rounds) / count
    print(f"{'flip, normalize':28s} {base * 1e6:8.1f} us/picture")
    for name, change in CHANGES.items():
        more = spent(stream(change), rounds) / count - base
        print(f"+ {name:26s} {more * 1e6:8.1f}")
    small = side * 3 // 4
    more = spent(stream({}, small), rounds) / count - base
    print(f"+ {f'resized to {small} px':26s} {more * 1e6:8.1f}")
    for name, policy in others(side).items():
        seconds = spent(
            lambda policy=policy: [np.asarray(policy(each)) for each in pictures], rounds
        )
        print(f"{name:28s} {seconds / count * 1e6:8.1f}")


def others(side: int) -> dict[str, Callable[[Image.Image], Image.Image]]:
    policies = {"torchvision trivial, PIL": v2.TrivialAugmentWide()}
    try:
        from timm.data.auto_augment import rand_augment_transform
    except ImportError:
        return policies
    hparams = {"translate_const": int(0.45 * side), "img_mean": (124, 116, 104)}
    rand = rand_augment_transform("rand-m7-mstd0.5-inc1", hparams)
    return {"timm rand-m7-mstd0.5-inc1, PIL": rand} | policies


if __name__ == "__main__":
    main()
