"""One process against two on the same cores: pictures a second, efficiency, bytes sent.

    python benchmarks/scaling.py [--net cifar-resnet20] [--rounds 5] [--steps 30]

What two cores can show: how much of the second core a second process turns into pictures, and what
the exchange of gradients over loopback costs. What they cannot: a network between machines, GPUs.
All train the same net on the same global batch (128 random pictures in memory), as
`resnets train` does. Rounds are interleaved; each arm starts its processes anew.
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

# Name, processes, threads each, gradients sent as bfloat16.
ARMS = (
    ("1 process, 1 thread", 1, 1, False),
    ("1 process, 2 threads", 1, 2, False),
    ("2 processes, 1 thread each", 2, 1, False),
    ("the same, gradients in bfloat16", 2, 1, True),
)
BATCH = 128


def loopback_bytes() -> int:
    """Bytes that this machine has sent to itself so far."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split()[9]) for line in lines if line.strip().startswith("lo:"))


def work(net_name: str, steps: int, compress: bool) -> None:
    """One process of an arm; the first prints seconds a step and bytes a step."""
    import torch
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
    from torch.nn.parallel import DistributedDataParallel

    from resnets.config import AugmentSpec, DataSpec, Recipe
    from resnets.data import TensorSplit, TrainStream, fit_preprocess
    from resnets.models import build, catalog
    from resnets.models.norm import use_cpu_kernels
    from resnets.train.data_parallel import DataParallelModel
    from resnets.train.loss import classification_loss
    from resnets.train.state import new_state
    from resnets.train.step import TrainStep
    from resnets.utils import environment
    from resnets.utils.distributed import init_distributed
    from resnets.utils.precision import pick_precision

    environment.tune_malloc()
    spec = catalog.spec(net_name, num_classes=10)
    images = torch.randint(0, 256, (1024, spec.input_size, spec.input_size, 3), dtype=torch.uint8)
    labels, classes = torch.arange(1024) % 10, tuple("abcdefghij")
    split = TensorSplit(images, labels, classes, "random pictures")
    recipe = Recipe(
        model=spec, data=DataSpec(augment=AugmentSpec(crop="pad", flip=True)), batch_size=BATCH
    )
    with init_distributed("cpu") as rank:
        net = build(spec).to(memory_format=torch.channels_last)
        use_cpu_kernels(net)
        preprocessor = fit_preprocess(split, recipe.data, 3)
        cpu = torch.device("cpu")
        batches = TrainStream(split, recipe.data, preprocessor, BATCH, 0, cpu, rank=rank).batches()
        state, forward = new_state(net, recipe, 1000), DataParallelModel(net, rank)
        bf16 = pick_precision("auto", cpu) == "bfloat16"
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
        forward.prepare()
        if compress:
            assert isinstance(forward.module, DistributedDataParallel)
            forward.module.register_comm_hook(None, bf16_compress_hook)
        train_step = TrainStep(state, forward, classification_loss(), autocast, recipe)
        sent, begin = 0, 0.0
        for step in range(steps + 3):
            if step == 3:
                rank.any(flag=False)
                sent, begin = loopback_bytes(), time.perf_counter()
            train_step(next(batches))
        rank.any(flag=False)
        seconds, sent = time.perf_counter() - begin, loopback_bytes() - sent
        if rank.is_main:
            numbers = sum(each.numel() for each in net.parameters())
            found = {"rate": BATCH * steps / seconds, "sent": sent / steps, "numbers": numbers}
            print(json.dumps(found))


def measure(net: str, steps: int, processes: int, threads: int, compress: bool) -> dict[str, float]:
    """Start an arm and read what its first process prints."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = [__file__, "--work", "--net", net, "--steps", str(steps)]
    done = subprocess.run(
        [sys.executable, *launch, *words, *(["--compress"] if compress else [])],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--net", default="cifar-resnet20")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--compress", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.net, given.steps, given.compress)
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name, *_ in ARMS}
    for number in range(given.rounds):
        for name, *arm in ARMS:
            found[name].append(measure(given.net, given.steps, *arm))
            rate = found[name][-1]["rate"]
            print(f"round {number + 1}: {name}: {rate:,.0f} images/s", file=sys.stderr)
    one = [each["rate"] for each in found[ARMS[0][0]]]
    numbers = found[ARMS[0][0]][0]["numbers"]
    print(f"{given.net}, global batch {BATCH}, {numbers:,.0f} parameters, {given.rounds} rounds")
    print(
        f"{'':<34}{'images/s':>9}  {'x 1 process, 1 thread':<26}{'efficiency':>11}{'sent/step':>11}"
    )
    for name, processes, threads, _ in ARMS:
        rates = [each["rate"] for each in found[name]]
        ratios = [rate / base for rate, base in zip(rates, one, strict=True)]
        sent = statistics.median(each["sent"] for each in found[name])
        ratio = statistics.median(ratios)
        spread = f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        efficiency = f"{ratio / (processes * threads):.0%}"
        print(
            f"{name:<34}{statistics.median(rates):>9,.0f}  {spread:<26}{efficiency:>11}"
            f"{sent / 2**20:>7.2f} MiB"
        )


if __name__ == "__main__":
    main()
