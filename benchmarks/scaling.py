"""One process and two on the same cores: images per second, efficiency, bytes sent.

    python benchmarks/scaling.py [--model cifar-resnet20] [--rounds 5] [--steps 30]
        [--record scaling]

Two cores show how much a second process gains from the second core, and the cost of exchanging
gradients over loopback; not the cost of a network between machines, nor GPUs. All setups train the
same model on the same global batch (128 random images in memory), as `resnets train` does. Rounds
are interleaved; each measurement starts new processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from recording import Cell, make_parser, report
from timing import format_ratio, ratios

# Name, processes, threads of each, whether gradients are sent as bfloat16.
SETUPS = (
    ("1 process, 1 thread", 1, 1, False),
    ("1 process, 2 threads", 1, 2, False),
    ("2 processes, 1 thread each", 2, 1, False),
    ("the same, gradients as bfloat16", 2, 1, True),
)
BATCH = 128
WARM_UP = 3  # steps


def loopback_bytes() -> int:
    """Return the bytes that this machine has sent to itself so far."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split()[9]) for line in lines if line.strip().startswith("lo:"))


def train(model: str, steps: int, compress: bool) -> None:
    """Train in one process of a setup; the first process prints the rate and bytes per step."""
    import torch
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
    from torch.nn.parallel import DistributedDataParallel
    from training import Training, random_images

    from resnets.config import AugmentSpec, DataSpec, Recipe
    from resnets.models import catalog
    from resnets.utils.machine.distributed import init_distributed

    spec = catalog.spec(model, num_classes=10)
    recipe = Recipe(
        model=spec, data=DataSpec(augment=AugmentSpec(crop="pad", flip=True)), batch_size=BATCH
    )
    with init_distributed("cpu") as group:
        split = random_images(1024, spec.input_size)
        training = Training(torch.device("cpu"), recipe, split, group=group)
        training.forward.prepare()
        if compress:
            assert isinstance(training.forward.module, DistributedDataParallel)
            training.forward.module.register_comm_hook(None, bf16_compress_hook)
        for _ in range(WARM_UP):
            training.step()
        group.any(flag=False)
        sent, start = loopback_bytes(), time.perf_counter()
        for _ in range(steps):
            training.step()
        group.any(flag=False)
        seconds, sent = time.perf_counter() - start, loopback_bytes() - sent
        if group.is_main:
            parameters = sum(each.numel() for each in training.model.parameters())
            result = {"rate": BATCH * steps / seconds, "sent": sent / steps}
            print(json.dumps(result | {"parameters": parameters}))


def measure(
    model: str, steps: int, processes: int, threads: int, compress: bool
) -> dict[str, float]:
    """Run a setup; returns what its first process prints."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    arguments = [__file__, "--train", "--model", model, "--steps", str(steps)]
    done = subprocess.run(
        [sys.executable, *launch, *arguments, *(["--compress"] if compress else [])],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="cifar-resnet20")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--compress", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(args.model, args.steps, args.compress)
        return
    results: dict[str, list[dict[str, float]]] = {name: [] for name, *_ in SETUPS}
    for number in range(args.rounds):
        for name, *setup in SETUPS:
            results[name].append(measure(args.model, args.steps, *setup))
            rate = results[name][-1]["rate"]
            print(f"round {number + 1}: {name}: {rate:,.0f} images/s", file=sys.stderr)
    one = [each["rate"] for each in results[SETUPS[0][0]]]
    parameters = results[SETUPS[0][0]][0]["parameters"]
    rows: list[list[Cell]] = []
    for name, processes, threads, _ in SETUPS:
        rates = [each["rate"] for each in results[name]]
        efficiency = statistics.median(ratios(rates, one)) / (processes * threads)
        cores = f"{efficiency:.0%}" if processes * threads > 1 else None
        sent = statistics.median(each["sent"] for each in results[name])
        rate = round(statistics.median(rates))
        rows.append([name, rate, format_ratio(rates, one), cores, f"{sent / 2**20:.2f} MiB"])
    ratio = "ratio (min to max)"
    columns = ["", "images/s", ratio, "of two cores", "sent per step, over loopback"]
    setup = (
        f"{args.model}, {parameters:,.0f} parameters, global batch {BATCH}, {args.rounds} rounds"
    )
    report(args.record, columns, rows, setup)


if __name__ == "__main__":
    main()
