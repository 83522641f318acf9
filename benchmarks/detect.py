"""Images per second of detection, training and inference: resnets and torchvision's Faster R-CNN.

Contenders run in turn, each in its own process. All get the same images, boxes and number of
proposals; the detector of resnets has torchvision's anchors, pyramid and heads on its own ResNet.
Prints medians, and ratios to the first contender in each round.

    python benchmarks/detect.py [--size 320] [--batch 2] [--rounds 5] [--model resnet50]
        [--clock cpu] [--record detection-speed]

--clock cpu measures processor time instead of wall time, for a machine with other jobs.

torchvision       fasterrcnn_resnet50_fpn, float32, NCHW, as its reference script trains it
torchvision-bf16  the same with channels_last and bfloat16 autocast
resnets-float32   the training step and inference of this package in float32
resnets           the same with its defaults: bfloat16 if the processor supports it
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from recording import Cell, make_parser, report
from timing import (
    answer_requests,
    format_ratio,
    start_contenders,
    stop_contenders,
    take_turns,
)
from torch import Tensor, nn

CONTENDERS = {
    "torchvision": "torchvision, float32",
    "torchvision-bf16": "torchvision, bfloat16 and channels_last",
    "resnets-float32": "resnets, float32",
    "resnets": "resnets",
}
CLASSES, OBJECTS = 20, 8


def random_batch(size: int, batch: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return random images (C, H, W) with random boxes; speed depends only on their number."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, size, size * 4 // 3, generator=generator) for _ in range(batch)]
    targets = []
    for _ in images:
        corner = torch.rand(OBJECTS, 2, generator=generator) * size / 2
        extent = size * (0.1 + 0.4 * torch.rand(OBJECTS, 2, generator=generator))
        labels = torch.randint(1, CLASSES + 1, (OBJECTS,), generator=generator)
        targets.append({"boxes": torch.cat((corner, corner + extent), 1), "labels": labels})
    return images, targets


def torchvision_steps(
    model_name: str, size: int, batch: int, bf16: bool
) -> dict[str, Callable[[], Any]]:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    backbone = resnet_fpn_backbone(
        backbone_name=model_name, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    model = FasterRCNN(backbone, CLASSES + 1, min_size=size, max_size=2 * size)
    if bf16:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9, weight_decay=1e-4)
    images, targets = random_batch(size, batch)

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


def package_steps(
    model_name: str, size: int, batch: int, bf16: bool
) -> dict[str, Callable[[], Any]]:
    from resnets.config import DetectSpec, OptimSpec, Recipe
    from resnets.data.batch import Batch
    from resnets.detect.models.build import assemble
    from resnets.detect.models.inference import DetectionInference
    from resnets.models import build, catalog
    from resnets.train.data_parallel import DataParallelModel
    from resnets.train.state import new_state
    from resnets.train.step import TrainStep
    from resnets.train.tasks.detection import model_losses
    from resnets.utils.machine import environment
    from resnets.utils.machine.distributed import ProcessGroup
    from resnets.utils.machine.precision import pick_precision

    environment.tune_malloc()
    bf16 = bf16 and pick_precision("auto", torch.device("cpu")) == "bfloat16"
    recipe = Recipe(
        task="detect",
        model=catalog.spec(model_name),
        detect=DetectSpec(),
        optim=OptimSpec(lr=1e-4),
        batch_size=batch,
    )
    model = assemble(build(recipe.model), recipe, CLASSES).to(memory_format=torch.channels_last)
    state = new_state(model, recipe, 1000)
    images, targets = random_batch(size, batch)
    normalized = [(image - 0.45) / 0.22 for image in images]
    forward = DataParallelModel(model, ProcessGroup())
    inputs = Batch(normalized, targets, torch.arange(batch))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
    inference = DetectionInference([model])

    step = TrainStep(state, forward, model_losses, autocast, recipe)

    def infer() -> None:
        model.eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            inference(normalized)

    return {"training": lambda: step(inputs), "inference": infer}


def make_contender(name: str, args: argparse.Namespace) -> Callable[[str], float]:
    """Return a function that runs "WHAT COUNT" (training or inference) and returns the seconds."""
    torch.manual_seed(0)
    make = torchvision_steps if name.startswith("torchvision") else package_steps
    steps = make(args.model, args.size, args.batch, name in ("torchvision-bf16", "resnets"))
    clock = time.process_time if args.clock == "cpu" else time.perf_counter

    def measure(request: str) -> float:
        what, count = request.split()
        start = clock()
        for _ in range(int(count)):
            steps[what]()
        return clock() - start

    return measure


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="resnet50", help="backbone")
    parser.add_argument("--size", type=int, default=320, help="shorter side of the images, px")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="in each round")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        answer_requests(lambda: make_contender(args.contender, args))
        return
    command = [__file__, "--model", args.model, "--size", str(args.size)]
    command += ["--batch", str(args.batch), "--clock", args.clock, "--contender"]
    contenders = start_contenders({name: [*command, name] for name in CONTENDERS})
    rows: dict[str, list[Cell]] = {name: [CONTENDERS[name]] for name in contenders}
    columns = [""]
    for what in ("training", "inference"):
        columns += [f"{what}, images/s", "ratio (min to max)"]
        seconds = take_turns(contenders, f"{what} {args.steps}", args.rounds)
        for name, each in seconds.items():
            rate = args.steps * args.batch / statistics.median(each)
            rows[name] += [round(rate, 2), format_ratio(next(iter(seconds.values())), each)]
    stop_contenders(contenders)
    setup = (
        f"{args.model}-fpn, batch size {args.batch}, {args.size} x {args.size * 4 // 3} px, torch"
        f" {torch.__version__}, {torch.get_num_threads()} threads each, {args.clock} time"
    )
    report(args.record, columns, rows.values(), setup)


if __name__ == "__main__":
    main()
