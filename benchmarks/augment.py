"""CPU time per image of each augmentation, applied to whole batches as in training.

    python benchmarks/augment.py [--size 224] [--batch 128] [--rounds 5]

One thread; CPU time, not wall time, so that other work on the machine has little effect. The first
line is flip and normalization; each line below it is the cost of one more augmentation. The last
lines are policies of timm and torchvision on one PIL image, as in a worker of a DataLoader, with
the conversion to an array.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jpeg_files import random_image
from PIL import Image
from timing import min_seconds
from torchvision.transforms import v2

from resnets.config import AugmentSpec, DataSpec, Preprocess
from resnets.data import TensorSplit, TrainStream
from resnets.data.transforms.preprocess import Preprocessor
from resnets.utils.machine import environment

BASE = AugmentSpec(flip=True)
AUGMENTATIONS = {
    "pca_color": {"pca_color": 0.1},
    "policy rand": {"policy": "rand"},
    "policy trivial": {"policy": "trivial"},
    "random_erase 0.25": {"random_erase": 0.25},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    environment.tune_malloc()
    size, count = args.size, args.batch
    images = [random_image(size, size, seed) for seed in range(count)]
    pixels = torch.from_numpy(np.stack([np.asarray(each) for each in images]))
    split = TensorSplit(pixels, torch.zeros(count, dtype=torch.int64), ("one",), "noise")
    preprocessor = Preprocessor(Preprocess(size=size, resize=size))

    def microseconds(function: Callable[[], object]) -> float:
        return 1e6 / count * min_seconds(function, args.rounds, time.process_time)

    def make_batch(fields: dict, grow_from: int | None = None) -> Callable[[], object]:
        spec = DataSpec(size=size, augment=replace(BASE, **fields), grow_from=grow_from)
        device = torch.device("cpu")
        batches = TrainStream(split, spec, preprocessor, count, 0, device).batches(0, 1 << 30)
        return lambda: next(batches)

    base = microseconds(make_batch({}))
    print(f"{'flip, normalize':28s} {base:8.1f} us/image")
    for name, fields in AUGMENTATIONS.items():
        print(f"+ {name:26s} {microseconds(make_batch(fields)) - base:8.1f}")
    small = size * 3 // 4
    print(f"+ {f'resized to {small} px':26s} {microseconds(make_batch({}, small)) - base:8.1f}")
    for name, policy in library_policies(size).items():
        cost = microseconds(lambda policy=policy: [np.asarray(policy(each)) for each in images])
        print(f"{name:28s} {cost:8.1f}")


def library_policies(size: int) -> dict[str, Callable[[Image.Image], Image.Image]]:
    policies = {"torchvision trivial, PIL": v2.TrivialAugmentWide()}
    try:
        from timm.data.auto_augment import rand_augment_transform
    except ImportError:
        return policies
    hparams = {"translate_const": int(0.45 * size), "img_mean": (124, 116, 104)}
    rand = rand_augment_transform("rand-m7-mstd0.5-inc1", hparams)
    return {"timm rand-m7-mstd0.5-inc1, PIL": rand} | policies


if __name__ == "__main__":
    main()
