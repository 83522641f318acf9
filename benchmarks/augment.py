"""CPU time per image of each augmentation, applied to whole batches as in training.

    python benchmarks/augment.py [--size 224] [--batch 128] [--rounds 5]
        [--record augmentation-cost]

One thread; CPU time, not wall time, so that other work on the machine has little effect. The first
value is of flip and normalization; each of the next is the cost of one more augmentation. The last
ones are policies of timm and torchvision on one PIL image, as in a worker of a DataLoader, with
the conversion to an array.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jpeg_files import random_image
from PIL import Image
from recording import Cell, make_parser, report
from timing import min_seconds

from resnets.config import AugmentSpec, DataSpec, Preprocess
from resnets.data import TensorSplit, TrainStream
from resnets.data.transforms.preprocess import Preprocessor
from resnets.utils.machine import environment

BASE = AugmentSpec(flip=True)
AUGMENTATIONS = {
    "`pca_color`": {"pca_color": 0.1},
    "`policy=rand`": {"policy": "rand"},
    "`policy=trivial`": {"policy": "trivial"},
    "`random_erase=0.25`": {"random_erase": 0.25},
    "`mixup`": {"mixup": 0.2},
    "`cutmix`": {"cutmix": 1.0},
}
TIMM, TORCHVISION = "timm's rand, PIL", "torchvision's trivial, PIL"


def main() -> None:
    parser = make_parser(__doc__)
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
    costs = {"flip, normalize": base}
    for name, fields in AUGMENTATIONS.items():
        costs[name] = microseconds(make_batch(fields)) - base
    small = size * 3 // 4
    costs[f"{size} to {small} px"] = microseconds(make_batch({}, small)) - base
    for name, policy in library_policies(size).items():
        costs[name] = microseconds(
            lambda policy=policy: [np.asarray(policy(each)) for each in images]
        )
    cells: dict[str, Cell] = {TIMM: None} | {name: round(cost) for name, cost in costs.items()}
    columns = [*(name for name in costs if name not in (TIMM, TORCHVISION)), TIMM, TORCHVISION]
    setup = f"microseconds of CPU time per image, batch size {count}, least of {args.rounds} rounds"
    report(args.record, columns, [[cells[name] for name in columns]], setup)


def library_policies(size: int) -> dict[str, Callable[[Image.Image], Image.Image]]:
    from torchvision.transforms import v2

    policies = {TORCHVISION: v2.TrivialAugmentWide()}
    try:
        from timm.data.auto_augment import rand_augment_transform
    except ImportError:
        return policies
    hparams = {"translate_const": int(0.45 * size), "img_mean": (124, 116, 104)}
    rand = rand_augment_transform("rand-m7-mstd0.5-inc1", hparams)
    return {TIMM: rand} | policies


if __name__ == "__main__":
    main()
