"""The least time of a training step on a CPU: arithmetic and bytes moved, layer by layer.

    python benchmarks/roofline.py [--rounds 7] [--record roofline]

As a script it measures the rates; train_step.py computes the limit of a model from them.
A layer takes the longer of two times: its operations at the rate of a large matrix product, and its
bytes at the rate of a copy. In each pass a layer reads its inputs once and writes its outputs once,
maps in bfloat16; a program that joins layers so that a map never leaves the registers moves fewer
bytes, all others move more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from ceilings import copy_rate, matrix_product_rate
from recording import Cell, make_parser, report
from torch import Tensor, nn

from resnets.models.cost import UNCOUNTED
from resnets.utils.machine import environment

BFLOAT16, FLOAT32 = 2, 4  # bytes
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class LayerLoad:
    """Operations and bytes of one layer in a training step; `forward_bytes` of its forward pass."""

    name: str
    operations: int
    forward_bytes: int
    bytes: int


@dataclass(frozen=True)
class Peaks:
    """Rates of a machine.

    operations: per second, of a matrix product in bfloat16. cache, memory: bytes per second of a
    copy of up to `cache_bytes`, and of a larger one.
    """

    operations: float
    cache: float
    memory: float
    cache_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.operations / 1e9:,.0f} G operations/s, {self.cache / 1e9:.0f} GB/s up to"
            f" {self.cache_bytes >> 20} MiB, {self.memory / 1e9:.0f} beyond"
        )


def measure_peaks(rounds: int, clock: Callable[[], float] = time.perf_counter) -> Peaks:
    """Measure the rates with torch's threads; `cache_bytes` is the size of the last-level cache."""
    environment.tune_malloc()
    return Peaks(
        matrix_product_rate(torch.bfloat16, rounds, clock),
        copy_rate(4, rounds, clock),
        copy_rate(256, rounds, clock),
        max((_kibibytes(file) << 10 for file in CACHES.glob("index*/size")), default=32 << 20),
    )


def _kibibytes(file: Path) -> int:
    return int(file.read_text().strip().removesuffix("K"))


def layer_loads(model: nn.Module, batch: int, size: int) -> list[LayerLoad]:
    """Return what each layer does in a step of `batch` images, and last what the optimizer does."""
    loads: list[LayerLoad] = []
    images = torch.zeros(1, 3, size, size)

    def record(name: str, layer: nn.Module, inputs: Sequence[object], output: Tensor) -> None:
        maps = [each for each in inputs if isinstance(each, Tensor)]
        read, written = (batch * sum(each.numel() for each in group) for group in (maps, [output]))
        if isinstance(layer, nn.Conv2d | nn.Linear):
            first = maps[0] is images
            loads.append(product_load(name, layer, read, written, needs_input_gradient=not first))
            return
        relu = isinstance(layer, nn.BatchNorm2d) and getattr(layer, "relu", False)
        loads.append(map_load(name, read, written, isinstance(layer, nn.BatchNorm2d), relu))

    handles = [
        layer.register_forward_hook(
            lambda layer, inputs, output, name=name: record(name, layer, inputs, output)
        )
        for name, layer in model.named_modules()
        if not any(layer.children()) and not isinstance(layer, UNCOUNTED)
    ]
    with torch.no_grad():
        model.eval()(images)
    for handle in handles:
        handle.remove()
    parameters = sum(each.numel() for each in model.parameters())
    # SGD reads weight, gradient and momentum and writes two; weights are rounded once per step.
    moved = parameters * (5 * FLOAT32 + FLOAT32 + BFLOAT16)
    return [*loads, LayerLoad("optimizer", 0, moved, moved)]


def product_load(
    name: str, layer: nn.Conv2d | nn.Linear, read: int, written: int, *, needs_input_gradient: bool
) -> LayerLoad:
    """Return the load of a convolution or linear layer of `read` inputs and `written` outputs.

    Three products, each of two of the input, the output and the weights, or two in the first layer.
    """
    weights = layer.weight.numel()
    operations = 2 * layer.weight[0].numel() * written
    forward = BFLOAT16 * (read + weights + written)
    of_weights = BFLOAT16 * (read + written) + FLOAT32 * weights
    of_input = forward if needs_input_gradient else 0
    passes = 3 if needs_input_gradient else 2
    return LayerLoad(name, passes * operations, forward, forward + of_weights + of_input)


def map_load(name: str, read: int, written: int, is_norm: bool, relu: bool) -> LayerLoad:
    """Return the load of a layer without products, `read` including the shortcut of a norm.

    The gradient of a norm needs the input too, and that of ReLU the output.
    """
    forward = BFLOAT16 * (read + written)
    backward = forward + BFLOAT16 * written * (is_norm + relu)
    return LayerLoad(name, 0, forward, forward + backward)


def least_seconds(loads: Sequence[LayerLoad], peaks: Peaks) -> float:
    """Return the sum over the layers of the longer of the times of arithmetic and of bytes."""
    seconds = 0.0
    for load in loads:
        rate = peaks.cache if load.forward_bytes <= peaks.cache_bytes else peaks.memory
        seconds += max(load.operations / peaks.operations, load.bytes / rate)
    return seconds


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    peaks = measure_peaks(args.rounds)
    last = f"{peaks.cache_bytes >> 20} MiB of the last cache"
    rows: list[list[Cell]] = [
        ["large matrix product, bfloat16", round(peaks.operations / 1e9), "G operations/s"],
        [f"copy up to the {last}", round(peaks.cache / 1e9), "GB/s"],
        ["copy beyond it", round(peaks.memory / 1e9), "GB/s"],
    ]
    report(args.record, ["limit", "rate", "unit"], rows, f"torch {torch.__version__}")


if __name__ == "__main__":
    main()
