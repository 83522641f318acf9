"""Images a second of detection, training and inference: ours against torchvision's Faster R-CNN.

Contenders take turns (one interleaved run), each in its own process. All see the same pictures,
boxes and number of proposals; ours has torchvision's anchors, pyramid and heads on our ResNet-50.
Prints medians, spread and ratios to the first.

    python benchmarks/detect.py [--size 320] [--batch 2] [--rounds 5] [--net resnet50] [--clock cpu]

--clock cpu counts processor time in place of seconds, for a machine that others use too.

torchvision       fasterrcnn_resnet50_fpn, float32, NCHW, as its reference script trains it
torchvision-bf16  the same with channels_last and bfloat16 autocast
ours-float32      the product's step in float32
ours              the product's step with its defaults: bfloat16 where the machine has it
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

CONTENDERS = ("torchvision", "torchvision-bf16", "ours-float32", "ours")
CLASSES, OBJECTS = 20, 8


def pictures(size: int, batch: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Random pictures with random boxes: speed depends on how many there are, not on what."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, size, size * 4 // 3, generator=generator) for _ in range(batch)]
    targets = []
    for _ in images:
        corner = torch.rand(OBJECTS, 2, generator=generator) * size / 2
        extent = size * (0.1 + 0.4 * torch.rand(OBJECTS, 2, generator=generator))
        labels = torch.randint(1, CLASSES + 1, (OBJECTS,), generator=generator)
        targets.append({"boxes": torch.cat((corner, corner + extent), 1), "labels": labels})
    return images, targets


def peer(net: str, size: int, batch: int, bf16: bool) -> dict[str, Callable[[], Any]]:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    backbone = resnet_fpn_backbone(
        backbone_name=net, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    model = FasterRCNN(backbone, CLASSES + 1, min_size=size, max_size=2 * size)
    if bf16:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9, weight_decay=1e-4)
    images, targets = pictures(size, batch)

    def train() -> None:
        model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def infer() -> None:
        model.eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            model(images)

    return {"training": train, "inference": infer}


def ours(net: str, size: int, batch: int, bf16: bool) -> dict[str, Callable[[], Any]]:
    from resnets.config import DetectSpec, OptimSpec, Recipe
    from resnets.data.batch import Batch
    from resnets.detect.models.build import assemble
    from resnets.detect.models.paper_inference import DetectionInference
    from resnets.models import build, catalog
    from resnets.train.data_parallel import DataParallelModel
    from resnets.train.state import new_state
    from resnets.train.step import TrainStep
    from resnets.train.tasks.detection import model_losses
    from resnets.utils import environment
    from resnets.utils.distributed import ProcessGroup
    from resnets.utils.precision import pick_precision

    environment.tune_malloc()
    bf16 = bf16 and pick_precision("auto", torch.device("cpu")) == "bfloat16"
    recipe = Recipe(
        task="detect",
        model=catalog.spec(net),
        detect=DetectSpec(),
        optim=OptimSpec(lr=1e-4),
        batch_size=batch,
    )
    model = assemble(build(recipe.model), recipe, CLASSES).to(memory_format=torch.channels_last)
    state = new_state(model, recipe, 1000)
    images, targets = pictures(size, batch)
    normalized = [(image - 0.45) / 0.22 for image in images]
    forward = DataParallelModel(model, ProcessGroup())
    given = Batch(normalized, targets, torch.arange(batch))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
    finder = DetectionInference([model])

    step = TrainStep(state, forward, model_losses, autocast, recipe)

    def train() -> None:
        step(given)

    def infer() -> None:
        model.eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            finder(normalized)

    return {"training": train, "inference": infer}


def serve(contender: str, net: str, size: int, batch: int, clock: str) -> None:
    """Child process: for each line "WHAT COUNT" read, do it and answer the seconds."""
    torch.manual_seed(0)
    make = peer if contender.startswith("torchvision") else ours
    bf16 = contender in ("torchvision-bf16", "ours")
    steps = make(net, size, batch, bf16)
    now = time.process_time if clock == "cpu" else time.perf_counter
    for line in sys.stdin:
        what, count = line.split()
        start = now()
        for _ in range(int(count)):
            steps[what]()
        print(json.dumps(now() - start), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="resnet50")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--serve", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.net, args.size, args.batch, args.clock)
        return
    base = [sys.executable, __file__, "--net", args.net, "--size", str(args.size)]
    base += ["--batch", str(args.batch), "--clock", args.clock, "--serve"]
    children = {
        name: subprocess.Popen(
            [*base, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        for name in CONTENDERS
    }
    print(
        f"{args.net}-fpn, batch {args.batch}, {args.size}x{args.size * 4 // 3} px, torch "
        f"{torch.__version__}, {os.cpu_count()} cores, {torch.get_num_threads()} threads each, "
        f"{args.clock} time"
    )
    for what in ("training", "inference"):
        seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for turn in range(args.rounds + 1):
            for name, child in children.items():
                assert child.stdin is not None
                assert child.stdout is not None
                child.stdin.write(f"{what} {args.steps}\n")
                answer = json.loads(child.stdout.readline())
                if turn:  # the first turn warms up
                    seconds[name].append(answer)
        for name in CONTENDERS:
            rates = [args.steps * args.batch / each for each in seconds[name]]
            ratios = [a / b for a, b in zip(seconds[CONTENDERS[0]], seconds[name], strict=True)]
            print(
                f"{what:<10}{name:<18}{statistics.median(rates):7.2f} images/s  ratio "
                f"{statistics.median(ratios):5.2f}  (min {min(ratios):.2f}, max {max(ratios):.2f})",
                flush=True,
            )
    for child in children.values():
        child.communicate()


if __name__ == "__main__":
    main()
