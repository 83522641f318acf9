"""CPU kernels of resnets and operators of torch, for each layer of a model.

    python benchmarks/kernels.py [--model cifar-resnet20|resnet50|...] [--rounds 7] [--threads 1]
        [--record kernels-avx512]

Each kind of layer of the model runs on random feature maps of its size, bfloat16, channels_last, in
turns with torch. Times are of processor time, so that other jobs disturb little. Prints the medians
of each layer and the ratio to torch's time, and the sums over all layers of the model, which
--record writes. docs/results/kernels.json joins the rows of two models.

weights: gradient of the weights of a convolution (torch: aten::convolution_backward)
norm:    batch norm, addition of the shortcut if there is one, and ReLU, forward and backward
         (torch: F.batch_norm, add, F.relu)
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from recording import Cell, make_parser, report
from timing import format_ratio
from torch import Tensor, nn

from resnets import create_model
from resnets.models.norm import BatchNormAct2d, use_cpu_kernels
from resnets.ops import conv_weight_grad
from resnets.utils.machine import environment


def layers(name: str, batch: int, size: int) -> Counter[tuple[object, ...]]:
    """Count the kinds of layers of a model: kernel, input shape and parameters."""
    model, counts = create_model(name, num_classes=10), Counter[tuple[object, ...]]()

    def count(module: nn.Module, inputs: tuple[Tensor | None, ...], _: Tensor) -> None:
        x, *shortcut = inputs
        if not isinstance(module, nn.BatchNorm2d | nn.Conv2d):
            return
        shape = (batch, *x.shape[1:])
        if isinstance(module, nn.BatchNorm2d):
            adds = bool(shortcut) and shortcut[0] is not None
            counts["norm", shape, adds] += 1
        elif conv_weight_grad.supports(module):
            counts[
                "weights", shape, module.out_channels, module.kernel_size[0], module.stride[0]
            ] += 1

    for module in model.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    return counts


def random_maps(*shape: int) -> Tensor:
    maps = torch.randn(shape, dtype=torch.bfloat16)
    return maps.contiguous(memory_format=torch.channels_last)


def weight_gradients(
    shape: tuple[int, ...], co: int, size: int, stride: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the weight gradient by torch, and by the kernel."""
    x, weight = random_maps(*shape), random_maps(co, shape[1], size, size)
    dy = random_maps(shape[0], co, *(-(-side // stride) for side in shape[2:]))
    options = ([stride] * 2, [size // 2] * 2, [1, 1], False, [0, 0], 1, [False, True, False])

    def by_torch() -> object:
        return torch.ops.aten.convolution_backward(dy, x, weight, None, *options)

    return by_torch, lambda: conv_weight_grad.weight_gradient(x, dy, weight, stride, size // 2)


def norms(shape: tuple[int, ...], adds: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return batch norm, addition and ReLU, forward and backward, by torch and by the kernel."""
    norm = BatchNormAct2d(shape[1]).train()
    use_cpu_kernels(norm)
    x, shortcut, dy = (random_maps(*shape).requires_grad_() for _ in range(3))
    inputs = [x, shortcut, norm.weight, norm.bias] if adds else [x, norm.weight, norm.bias]

    def by_torch() -> object:
        args = (norm.running_mean, norm.running_var, norm.weight, norm.bias, True, 0.1, 1e-5)
        y = F.batch_norm(x, *args)
        y = F.relu(y + shortcut if adds else y, inplace=True)
        return torch.autograd.grad(y, inputs, dy)

    def by_kernel() -> object:
        y = norm(x, shortcut if adds else None)
        return torch.autograd.grad(y, inputs, dy)

    return by_torch, by_kernel


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="cifar-resnet20")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    environment.tune_malloc()
    if not conv_weight_grad.has_kernel() or not use_cpu_kernels(nn.Identity()):
        raise SystemExit("the kernels need a C compiler and a processor that multiplies bfloat16")
    batch, size = (128, 32) if args.model.startswith("cifar-") else (16, 224)
    totals: dict[str, list[list[float]]] = {}
    each_layer: list[list[Cell]] = []
    for (kind, shape, *rest), count in layers(args.model, batch, size).items():
        pair = (weight_gradients if kind == "weights" else norms)(shape, *rest)
        times: list[list[float]] = [[], []]
        for number in range(args.rounds + 1):
            for run, seconds in zip(pair, times, strict=True):
                start = time.process_time()
                run()
                seconds += [time.process_time() - start] if number else []
        by_torch, by_kernel = map(statistics.median, times)
        layer = f"{kind} {'x'.join(map(str, shape))} {' '.join(map(str, rest))}, {count} times"
        milliseconds = [round(1e3 * each, 2) for each in (by_torch, by_kernel)]
        each_layer.append([layer, *milliseconds, round(by_kernel / by_torch, 2)])
        sums = totals.setdefault(str(kind), [[0.0] * args.rounds, [0.0] * args.rounds])
        for total, seconds in zip(sums, times, strict=True):
            total[:] = [one + count * other for one, other in zip(total, seconds, strict=True)]
    report(None, ["", "torch, ms", "resnets", "share"], each_layer)
    names = {"norm": "norms of {}, forward and backward", "weights": "weight gradients of {}"}
    rows = [
        [
            names[kind].format(args.model),
            *(round(1e3 * statistics.median(each), 1) for each in (by_torch, by_kernel)),
            format_ratio(by_kernel, by_torch),
        ]
        for kind, (by_torch, by_kernel) in sorted(totals.items())
    ]
    columns = ["", "torch, ms per step", "resnets", "share (min to max)"]
    setup = f"torch {torch.__version__}, batch size {batch}, {size} px, CPU time"
    report(args.record, columns, rows, setup)


if __name__ == "__main__":
    main()
