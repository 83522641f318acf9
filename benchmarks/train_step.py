"""Images a second of whole training steps, data included: ours against what people write by hand.

Contenders take turns (one interleaved run), each in its own process, since the allocator and the
thread pools belong to a process. Prints medians, spread and ratios.

    python benchmarks/train_step.py [--net cifar-resnet20|resnet18|...] [--rounds 7] [--steps 8]

straightforward   fp32, NCHW, eager, DataLoader with two workers, PIL pictures through torchvision
                  transforms; the net is torchvision's for ImageNet nets, and for CIFAR nets
                  torchvision's BasicBlock in the usual three-stage arrangement (option A)
tuned             the same script with channels_last and bfloat16 autocast
allocator         that with glibc's thresholds raised, too: what flags can reach
ours              the product's own stream, step and settings
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

CONTENDERS = ("straightforward", "tuned", "allocator", "ours")
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


def peer_net(name: str) -> nn.Module:
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


def pictures(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random pictures: the step's speed does not depend on what they show."""
    rng = np.random.default_rng(0)
    count = 10_000 if size <= 64 else 512
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return images, rng.integers(0, 10, count)


def peer_step(net_name: str, size: int, batch: int, tuned: bool) -> Callable[[], None]:
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms as T

    images, labels = pictures(size)
    transform = T.Compose(
        [
            T.RandomCrop(size, padding=4),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
        ]
    )

    class Pictures(Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return transform(Image.fromarray(images[index])), int(labels[index])

    loader = DataLoader(
        Pictures(), batch, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )

    def endless() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from loader

    stream = endless()
    net = peer_net(net_name)
    if tuned:
        net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        x, y = next(stream)
        if tuned:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def our_step(net_name: str, size: int, batch: int) -> Callable[[], None]:
    from resnets.config import AugmentSpec, DataSpec, OptimSpec, Recipe
    from resnets.data.dataset.labeled_images import TensorSplit
    from resnets.data.loading.loader import TrainStream
    from resnets.data.transforms.preprocess import fit_preprocess
    from resnets.models import build, catalog
    from resnets.models.norm import use_cpu_kernels
    from resnets.train.data_parallel import DataParallelModel
    from resnets.train.loss import classification_loss
    from resnets.train.state import new_state
    from resnets.train.step import TrainStep
    from resnets.utils import environment
    from resnets.utils.precision import pick_precision

    environment.tune_malloc()
    images, labels = pictures(size)
    split = TensorSplit(
        torch.from_numpy(images),
        torch.from_numpy(labels),
        tuple("abcdefghij"),
        "random pictures",
    )
    recipe = Recipe(
        model=catalog.spec(net_name, num_classes=10),
        data=DataSpec(augment=AugmentSpec(crop="pad", flip=True)),
        optim=OptimSpec(),
        batch_size=batch,
    )
    net = build(recipe.model).to(memory_format=torch.channels_last)
    use_cpu_kernels(net)
    preprocessor = fit_preprocess(split, recipe.data, 3)
    cpu = torch.device("cpu")
    stream = TrainStream(split, recipe.data, preprocessor, batch, 0, cpu).batches()
    state = new_state(net, recipe, 1000)
    precision = pick_precision("auto", cpu)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    loss_fn, forward = classification_loss(), DataParallelModel(net)
    step = TrainStep(state, forward, loss_fn, autocast, recipe)
    return lambda: step(next(stream))


def serve(contender: str, net: str, size: int, batch: int) -> None:
    """Child process: for each number read, run so many steps and answer the seconds."""
    torch.manual_seed(0)
    if contender == "ours":
        step = our_step(net, size, batch)
    else:
        step = peer_step(net, size, batch, tuned=contender != "straightforward")
    for line in sys.stdin:
        count, start = int(line), time.perf_counter()
        for _ in range(count):
            step()
        print(json.dumps(time.perf_counter() - start), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="cifar-resnet20")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--serve", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    small = args.net.startswith("cifar-")
    size, batch = (32, args.batch or 128) if small else (224, args.batch or 16)
    if args.serve:
        serve(args.serve, args.net, size, batch)
        return
    base = [sys.executable, __file__, "--net", args.net, "--batch", str(batch), "--serve"]
    children = {
        name: subprocess.Popen(
            [*base, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | (KEEP_PAGES if name == "allocator" else {}),
        )
        for name in CONTENDERS
    }
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for turn in range(args.rounds + 1):
        for name, child in children.items():
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(f"{args.steps}\n")
            answer = json.loads(child.stdout.readline())
            if turn:  # the first turn warms up
                seconds[name].append(answer)
    for child in children.values():
        child.communicate()
    print(
        f"{args.net}, batch {batch}, {size} px, torch {torch.__version__}, {os.cpu_count()} cores"
    )
    for name in CONTENDERS:
        rates = [args.steps * batch / each for each in seconds[name]]
        ratios = [a / b for a, b in zip(seconds["straightforward"], seconds[name], strict=True)]
        print(
            f"{name:<16}{statistics.median(rates):9,.0f} images/s  ratio "
            f"{statistics.median(ratios):5.2f}  (min {min(ratios):.2f}, max {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
