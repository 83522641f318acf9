"""What this machine can do at most: arithmetic, copying, decoding; and the limits that follow.

    python benchmarks/ceilings.py [--rounds 7]

Each figure is the best of its rounds (a ceiling is what the machine reached, not what it usually
does), with all threads. The limits are arithmetic alone: a step is three times the multiply-adds of
a forward pass, two operations each; nothing else is counted, so no program reaches them.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from resnets.data.decode.decode import Crop, decode
from resnets.models import build, catalog, cost
from resnets.utils import environment

NETS = ("cifar-resnet20", "cifar-resnet56", "cifar-resnet110", "resnet50")
SIDE = 2048


def best(action: Callable[[], object], rounds: int) -> float:
    """Least seconds of `rounds` calls, after one."""
    action()
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def product(dtype: torch.dtype, rounds: int) -> float:
    """Operations a second of a large matrix product."""
    if dtype == torch.int8:
        a, b = (torch.randint(-128, 128, (SIDE, SIDE), dtype=torch.int8) for _ in range(2))
        seconds = best(lambda: torch._int_mm(a, b), rounds)
    else:
        a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
        seconds = best(lambda: a @ b, rounds)
    return 2 * SIDE**3 / seconds


def copying(mebibytes: int, rounds: int) -> float:
    """Bytes read and written a second of a copy."""
    source = torch.zeros(mebibytes << 18)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best(lambda: target.copy_(source), rounds)


def decoding(rounds: int) -> float:
    """Pictures of 500 x 375 a second and core, to 224 x 224."""
    noise = np.random.default_rng(0).integers(0, 256, (47, 63, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=92)
    view = Crop(224, 3, lambda width, height: (0, 0, width, height))
    return 1 / best(lambda: decode(file.getvalue(), view, "picture"), 20 * rounds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    environment.tune_malloc()
    print(f"{environment.device_name(torch.device('cpu'))}, torch {torch.__version__}")
    peaks = {
        name: product(dtype, rounds)
        for name, dtype in (
            ("float32", torch.float32),
            ("bfloat16", torch.bfloat16),
            ("int8", torch.int8),
        )
    }
    for name, peak in peaks.items():
        print(f"{name + ' matrix product':<32}{peak / 1e9:>10,.0f} G operations/s")
    for size in (4, 256):
        print(f"{f'copy of {size} MiB':<32}{copying(size, rounds) / 1e9:>10,.1f} GB/s")
    print(f"{'JPEG of 500 x 375 to 224 px':<32}{decoding(rounds):>10,.0f} pictures/s and core")
    print(f"\n{'limits, pictures/s':<20}{'M multiply-adds':>16}", end="")
    print("".join(f"{text:>16}" for text in ("train float32", "train bfloat16", "predict int8")))
    for name in NETS:
        spec = catalog.spec(name)
        adds = cost.count_cost(build(spec), spec.input_size).multiply_adds
        limits = (
            peaks["float32"] / (6 * adds),
            peaks["bfloat16"] / (6 * adds),
            peaks["int8"] / (2 * adds),
        )
        print(f"{name:<20}{adds / 1e6:>16,.0f}" + "".join(f"{each:>16,.0f}" for each in limits))


if __name__ == "__main__":
    main()
