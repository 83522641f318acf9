"""Peak rates of this machine: arithmetic, copying and decoding, and the limits that follow.

    python benchmarks/ceilings.py [--rounds 7]

Each figure is the best of its rounds, with all threads. The limits count arithmetic only: a
training step is three times the multiply-adds of a forward pass, two operations each; everything
else is free, so no program reaches them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from jpeg_files import LARGE, encode, random_image
from timing import min_seconds

from resnets.data.decode.decode import Crop, decode
from resnets.models import build, catalog, cost
from resnets.utils.machine import environment

MODELS = ("cifar-resnet20", "cifar-resnet56", "cifar-resnet110", "resnet50")
MATRIX_SIZE = 2048


def matrix_product_rate(
    dtype: torch.dtype, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the operations per second of a large matrix product."""
    if dtype == torch.int8:
        a, b = (
            torch.randint(-128, 128, (MATRIX_SIZE, MATRIX_SIZE), dtype=torch.int8) for _ in range(2)
        )
        seconds = min_seconds(lambda: torch._int_mm(a, b), rounds, clock)
    else:
        a, b = (torch.randn(MATRIX_SIZE, MATRIX_SIZE).to(dtype) for _ in range(2))
        seconds = min_seconds(lambda: a @ b, rounds, clock)
    return 2 * MATRIX_SIZE**3 / seconds


def copy_rate(mebibytes: int, rounds: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the bytes read and written per second by a copy."""
    source = torch.zeros(mebibytes << 18)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min_seconds(lambda: target.copy_(source), rounds, clock)


def decode_rate(rounds: int) -> float:
    """Return images per second and core: JPEG of 500 x 375 px to 224 x 224 px."""
    data = encode(random_image(*LARGE))
    view = Crop(224, 3, lambda width, height: (0, 0, width, height))
    return 1 / min_seconds(lambda: decode(data, view, "image"), 20 * rounds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    environment.tune_malloc()
    print(f"{environment.device_name(torch.device('cpu'))}, torch {torch.__version__}")
    peaks = {
        name: matrix_product_rate(dtype, rounds)
        for name, dtype in (
            ("float32", torch.float32),
            ("bfloat16", torch.bfloat16),
            ("int8", torch.int8),
        )
    }
    for name, peak in peaks.items():
        print(f"{name + ' matrix product':<32}{peak / 1e9:>10,.0f} G operations/s")
    for size in (4, 256):
        print(f"{f'copy of {size} MiB':<32}{copy_rate(size, rounds) / 1e9:>10,.1f} GB/s")
    print(f"{'JPEG of 500 x 375 to 224 px':<32}{decode_rate(rounds):>10,.0f} images/s per core")
    print(f"\n{'limits, images/s':<20}{'M multiply-adds':>16}", end="")
    print("".join(f"{text:>16}" for text in ("train float32", "train bfloat16", "predict int8")))
    for name in MODELS:
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
