"""Images per second of whole training steps, data included: resnets and hand-written scripts.

Contenders run in turn, each in its own process. Prints medians, ratios to the first contender in
each round, and shares of the limit that this machine sets (roofline.py), measured in this run.

    python benchmarks/train_step.py [--model cifar-resnet20|resnet18|...] [--rounds 7] [--steps 8]
                                    [--clock wall|cpu] [--record NAME]

`--clock cpu` counts the time of all threads of a process, which other jobs disturb least, but not
that of the scripts' two DataLoader workers: the time for their data is then not counted. A run
records the columns of one model; docs/results/train-step.json and train-step-avx512.json join those
of several.

straightforward   float32, NCHW, eager, DataLoader with two workers, PIL images through torchvision
                  transforms; the model is torchvision's, and for CIFAR models torchvision's
                  BasicBlock in the usual three-stage arrangement (option A)
tuned             the same script with channels_last and bfloat16 autocast
allocator         tuned, with the thresholds of glibc's allocator raised
compiled          allocator, with torch.compile(model)
max-autotune      allocator, with torch.compile(model, mode="max-autotune")
resnets           the training step of this package with its data pipeline and its defaults
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from recording import Cell, make_parser, report
from roofline import layer_loads, least_seconds, measure_peaks
from timing import (
    answer_requests,
    format_ratio,
    start_contenders,
    stop_contenders,
    take_turns,
)
from torch import nn
from torch.nn import functional as F
from training import random_images

from resnets import create_model

MODES = {"compiled": "default", "max-autotune": "max-autotune"}  # of torch.compile
CONTENDERS = ("straightforward", "tuned", "allocator", *MODES, "resnets")
TITLES = {  # of contenders in the table
    "allocator": "tuned, allocator too",
    "compiled": "torch.compile",
    "max-autotune": "torch.compile, max-autotune",
}
KEEP_PAGES = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
    "MALLOC_TOP_PAD_": str(1 << 26),
}


class OptionA(nn.Module):
    """Subsample and zero-pad, as CIFAR scripts write it."""

    def __init__(self, pad: int, stride: int) -> None:
        super().__init__()
        self.pad, self.stride = pad, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.pad))


def torchvision_model(name: str) -> nn.Module:
    import torchvision
    from torchvision.models.resnet import BasicBlock

    if not name.startswith("cifar-resnet"):
        return torchvision.models.get_model(name, num_classes=10)
    blocks = (int(name.removeprefix("cifar-resnet")) - 2) // 6
    layers: list[nn.Module] = [
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
    ]
    width = 16
    for stage, planes in enumerate((16, 32, 64)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            shortcut = OptionA(planes - width, stride) if planes != width else None
            layers.append(BasicBlock(width, planes, stride, shortcut))
            width = planes
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def script_step(
    name: str, size: int, batch: int, tuned: bool, mode: str | None = None
) -> Callable[[], None]:
    """Return a step of a script; `mode` is that of torch.compile, None without."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms as T

    split = random_images(image_count(size), size)
    images, labels = split.images.numpy(), split.labels.tolist()
    transform = T.Compose(
        [
            T.RandomCrop(size, padding=4),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
        ]
    )

    class Images(Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return transform(Image.fromarray(images[index])), labels[index]

    loader = DataLoader(
        Images(), batch, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )

    def endless() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from loader

    batches = endless()
    model = torchvision_model(name)
    if tuned:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    forward = model if mode is None else torch.compile(model, mode=mode)

    def step() -> None:
        x, y = next(batches)
        if tuned:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            loss = F.cross_entropy(forward(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def package_step(name: str, size: int, batch: int) -> Callable[[], None]:
    from training import Training

    from resnets.config import AugmentSpec, DataSpec, Recipe
    from resnets.models import catalog

    recipe = Recipe(
        model=catalog.spec(name, num_classes=10),
        data=DataSpec(augment=AugmentSpec(crop="pad", flip=True)),
        batch_size=batch,
    )
    return Training(torch.device("cpu"), recipe, random_images(image_count(size), size)).step


def image_count(size: int) -> int:
    return 10_000 if size <= 64 else 512


def make_contender(
    name: str, model: str, size: int, batch: int, clock: str
) -> Callable[[str], float]:
    """Return a function that runs "COUNT" steps and returns the seconds."""
    torch.manual_seed(0)
    if name == "resnets":
        step = package_step(model, size, batch)
    else:
        step = script_step(model, size, batch, name != "straightforward", MODES.get(name))
    now = time.process_time if clock == "cpu" else time.perf_counter

    def measure(count: str) -> float:
        start = now()
        for _ in range(int(count)):
            step()
        return now() - start

    return measure


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="cifar-resnet20")
    parser.add_argument("--batch", type=int, help="default: 128 for CIFAR models, else 16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8, help="in each round")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    small = args.model.startswith("cifar-")
    size, batch = (32, args.batch or 128) if small else (224, args.batch or 16)
    if args.contender:
        answer_requests(lambda: make_contender(args.contender, args.model, size, batch, args.clock))
        return
    command = [__file__, "--model", args.model, "--batch", str(batch), "--clock", args.clock]
    contenders = start_contenders(
        {name: [*command, "--contender", name] for name in CONTENDERS},
        dict.fromkeys(("allocator", *MODES), KEEP_PAGES),
    )
    seconds = take_turns(contenders, args.steps, args.rounds)
    stop_contenders(contenders)
    now = time.process_time if args.clock == "cpu" else time.perf_counter
    peaks = measure_peaks(args.rounds, now)
    loads = layer_loads(create_model(args.model, num_classes=10), batch, size)
    arithmetic = batch * peaks.operations / sum(load.operations for load in loads)
    limit = batch / least_seconds(loads, peaks)
    rows: list[list[Cell]] = []
    for name, each in seconds.items():
        rate = args.steps * batch / statistics.median(each)
        ours = format_ratio(each, seconds["resnets"]) if name != "resnets" else None
        ratio = format_ratio(seconds[CONTENDERS[0]], each)
        rows.append([TITLES.get(name, name), f"{rate:,.1f}, {rate / limit:.0%}", ours, ratio])
    rows.append(["limit of arithmetic and bytes", f"{limit:,.1f}", None, None])
    rows.append(["limit of arithmetic alone", f"{arithmetic:,.1f}", None, None])
    second = "second of CPU time" if args.clock == "cpu" else "second"
    columns = [
        f"batch size {batch}",
        f"{args.model}: images per {second}, of the limit",
        "resnets to it (min to max)",
        f"ratio to {CONTENDERS[0]}",
    ]
    setup = f"torch {torch.__version__}, {torch.get_num_threads()} threads each; {peaks}"
    report(args.record, columns, rows, setup)


if __name__ == "__main__":
    main()
