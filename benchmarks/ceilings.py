"""Peak rates of this machine: arithmetic, copying and decoding, and the limits that follow.

    python benchmarks/ceilings.py [--rounds 7] [--record ceilings]

Each figure is the best of its rounds, with all threads. The limits count arithmetic only: a
training step is three times the multiply-adds of a forward pass, two operations each; everything
else is free, so no program reaches them. --record writes the rates.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from jpeg_files import LARGE, encode, random_image
from recording import Cell, make_parser, report
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
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    rounds = args.rounds
    environment.tune_malloc()
    types = (torch.float32, torch.bfloat16, torch.int8)
    peaks = {dtype: matrix_product_rate(dtype, rounds) for dtype in types}
    rows: list[list[Cell]] = [
        [
            f"matrix product, {str(dtype).removeprefix('torch.')}",
            round(rate / 1e9),
            "G operations/s",
        ]
        for dtype, rate in peaks.items()
    ]
    for name, size in (("copy within caches", 4), ("copy beyond them", 256)):
        rows.append([name, round(copy_rate(size, rounds) / 1e9, 1), "GB/s"])
    rows.append(["JPEGs of 500 x 375 px, one core", round(decode_rate(rounds)), "images/s"])
    report(args.record, ["limit", "rate", "unit"], rows, f"torch {torch.__version__}")
    columns = ["limits, images/s", "M multiply-adds", "train float32", "train bfloat16"]
    report(None, [*columns, "predict int8"], [_limits(name, peaks) for name in MODELS])


def _limits(name: str, peaks: dict[torch.dtype, float]) -> list[Cell]:
    spec = catalog.spec(name)
    adds = cost.count_cost(build(spec), spec.input_size).multiply_adds
    operations = {torch.float32: 6 * adds, torch.bfloat16: 6 * adds, torch.int8: 2 * adds}
    limits = (round(peaks[dtype] / count) for dtype, count in operations.items())
    return [name, round(adds / 1e6), *limits]


if __name__ == "__main__":
    main()
